//! A transfer that this node's user asks for: reaching the partner, asking, sending or receiving,
//! and trying again.

use std::sync::Arc;
use std::time::Duration;

use culvert_model::address::{join_host_port, split_host_port};
use culvert_model::progress::{Phase, Progress};
use culvert_model::record::RecordState;
use culvert_model::request::{Movement, Target, TransferRequest};
use culvert_model::result::{ResultError, TransferResult};
use culvert_model::would::Direction;
use culvert_objects::fs::destination::Reach;
use culvert_objects::fs::sources::SourceTree;
use culvert_objects::fs::sources::named::SourceOpener;
use culvert_protocol::chunk_map::ChunkMap;
use culvert_protocol::control::{
    CONTENT_SINCE, FRAME_BYTES_MAX, Message, Overwrite, Refusal, RefusalCode, Request, TransferId, Wish,
};
use culvert_protocol::counted::counted;
use culvert_protocol::dry_run::{Finding, Room};
use culvert_protocol::identity::PublicKey;
use culvert_protocol::names::printable;
use culvert_protocol::path_mtu::DATAGRAM_BYTES_MIN;
use culvert_protocol::receipt::Receipt;

use crate::connection::{
    Connection, ConnectionError, INTRODUCTION_TIMEOUT, MessageReader, Unanswered, connect_to_host,
    connect_to_host_telling,
};
use crate::node::Node;
use crate::registry::{LiveTransfer, unix_ms};
use crate::transfer::dry_run::Found;
use crate::transfer::error::TransferError;
use crate::transfer::manifest_exchange::{send_manifest, source_refusal, unexpected};
use crate::transfer::receiving::{FileRequest, Incoming, LeftJournal, Received, receive};
use crate::transfer::sending::{PartnerHas, Payload, Sent, send};
use crate::transfer::tcp_path::ClosedTcp;
use crate::transfer::udp_path::{Ends, PortsOption};
use crate::transfer::{TransferContext, blocking};

/// What a request comes to.
#[derive(Debug)]
pub struct Outcome {
    /// The result.
    pub result: TransferResult,
    /// The receipt; none for a dry run.
    pub receipt: Option<Receipt>,
    /// The record whose completion at the partner is awaited; none for a dry run.
    pub partner: Option<MessageReader>,
    /// The journal, where this end received.
    pub journal: Option<LeftJournal>,
}

impl Outcome {
    /// Waits until the partner has recorded the transfer's result: a user who is told of success
    /// finds the receipt at both ends, whatever happens to either afterwards (W-56).
    async fn wait_for_partner(&mut self) -> Result<(), TransferError> {
        let Some(partner) = self.partner.take() else { return Ok(()) };
        if partner.wait_for_goodbye().await {
            return Ok(());
        }
        let text = "everything is stored and signed, but the partner disconnected before it had recorded that";
        Err(TransferError::here(RefusalCode::Temporary, text))
    }

    /// The outcome that both ends have written down. `signed` is that of an attempt after which the
    /// partner was gone: if it had written it down all the same, nothing was left to do this time.
    fn or_earlier(self, signed: Option<Self>) -> Self {
        match signed {
            Some(signed) if self.result.files.stored == 0 => Self { journal: self.journal, ..signed },
            Some(_) | None => self,
        }
    }

    /// Removes the journal, if there is one: the transfer's record is written.
    pub async fn forget_journal(journal: Option<LeftJournal>) {
        if let Some(journal) = journal {
            blocking(move || journal.forget()).await;
        }
    }
}

impl From<Sent> for Outcome {
    fn from(sent: Sent) -> Self {
        Self { result: sent.result, receipt: sent.receipt, partner: Some(sent.partner), journal: None }
    }
}

impl From<Received> for Outcome {
    fn from(received: Received) -> Self {
        let partner = received.receipt.is_some().then_some(received.partner);
        Self { result: received.result, receipt: received.receipt, partner, journal: Some(received.journal) }
    }
}

/// Reports that may overtake the end of the plan: a few for each flow.
const EARLY_REPORTS_MAX: usize = 1_024;
/// The first pause before another try; each further one is twice as long, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// See [`PAUSE_MIN`].
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Carries a request out, again and again while its failures are temporary, and keeps its record.
///
/// # Errors
/// [`TransferError`] of the last try.
pub async fn carry_out(
    node: &Arc<Node>,
    id: TransferId,
    request: &TransferRequest,
    live: LiveTransfer,
) -> Result<Outcome, TransferError> {
    let mut outcome = try_repeatedly(node, id, request, &live).await;
    if let Ok(outcome) = &mut outcome {
        node.supervisor.note_datapath(&mut outcome.result).await;
    }
    let written = match &mut outcome {
        Ok(outcome) => {
            let forget = Outcome::forget_journal(outcome.journal.take());
            node.registry.succeed(id, outcome.result.kept(), outcome.receipt.as_ref(), forget).await
        }
        Err(error) => node.registry.fail(id, error).await,
    };
    if let Err(error) = written {
        say_aside!("culvert: the record of transfer {id} has not been written yet: {error}; retrying");
    }
    match &outcome {
        Ok(outcome) => {
            node.metrics.note_result(&outcome.result, &request.target.to_string(), is_sender(request));
            note_path(node, request, &outcome.result).await;
        }
        Err(_) if node.registry.get(id).is_some_and(|record| record.state == RecordState::Paused) => {}
        Err(_) => node.metrics.note_failure(),
    }
    outcome
}

/// Keeps what the transfer says of the path, and warns if it did worse than the path's record.
async fn note_path(node: &Arc<Node>, request: &TransferRequest, result: &TransferResult) {
    use crate::path::{Side, advice};
    let side = if is_sender(request) { Side::Send } else { Side::Receive };
    let (node, target, result) = (node.clone(), request.target.clone(), result.clone());
    let noted = blocking(move || {
        let partner = advice::name_of(&node, &target)?;
        advice::after_transfer(&node, &partner, side, &result)
    });
    let warning = noted.await;
    if let Some(warning) = warning {
        say_aside!("culvert: warning: {warning}");
    }
}

/// The two ends, and what names the UDP ports of each.
fn ends(node: &Node, request: &TransferRequest) -> Ends {
    let there = match &request.target {
        Target::FarEnd { .. } => PortsOption::RemotePorts,
        _ => PortsOption::PortsOfNode,
    };
    let (option, senders_option) =
        if is_sender(request) { (there, PortsOption::Ports) } else { (PortsOption::Ports, there) };
    Ends { here: node.name.clone(), option, senders_option }
}

const fn is_sender(request: &TransferRequest) -> bool {
    !matches!(request.movement, Movement::Pull { .. })
}

async fn try_repeatedly(
    node: &Arc<Node>,
    id: TransferId,
    request: &TransferRequest,
    live: &LiveTransfer,
) -> Result<Outcome, TransferError> {
    let mut pause = PAUSE_MIN;
    let mut attempt = 0;
    let mut signed = None;
    let mut was_reached = false;
    loop {
        attempt += 1;
        note_attempt(node, id, attempt);
        live.progress.send_modify(|progress| {
            // What the last try ended with stands until this one moves data.
            let notice = progress.notice.take();
            *progress = Progress { phase: Phase::Connecting, notice, ..Progress::default() };
        });
        let error = match try_once(node, id, request, live, &mut was_reached).await {
            Ok(mut outcome) => match outcome.wait_for_partner().await {
                Ok(()) => return Ok(outcome.or_earlier(signed)),
                Err(error) => {
                    // The next attempt needs the journal.
                    outcome.journal = None;
                    signed = Some(outcome);
                    error
                }
            },
            Err(error) => error,
        };
        let may_try_again = request.retries.is_none_or(|retries| attempt <= retries);
        if !error.is_worth_another_try() || !may_try_again {
            return Err(error);
        }
        node.metrics.note_retry();
        let failure = crate::transfer::error::failure(&error);
        node.registry.update(id, |record| {
            record.state = RecordState::Queued;
            record.error = Some(failure);
        });
        live.progress.send_modify(|progress| {
            progress.phase = Phase::Waiting;
            progress.notice = Some(format!("{}; retrying", error.text()));
        });
        let mut cancel = live.cancel.clone();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = TransferContext::canceled(&mut cancel) => return Err(crate::transfer::manifest_exchange::canceled()),
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn note_attempt(node: &Node, id: TransferId, attempt: u32) {
    node.registry.update(id, |record| {
        record.state = RecordState::Active;
        record.attempts = record.attempts.max(attempt - 1) + 1;
    });
}

async fn try_once(
    node: &Arc<Node>,
    id: TransferId,
    request: &TransferRequest,
    live: &LiveTransfer,
    was_reached: &mut bool,
) -> Result<Outcome, TransferError> {
    // Started before anything is said to the partner: without a data plane there is nothing to ask
    // for.
    let plane = node.supervisor.get().await?;
    let _awake = node.wakefulness.hold();
    let mut cancel = live.cancel.clone();
    let mut connection = tokio::select! {
        connection = connect_and_tell(node, &request.target, *was_reached, live) => connection?,
        () = TransferContext::canceled(&mut cancel) => return Err(crate::transfer::manifest_exchange::canceled()),
    };
    *was_reached = true;
    if request.options.overwrite == Overwrite::Content && connection.version < CONTENT_SINCE {
        let text = format!(
            "the partner speaks version {} of the protocol and cannot compare files by content: update it, or use --overwrite changed",
            connection.version
        );
        return Err(TransferError::here(RefusalCode::Version, text));
    }
    let datagram_bytes = node.datagram_bytes_towards(connection.address);
    let start_bits_per_second = crate::path::advice::start_rate(node, connection.partner).await;
    let wish = match &request.movement {
        Movement::Push { destination, .. } => Wish::Push { destination: destination.0.clone() },
        Movement::Pull { sources, .. } => Wish::Pull { sources: sources.iter().map(|path| path.0.clone()).collect() },
        Movement::Measure { bytes } => Wish::Measure { bytes: *bytes },
    };
    require_short(&wish).map_err(TransferError::Here)?;
    let ask = Request {
        transfer: id,
        wish,
        options: request.options,
        lane_ports: plane.lanes().iter().map(|lane| lane.port).collect(),
        datagram_bytes_max: datagram_bytes,
    };
    let (writer, farewell, version) = (connection.writer.clone(), connection.farewell(), connection.version);
    writer.send(Message::Request(ask)).await?;
    let mut context = TransferContext {
        share: node.shares.take_for_user(connection.partner),
        id,
        options: request.options,
        identity: node.identity.clone(),
        plane,
        connection,
        partner_lane_ports: Vec::new(),
        datagram_bytes_max: datagram_bytes,
        progress: live.progress.clone(),
        cancel: live.cancel.clone(),
        names: live.names.clone(),
        start_bits_per_second,
        metrics: node.metrics.clone(),
        patience: node.patience,
        peer: request.target.to_string(),
        ends: ends(node, request),
    };
    let outcome = match accepted(&mut context).await {
        Ok(()) => conduct(node, context, request).await,
        Err(error) => {
            drop(context);
            Err(error)
        }
    };
    if let Some(refusal) = outcome.as_ref().err().and_then(TransferError::told) {
        // If the partner is gone it does not need to know.
        let _ = writer.send(Message::Refused(node.registry.told(id, refusal, version))).await;
    }
    drop(writer);
    farewell.wait().await;
    outcome.map_err(|error| match error {
        // The refusing host is named: the message is about that host.
        TransferError::Partner(Refusal { code, text }) => {
            TransferError::Partner(Refusal::new(code, format!("{}: {text}", request.target)))
        }
        error => error,
    })
}

/// Waits for the partner's yes.
async fn accepted(context: &mut TransferContext) -> Result<(), TransferError> {
    let answer = tokio::time::timeout(INTRODUCTION_TIMEOUT, context.connection.reader.next()).await;
    let answer =
        answer.map_err(|_| TransferError::here(RefusalCode::Temporary, "the partner does not answer the request"))?;
    match answer? {
        Message::Accepted(accepted) => {
            check_datagram_bytes(accepted.datagram_bytes_max)?;
            context.partner_lane_ports = accepted.lane_ports;
            context.datagram_bytes_max = context.datagram_bytes_max.min(accepted.datagram_bytes_max);
            Ok(())
        }
        Message::Refused(refusal) => Err(TransferError::Partner(refusal)),
        other => Err(unexpected(&other, "an answer to the request")),
    }
}

/// Refuses a partner whose datagrams carry no data.
fn check_datagram_bytes(bytes: u16) -> Result<(), TransferError> {
    if bytes >= DATAGRAM_BYTES_MIN {
        return Ok(());
    }
    let text = format!("its interface carries datagrams of {bytes} bytes, but data needs {DATAGRAM_BYTES_MIN}");
    Err(TransferError::protocol(text))
}

/// Refuses to ask for more than a message can name.
fn require_short(wish: &Wish) -> Result<(), Refusal> {
    /// Room for the length of a name, and for the rest of the request.
    const LENGTH_BYTES: usize = 3;
    const REST_BYTES: usize = 8 << 10;
    let Wish::Pull { sources } = wish else { return Ok(()) };
    let bytes: usize = sources.iter().map(|source| source.len() + LENGTH_BYTES).sum();
    if bytes + REST_BYTES <= FRAME_BYTES_MAX {
        return Ok(());
    }
    let text = format!(
        "the names of {} exceed the {FRAME_BYTES_MAX} bytes that a request to a partner may have: \
         name the directories they are in, or split the request",
        counted(sources.len() as u64, "source")
    );
    Err(Refusal::new(RefusalCode::Failed, text))
}

async fn conduct(node: &Node, context: TransferContext, request: &TransferRequest) -> Result<Outcome, TransferError> {
    match &request.movement {
        Movement::Pull { destination, .. } => {
            let incoming = Incoming::Files(FileRequest {
                reach: Reach::Owner { directory: "/".into() },
                destination: destination.0.clone(),
                journals: node.state.path("journals"),
                metrics: node.metrics.clone(),
                foretells: context.options.dry_run,
            });
            let received = receive(context, incoming).await?;
            Ok(received.into())
        }
        Movement::Push { sources, .. } => {
            let paths = sources.clone();
            let sources = blocking(move || {
                let mut opener = SourceOpener::default();
                paths.iter().map(|path| opener.local(path.as_path())).collect::<Result<Vec<_>, _>>()
            });
            let sources = sources.await.map_err(|error| source_refusal(&error))?;
            push(context, sources).await
        }
        Movement::Measure { bytes } => {
            let mut context = context;
            let has = receive_plan(&mut context, 0, *bytes).await?;
            let sent = send(context, Payload::Memory { bytes: *bytes }, has).await?;
            Ok(sent.into())
        }
    }
}

/// The sending side from the listing on, for requests and for answers.
///
/// # Errors
/// [`TransferError`].
pub async fn push(
    mut context: TransferContext,
    sources: Vec<culvert_objects::fs::sources::Source>,
) -> Result<Outcome, TransferError> {
    let tree = send_manifest(&context, sources).await?;
    let has = receive_plan(&mut context, tree.manifest.len() as u32, tree.manifest.total_bytes()).await?;
    let is_sent = |file: u32| !has.skipped.contains(&file) && !has.resumed.contains_key(&file);
    let chunks = ChunkMap::new(&tree.manifest, context.options.chunk_bytes, is_sent)
        .map_err(|error| TransferError::here(RefusalCode::Failed, error.to_string()))?;
    if context.options.dry_run {
        let result = dry_run_of_sender(&context, &tree, &has);
        return Ok(Outcome { result, receipt: None, partner: None, journal: None });
    }
    let sent = send(context, Payload::Files { tree, chunks: Arc::new(chunks) }, has).await?;
    Ok(sent.into())
}

/// What a dry run comes to where the data would come from.
fn dry_run_of_sender(context: &TransferContext, tree: &SourceTree, has: &PartnerHas) -> TransferResult {
    let found = Found {
        direction: Direction::Send,
        manifest: &tree.manifest,
        name: &|file| printable(tree.manifest.entry(file).name),
        fates: context.tells_dry_run().then(|| has.fates.as_slice()),
        is_skipped: &|file| has.skipped.contains(&file) || has.resumed.contains_key(&file),
        stored_bytes: has.stored_bytes,
        room: has.room,
        left_out: (tree.problem_count, tree.problems.iter().map(ResultError::from).collect()),
        is_listed: context.share.is_users(),
    };
    found.result(context.id, context.options.cipher)
}

/// Gathers the receiver's plan.
async fn receive_plan(
    context: &mut TransferContext,
    entries: u32,
    total_bytes: u64,
) -> Result<PartnerHas, TransferError> {
    let mut has = PartnerHas::default();
    let mut cancel = context.cancel.clone();
    let mut next_skipped = 0;
    let chunks_max = total_bytes / u64::from(context.options.chunk_bytes) + u64::from(entries);
    loop {
        let message = tokio::select! {
            message = context.connection.reader.next_in_time() => message?,
            () = TransferContext::canceled(&mut cancel) => return Err(crate::transfer::manifest_exchange::canceled()),
        };
        let beyond = || Err(TransferError::protocol("its plan names files that are not in the manifest"));
        match message {
            Message::PlanPart { skipped } => {
                for run in skipped {
                    // In order, so that nothing is named twice.
                    let end =
                        run.first.checked_add(run.count).filter(|&end| run.first >= next_skipped && end <= entries);
                    let Some(end) = end else { return beyond() };
                    next_skipped = end;
                    Arc::make_mut(&mut has.skipped).extend(run.first..end);
                }
            }
            Message::Resumed(files) => {
                if files.iter().any(|&(file, _)| file >= entries) {
                    return beyond();
                }
                has.resumed.extend(files);
            }
            Message::Proofs(proofs) => {
                has.proofs.extend(proofs);
                if has.proofs.len() as u64 > chunks_max {
                    return Err(TransferError::protocol("it reports more stored chunks than the transfer has"));
                }
            }
            Message::PlanEnd { flows, stored_bytes } => {
                if context.tells_dry_run() && has.fates.as_slice().len() != entries as usize {
                    return Err(TransferError::protocol("it does not report an outcome for every file"));
                }
                has.offers = flows;
                has.stored_bytes = stored_bytes;
                return Ok(has);
            }
            Message::DryRun(Finding::Fates(runs)) if context.tells_dry_run() => {
                if !has.fates.add(&runs, entries) {
                    return beyond();
                }
            }
            Message::DryRun(Finding::Room { free_bytes, needed_bytes }) if context.tells_dry_run() => {
                has.room = Some(Room { needed_bytes, free_bytes, ..has.room.unwrap_or_default() });
            }
            Message::DryRun(Finding::Inodes { free, needed }) if context.tells_dry_run() => {
                let (needed_inodes, free_inodes) = (needed, free);
                has.room = has.room.map(|room| Room { needed_inodes, free_inodes, ..room });
            }
            Message::Refused(refusal) => return Err(TransferError::Partner(refusal)),
            Message::Ping(number) => context.connection.writer.send_urgent(Message::Pong(number))?,
            Message::Pong(_) => {}
            Message::Feedback(report) if has.early_reports.len() < EARLY_REPORTS_MAX => has.early_reports.push(report),
            other => return Err(unexpected(&other, "the plan")),
        }
    }
}

/// Connects, and tells the transfer's user of a far end that TCP does not reach before it is given
/// up.
async fn connect_and_tell(
    node: &Node,
    target: &Target,
    was_reached: bool,
    live: &LiveTransfer,
) -> Result<Connection, TransferError> {
    let Target::FarEnd { .. } = target else { return connect(node, target, was_reached).await };
    let unanswered = |address| {
        // One that was there a moment ago has been stopped, or its network is interrupted.
        let closed = if was_reached { None } else { ClosedTcp::unanswered(&node.name, address) };
        if let Some(closed) = closed {
            live.progress.send_modify(|progress| progress.notice = Some(closed.to_string()));
        }
    };
    connect_telling(node, target, was_reached, &unanswered).await
}

/// Connects to the partner and makes sure that it is the one that is meant. `was_reached` says that
/// an earlier attempt of the same transfer has had a connection.
///
/// # Errors
/// [`TransferError`].
pub async fn connect(node: &Node, target: &Target, was_reached: bool) -> Result<Connection, TransferError> {
    connect_telling(node, target, was_reached, &|_| ()).await
}

/// As [`connect`]; `unanswered` is told of each of a far end's addresses that does not answer.
async fn connect_telling(
    node: &Node,
    target: &Target,
    was_reached: bool,
    unanswered: &Unanswered<'_>,
) -> Result<Connection, TransferError> {
    match target {
        Target::Profile(name) => {
            let (profiles, wanted) = (node.profiles.clone(), name.clone());
            let profile = blocking(move || profiles.get(&wanted))
                .await
                .map_err(|error| TransferError::here(error.code(), error.to_string()))?;
            let mut last = TransferError::here(
                RefusalCode::NotFound,
                format!(
                    "the profile '{name}' has no address: add one with 'culvert profile edit {name} \
                     --address HOST:PORT'"
                ),
            );
            for address in &profile.addresses {
                let Some((host, port)) = split_host_port(address) else { continue };
                match connect_to_host(&node.tls, host, port, &node.name).await {
                    Ok(connection) => return check_key(connection, profile.key, name),
                    Err(error) => last = error.into(),
                }
            }
            Err(last)
        }
        Target::Address { host, port } => {
            let connection = connect_to_host(&node.tls, host, *port, &node.name).await?;
            let address = join_host_port(host, *port);
            let known = |error: crate::profiles::ProfileError| TransferError::here(error.code(), error.to_string());
            let (profiles, partner, wanted) = (node.profiles.clone(), connection.partner, address.clone());
            let found = blocking(move || {
                let named = profiles.with_address(&wanted)?;
                let keyed = if named.is_none() { profiles.with_key(partner)? } else { None };
                Ok((named, keyed.is_some()))
            });
            match found.await.map_err(known)? {
                (Some((name, profile)), _) => return check_key(connection, profile.key, &name),
                (None, true) => return Ok(connection),
                (None, false) => {}
            }
            let fingerprint = connection.partner.fingerprint();
            // The table may be full or unwritable; the refusal says all that matters.
            let (profiles, name, at) = (node.profiles.clone(), connection.partner_name.clone(), address.clone());
            let _ = blocking(move || profiles.note_pending(partner, &name, &at, unix_ms() / 1_000)).await;
            Err(TransferError::here(
                RefusalCode::UnknownKey,
                format!(
                    "{address} presented a key that this node does not know ({fingerprint}): \
                     compare it with what 'culvert identity' prints there, then run 'culvert \
                     profile approve {fingerprint} --name NAME'"
                ),
            ))
        }
        Target::FarEnd { hosts, port, key } => {
            let mut last = None;
            for host in hosts {
                match connect_to_host_telling(&node.tls, host, *port, &node.name, unanswered).await {
                    Ok(connection) => return check_key(connection, *key, host),
                    // No other address helps.
                    Err(error) if error.is_shortage() => return Err(error.into()),
                    Err(error) => last = Some(error),
                }
            }
            Err(last.map_or_else(
                || TransferError::here(RefusalCode::Failed, "the far end has no address"),
                |error| unreachable_far_end(&node.name, &error, *port, was_reached),
            ))
        }
    }
}

/// Why there is no connection to a far end that ssh has started.
fn unreachable_far_end(here: &str, error: &ConnectionError, port: u16, was_reached: bool) -> TransferError {
    match error {
        ConnectionError::Silent { .. } => {
            TransferError::here(RefusalCode::Temporary, format!("the far end at {error}"))
        }
        // It was there a moment ago, and nobody was connected since: what is in the way stays in
        // the way.
        _ if !was_reached => TransferError::Closed(ClosedTcp::because(here, error).map_or_else(
            || format!("{error}; ssh reaches the host, and data need TCP port {port} to be open between the hosts"),
            |closed| closed.to_string(),
        )),
        // Nobody else listens on its port, so the next attempt would find nobody either.
        ConnectionError::Connect { address, error } if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            TransferError::here(RefusalCode::Failed, format!("the far end at {address} no longer listens"))
        }
        ConnectionError::NoAnswer { address, .. } => TransferError::here(
            RefusalCode::Temporary,
            format!(
                "the far end at {address} has stopped answering: its process is stopped, its host \
                 is overloaded or down, or the network is interrupted"
            ),
        ),
        error => TransferError::here(RefusalCode::Temporary, format!("the far end can no longer be reached: {error}")),
    }
}

fn check_key(connection: Connection, expected: PublicKey, who: &str) -> Result<Connection, TransferError> {
    if connection.partner == expected {
        return Ok(connection);
    }
    Err(TransferError::KeyChanged(format!(
        "the key of '{who}' has CHANGED: expected {}, found {} at {}; either its node was \
         reinstalled, or somebody is impersonating it. Ask its admin before you run 'culvert \
         profile edit {who} --key …'",
        expected.fingerprint(),
        connection.partner.fingerprint(),
        connection.address
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partner_whose_datagrams_carry_no_data_is_refused_with_a_sentence() {
        for bytes in [0, 47, 100, 559] {
            let error = check_datagram_bytes(bytes).unwrap_err().to_string();
            assert!(error.contains(&format!("datagrams of {bytes} bytes, but data needs 560")), "{error}");
        }
        assert!(check_datagram_bytes(560).is_ok());
    }
}
