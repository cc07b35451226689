//! Orders about a node's transfers: pause, resume, restart, cancel.
//!
//! The node answers an order at once, and a transfer needs a moment to stop. `pause` and `cancel`
//! therefore wait for the transfer's state, so that scripts can rely on it.

use std::time::Duration;

use culvert_model::exit_code::ExitCode;
use culvert_model::record::{RecordState, TransferRecord};
use culvert_state::StateDirectory;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::api_client::ApiClient;
use crate::exit::CommandError;
use crate::report::print_json;
use crate::transfer::following::FollowedTransfer;
use crate::transfer::lookup::id_of;

/// How often the node is asked for the transfer's state.
const POLL: Duration = Duration::from_millis(50);
/// How long `cancel` waits. A transfer may hang on a disk, or be hashing a large file.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

/// Resumes or restarts a transfer, as `what` says.
pub async fn order(state: &StateDirectory, id: &str, what: &str, json: bool) -> Result<ExitCode, CommandError> {
    let api = ApiClient::need(state).await?;
    let id = &id_of(state, id).await?;
    api.order(id, what).await?;
    if json {
        print_state(&api.transfer(id).await?)?;
    }
    Ok(ExitCode::Done)
}

/// Pauses a transfer and waits until it has stopped.
pub async fn pause(
    state: &StateDirectory,
    id: &str,
    json: bool,
    quiet: bool,
    followed: &FollowedTransfer,
) -> Result<ExitCode, CommandError> {
    let api = ApiClient::need(state).await?;
    let id = &id_of(state, id).await?;
    report_if_already(&api, id, RecordState::Paused, quiet).await?;
    api.order(id, "pause").await?;
    loop {
        let record = api.transfer(id).await?;
        followed.note(&record);
        if has_stopped_as(&record, RecordState::Paused) {
            if json {
                print_state(&record)?;
            }
            return Ok(ExitCode::Done);
        }
        refuse_if_ended(&record, "paused")?;
        tokio::time::sleep(POLL).await;
    }
}

/// Cancels a transfer. Waits until it is canceled, for at most [`CANCEL_WAIT`].
pub async fn cancel(
    state: &StateDirectory,
    id: &str,
    json: bool,
    quiet: bool,
    followed: &FollowedTransfer,
) -> Result<ExitCode, CommandError> {
    let api = ApiClient::need(state).await?;
    let id = &id_of(state, id).await?;
    let before = report_if_already(&api, id, RecordState::Canceled, quiet).await?;
    api.cancel(id).await?;
    let record = wait_until_canceled(&api, before, CANCEL_WAIT, followed).await?;
    if record.state != RecordState::Canceled && !quiet {
        say_aside!(
            "culvert: cancellation of transfer {id} was requested and is under way; 'culvert transfer wait {id}' \
             waits until it has ended"
        );
    }
    if json {
        print_state(&record)?;
    }
    Ok(ExitCode::Done)
}

/// Waits until a transfer that was asked to stop is canceled, for at most `patience`, after which
/// it returns the last known record. `last` is the record from before the order.
async fn wait_until_canceled(
    api: &ApiClient,
    mut last: TransferRecord,
    patience: Duration,
    followed: &FollowedTransfer,
) -> Result<TransferRecord, CommandError> {
    let deadline = Instant::now() + patience;
    followed.note(&last);
    loop {
        let Ok(polled) = timeout_at(deadline, poll_canceled(api, &last.transfer)).await else { return Ok(last) };
        last = polled.map_err(|error| end_unknown(&last, &error))?;
        followed.note(&last);
        if has_stopped_as(&last, RecordState::Canceled) {
            return Ok(last);
        }
        refuse_if_ended(&last, "canceled")?;
        sleep_until(deadline.min(Instant::now() + POLL)).await;
    }
}

/// A transfer's record. Cancels the transfer again if a pause ended it before the first order took
/// effect.
async fn poll_canceled(api: &ApiClient, id: &str) -> Result<TransferRecord, CommandError> {
    let record = api.transfer(id).await?;
    if has_stopped_as(&record, RecordState::Paused) {
        api.cancel(id).await?;
    }
    Ok(record)
}

/// The error if the node accepted the cancellation of a transfer but does not report its end.
fn end_unknown(last: &TransferRecord, error: &CommandError) -> CommandError {
    // The transfer existed: "not found" would tell scripts that there was nothing to cancel.
    let code = ExitCode::of(error.exit_code).filter(|code| *code != ExitCode::NotFound).unwrap_or(ExitCode::Failed);
    let id = &last.transfer;
    let text = format!("cancellation of transfer {id} was requested, but its end is not known: {error}");
    CommandError::from_other_process(code, text).of_transfer(id)
}

/// Whether a transfer has stopped in a state. A record with progress belongs to one that is still
/// stopping.
fn has_stopped_as(record: &TransferRecord, state: RecordState) -> bool {
    record.state == state && record.progress.is_none()
}

fn refuse_if_ended(record: &TransferRecord, what: &str) -> Result<(), CommandError> {
    let (id, state) = (&record.transfer, record.state);
    if !state.is_final() || (state == RecordState::Canceled && what == "canceled") {
        return Ok(());
    }
    Err(CommandError::failed(format!("transfer {id} has ended ({}) before it could be {what}", state.word())))
}

/// Reports an order that changes nothing. Returns the transfer's record.
async fn report_if_already(
    api: &ApiClient,
    id: &str,
    wanted: RecordState,
    quiet: bool,
) -> Result<TransferRecord, CommandError> {
    let record = api.transfer(id).await?;
    if has_stopped_as(&record, wanted) && !quiet {
        say_aside!("culvert: transfer {id} is already {}", wanted.word());
    }
    Ok(record)
}

/// Prints the state of a transfer after an order.
fn print_state(record: &TransferRecord) -> Result<(), CommandError> {
    print_json(&serde_json::json!({ "transfer": record.transfer, "state": record.state }))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;

    use culvert_model::record::Role;
    use culvert_protocol::control::TransferId;

    use super::*;

    const ID: TransferId = TransferId::new(1, 7);
    const LONG: Duration = Duration::from_secs(60);

    /// An answer of the stand-in for a node's API.
    #[derive(Clone, Copy)]
    enum Answer {
        /// The transfer's record in a state.
        State(RecordState),
        /// There is no such transfer.
        NotFound,
        /// The connection stays open without an answer.
        Silence,
        /// The connection is closed without an answer.
        Gone,
    }

    use Answer::{Gone, NotFound, Silence, State};

    fn record(state: RecordState) -> TransferRecord {
        TransferRecord::new(ID, Role::Send, "lab", "a → b".to_owned(), state, 0)
    }

    /// Answers requests on the socket of a node's API: with each of `answers` once, and with the
    /// last one from then on. Returns the requests' first lines.
    fn serve(listener: UnixListener, answers: Vec<Answer>) -> mpsc::Receiver<String> {
        let (lines, received) = mpsc::channel();
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            let mut served = 0;
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = [0; 1 << 10];
                // The client connects once without a request.
                let length = stream.read(&mut head).unwrap();
                if length == 0 {
                    continue;
                }
                let _ = lines.send(String::from_utf8_lossy(&head[..length]).lines().next().unwrap().to_owned());
                let answer = answers[served.min(answers.len() - 1)];
                served += 1;
                let (status, body) = match answer {
                    State(state) => ("200 OK", serde_json::to_string(&record(state)).unwrap()),
                    NotFound => ("404 Not Found", r#"{"code":"not_found","text":"there is no transfer"}"#.to_owned()),
                    Silence => {
                        silent.push(stream);
                        continue;
                    }
                    Gone => continue,
                };
                let length = body.len();
                write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
                    .unwrap();
            }
        });
        received
    }

    /// What the wait for the end of an accepted cancellation returned, what is known of the
    /// transfer, and the requests that were sent.
    struct Waited {
        result: Result<RecordState, CommandError>,
        followed: FollowedTransfer,
        requests: Vec<String>,
    }

    async fn node(answers: Vec<Answer>) -> (ApiClient, mpsc::Receiver<String>, tempfile::TempDir) {
        let room = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(room.path()).unwrap();
        let lines = serve(UnixListener::bind(state.path("api.sock")).unwrap(), answers);
        (ApiClient::connect(&state).await.unwrap().unwrap(), lines, room)
    }

    async fn wait(answers: Vec<Answer>, patience: Duration) -> Waited {
        let (api, lines, _room) = node(answers).await;
        let followed = FollowedTransfer::default();
        let result = wait_until_canceled(&api, record(RecordState::Active), patience, &followed).await;
        Waited { result: result.map(|record| record.state), followed, requests: lines.try_iter().collect() }
    }

    /// `cancel` returned while the transfer was still running.
    #[tokio::test(flavor = "current_thread")]
    async fn cancel_waits_for_the_state_for_a_bounded_time() {
        use RecordState::{Active, Canceled, Succeeded};
        let canceled = async |answers, patience| wait(answers, patience).await.result;
        assert_eq!(
            canceled(vec![State(Active), State(Active), State(Active), State(Canceled)], LONG).await.unwrap(),
            Canceled
        );
        let began = Instant::now();
        assert_eq!(canceled(vec![State(Active)], 4 * POLL).await.unwrap(), Active, "the transfer hangs");
        assert!(began.elapsed() >= 4 * POLL);
        let waited = wait(vec![State(Active), State(Succeeded)], LONG).await;
        let error = waited.followed.explain(waited.result.unwrap_err());
        assert!(error.text.contains("has ended (succeeded) before it could be canceled"), "{error}");
        assert_eq!(serde_json::to_value(error.answer()).unwrap()["state"], "failed", "it does not continue");
    }

    /// The wait for a node that accepted connections and did not answer had no end.
    #[tokio::test(flavor = "current_thread")]
    async fn a_node_that_does_not_answer_does_not_prolong_the_wait() {
        let waiting = tokio::time::timeout(LONG, wait(vec![State(RecordState::Queued), Silence], 4 * POLL));
        let waited = waiting.await.expect("the wait is bounded");
        assert_eq!(waited.result.unwrap(), RecordState::Queued, "the last known state");
    }

    /// A record that was evicted after the order was accepted ended the command with 3, as if there
    /// had been nothing to cancel.
    #[tokio::test(flavor = "current_thread")]
    async fn an_accepted_cancellation_whose_end_is_not_known_is_no_missing_transfer() {
        let cases = [
            (NotFound, ExitCode::Failed, "there is no transfer"),
            (Gone, ExitCode::Temporary, "the node does not answer"),
        ];
        for (answer, code, reason) in cases {
            let waited = wait(vec![State(RecordState::Active), answer], LONG).await;
            let error = waited.followed.explain(waited.result.unwrap_err());
            assert_eq!(error.exit_code, code as u8, "{error}");
            let text = format!("cancellation of transfer {ID} was requested, but its end is not known: {reason}");
            assert!(error.text.starts_with(&text), "{error}");
            let json = serde_json::to_value(error.answer()).unwrap();
            assert_eq!((&json["transfer"], &json["error"]["code"]), (&ID.to_string().into(), &code.word().into()));
        }
    }

    /// A transfer whose pause was recorded at the moment of the order stayed paused.
    #[tokio::test(flavor = "current_thread")]
    async fn a_transfer_that_was_paused_meanwhile_is_canceled_again() {
        use RecordState::{Active, Canceled, Paused};
        let waited = wait(vec![State(Active), State(Paused), State(Canceled)], LONG).await;
        assert_eq!(waited.result.unwrap(), Canceled);
        let orders: Vec<_> = waited.requests.iter().filter(|line| line.starts_with("POST ")).collect();
        assert_eq!(orders, [&format!("POST /v1/transfers/{ID}/cancel HTTP/1.1")]);
    }

    /// `--json` reported a transfer as canceled when only the wait had been interrupted.
    #[tokio::test(flavor = "current_thread")]
    async fn an_interrupted_wait_reports_the_last_known_state() {
        for (answers, state) in [(vec![State(RecordState::Queued)], "queued"), (vec![Silence], "active")] {
            let (api, _lines, _room) = node(answers).await;
            let followed = FollowedTransfer::default();
            tokio::select! {
                _ = wait_until_canceled(&api, record(RecordState::Active), LONG, &followed) => panic!("it is not canceled"),
                () = tokio::time::sleep(4 * POLL) => {}
            }
            let error = followed.explain(CommandError::new(ExitCode::Interrupted, "interrupted"));
            let json = serde_json::to_value(error.answer()).unwrap();
            assert_eq!((&json["transfer"], &json["state"]), (&ID.to_string().into(), &state.into()));
        }
    }
}
