use culvert_engine::transfer::error::TransferError;
use culvert_engine::transfer::manifest_exchange::canceled;
use culvert_model::record::Role;
use culvert_model::request::{Movement, Target, TransferRequest};
use culvert_protocol::control::{Options, PAUSES_ARE_TOLD_SINCE, Refusal, RefusalCode};

use super::*;

/// The transfer of most tests.
const ID: TransferId = TransferId::new(1, 7);

/// A record of [`ID`].
pub(super) fn record(state: RecordState, partner: &str, ended: u64) -> TransferRecord {
    TransferRecord {
        transfer: ID.to_string(),
        role: Role::Receive,
        partner: partner.to_owned(),
        description: String::new(),
        state,
        created_unix_ms: 0,
        ended_unix_ms: Some(ended),
        attempts: 1,
        result: None,
        error: None,
        request: None,
        progress: None,
    }
}

pub(super) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// A record of [`ID`] that this node's user requested.
fn own_record() -> TransferRecord {
    let request = TransferRequest {
        target: Target::Profile("a".to_owned()),
        movement: Movement::Measure { bytes: 1 },
        options: Options::default(),
        retries: None,
    };
    TransferRecord { request: Some(request), ..record(RecordState::Queued, "a", 0) }
}

fn registry() -> (tempfile::TempDir, StateDirectory, Registry) {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDirectory::open(directory.path().join("state")).unwrap();
    let registry = Registry::open(state.clone()).unwrap();
    (directory, state, registry)
}

#[test]
fn a_partner_cannot_take_over_the_id_of_anothers_transfer() {
    //= W-44
    //# The id in a `Request` must not be that of another partner's transfer or of a running one.
    let (_directory, _, registry) = registry();
    run(async {
        let id = ID;
        let begin = async |partner| registry.begin_for_partner(id, record(RecordState::Active, partner, 0)).await;
        let live = begin("a").await.unwrap();
        assert_eq!(begin("b").await.unwrap_err().code, RefusalCode::Protocol);
        assert_eq!(begin("a").await.unwrap_err().code, RefusalCode::Temporary);
        drop(live);
        registry.fail(id, &TransferError::protocol("a test")).await.unwrap();
        assert!(begin("a").await.is_ok());
    });
}

/// The partner's record said 1, however often the requester retried.
#[test]
fn a_partners_requests_under_one_id_count_as_attempts_of_one_transfer() {
    let (_directory, state, registry) = registry();
    let begin =
        async |registry: &Registry| registry.begin_for_partner(ID, record(RecordState::Active, "a", 0)).await.map(drop);
    let attempts = |registry: &Registry| registry.get(ID).unwrap().attempts;
    run(async {
        begin(&registry).await.unwrap();
        assert_eq!(attempts(&registry), 1);
        assert!(begin(&registry).await.is_err(), "a refused request is no attempt");
        assert_eq!(attempts(&registry), 1);
        registry.fail(ID, &TransferError::protocol("a test")).await.unwrap();
        begin(&registry).await.unwrap();
        assert_eq!(attempts(&registry), 2);
        registry.fail(ID, &TransferError::protocol("a test")).await.unwrap();
        registry.settle().await;
    });
    // Also after a restart of the node.
    let registry = Registry::open(state).unwrap();
    run(begin(&registry)).unwrap();
    assert_eq!(attempts(&registry), 3);
}

#[test]
fn a_partner_is_told_why_a_transfer_stops_as_far_as_its_version_knows() {
    //= W-58
    //# The refusal code `interrupted` is also new in version 7 and means that the requester has
    //# paused the transfer; partners of older versions get `canceled`.
    let (_directory, _, registry) = registry();
    let canceled = || Refusal::new(RefusalCode::Canceled, "canceled");
    run(async {
        let live = registry.begin(ID, own_record()).await.unwrap();
        assert_eq!(registry.told(ID, canceled(), PAUSES_ARE_TOLD_SINCE).code, RefusalCode::Canceled);
        assert!(registry.pause(ID) && *live.cancel.borrow());
        assert_eq!(registry.told(ID, canceled(), PAUSES_ARE_TOLD_SINCE).code, RefusalCode::Interrupted);
        assert_eq!(registry.told(ID, canceled(), PAUSES_ARE_TOLD_SINCE - 1).code, RefusalCode::Canceled);
        let other = Refusal::new(RefusalCode::NoSpace, "full");
        assert_eq!(registry.told(ID, other, PAUSES_ARE_TOLD_SINCE).code, RefusalCode::NoSpace);
        assert!(registry.cancel(ID).await, "a transfer that is being paused may be canceled");
        assert_eq!(registry.told(ID, canceled(), PAUSES_ARE_TOLD_SINCE).code, RefusalCode::Canceled);
    });
}

/// A pause that came after the cancellation left the transfer paused.
#[test]
fn a_pause_does_not_override_a_cancellation() {
    let (_directory, _, registry) = registry();
    run(async {
        drop(registry.begin(ID, own_record()).await.unwrap());
        assert!(registry.pause(ID) && registry.pause(ID), "pausing twice is pausing");
        assert!(registry.cancel(ID).await);
        assert!(!registry.pause(ID));
        registry.fail(ID, &canceled()).await.unwrap();
        assert_eq!(registry.get(ID).unwrap().state, RecordState::Canceled);
    });
}

/// It became queued again, which is a broken invariant.
#[test]
fn a_transfer_that_has_ended_does_not_go_on() {
    let (_directory, _, registry) = registry();
    run(async {
        assert!(registry.go_on(ID).is_none(), "there is no record");
        drop(registry.begin(ID, own_record()).await.unwrap());
        assert!(registry.go_on(ID).is_none() && registry.under_way() == [ID], "it runs already, and keeps running");
        registry.fail(ID, &TransferError::protocol("a test")).await.unwrap();
        let ended = registry.get(ID).unwrap();
        assert!(registry.go_on(ID).is_none());
        assert_eq!(registry.get(ID).unwrap(), ended);
        assert!(registry.under_way().is_empty(), "nothing holds the transfer");
        assert!(registry.begin(ID, own_record()).await.is_ok());
    });
}

/// The record was in memory before it was on disk, and the id counted as running until the node was
/// restarted.
#[test]
fn a_transfer_that_cannot_be_recorded_has_not_started_and_may_start_later() {
    let (_directory, state, registry) = registry();
    let id = ID;
    let begin = || registry.begin_for_partner(id, record(RecordState::Active, "a", 0));
    let take_disk_away = || std::fs::rename(state.path("transfers"), state.path("away")).unwrap();
    let bring_disk_back = || std::fs::rename(state.path("away"), state.path("transfers")).unwrap();
    run(async {
        take_disk_away();
        assert_eq!(begin().await.map(drop).unwrap_err().code, RefusalCode::Failed);
        assert!(registry.get(id).is_none() && registry.list().is_empty());
        assert!(registry.begin(id, record(RecordState::Queued, "a", 0)).await.is_err());
        bring_disk_back();
        let live = begin().await.unwrap();
        drop(live);
        // An earlier record stays as it was.
        registry.fail(id, &TransferError::protocol("a test")).await.unwrap();
        let before = registry.get(id).unwrap();
        take_disk_away();
        assert!(begin().await.is_err());
        bring_disk_back();
        assert_eq!(registry.get(id).unwrap(), before);
    });
}

/// The end of a transfer that could not be written left it running forever.
#[test]
fn a_transfer_whose_end_cannot_be_written_has_ended_and_is_written_later() {
    let (_directory, state, registry) = registry();
    let id = ID;
    run(async {
        let begin = || registry.begin_for_partner(id, record(RecordState::Active, "a", 0));
        drop(begin().await.unwrap());
        std::fs::rename(state.path("transfers"), state.path("away")).unwrap();
        assert!(registry.fail(id, &TransferError::protocol("a test")).await.is_err());
        let ended = registry.get(id).unwrap();
        assert_eq!((ended.state, ended.progress), (RecordState::Failed, None));
        std::fs::rename(state.path("away"), state.path("transfers")).unwrap();
        let is_written = || Registry::open(state.clone()).unwrap().get(id).is_some_and(|now| now.state == ended.state);
        while !is_written() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert!(begin().await.is_ok());
    });
}

#[test]
fn a_record_of_a_newer_program_is_left_as_it_is_and_its_id_is_not_used() {
    let (_directory, state, _) = registry();
    let id = ID;
    let newer = br#"{"version": 2, "what": "is not known yet"}"#;
    state.write(file_of(id), newer).unwrap();
    let registry = Registry::open(state.clone()).unwrap();
    let sentences = registry.left_alone();
    assert!(
        matches!(&*sentences, [one] if one.contains("version 2") && one.contains("left as it is")),
        "{sentences:?}"
    );
    run(async {
        assert!(registry.begin_for_partner(id, record(RecordState::Active, "a", 0)).await.is_err());
        assert!(registry.begin(id, record(RecordState::Queued, "a", 0)).await.is_err());
        assert!(!registry.cancel(id).await);
    });
    assert_eq!(state.read(file_of(id)).unwrap().unwrap(), newer);
}

/// A node that died between writing a receipt and its record had only one of them.
#[test]
fn a_receipt_without_a_file_of_its_own_is_written_at_the_next_start() {
    let (_directory, state, registry) = registry();
    let id = ID;
    let bytes = registry.bytes_of(id, &record(RecordState::Succeeded, "a", 5), Some("the receipt")).unwrap();
    state.write(file_of(id), &bytes).unwrap();
    let registry = Registry::open(state.clone()).unwrap();
    let transfer = id.to_string();
    assert_eq!(registry.get(id).unwrap(), TransferRecord { transfer, ..record(RecordState::Succeeded, "a", 5) });
    // The writer completes what was queued.
    drop(registry);
    while state.read(receipt_file_of(id)).unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(state.read(receipt_file_of(id)).unwrap().unwrap(), b"the receipt");
}

#[test]
fn a_record_without_a_version_is_of_the_first() {
    let (_directory, state, _) = registry();
    let id = ID;
    let old = serde_json::to_vec(&record(RecordState::Failed, "a", 5)).unwrap();
    state.write(file_of(id), &old).unwrap();
    let registry = Registry::open(state.clone()).unwrap();
    let transfer = id.to_string();
    assert_eq!(registry.get(id).unwrap(), TransferRecord { transfer, ..record(RecordState::Failed, "a", 5) });
    drop(
        run(registry
            .begin_for_partner(id, TransferRecord { ended_unix_ms: None, ..record(RecordState::Active, "a", 0) }))
        .unwrap(),
    );
    let written: serde_json::Value = serde_json::from_slice(&state.read(file_of(id)).unwrap().unwrap()).unwrap();
    assert_eq!((&written["version"], &written["state"]), (&1.into(), &"active".into()));
}
