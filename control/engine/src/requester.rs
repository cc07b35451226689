//! A transfer that this node's user requests: connect, request, send or receive, and retry after
//! temporary failures.

use std::time::Duration;

use culvert_model::progress::{Phase, Progress};
use culvert_model::record::RecordState;
use culvert_model::request::{Movement, Target, TransferRequest};
use culvert_objects::fs::reach::Reach;
use culvert_objects::fs::sources::listing::NamedSources;
use culvert_objects::fs::sources::named::SourceOpener;
use culvert_protocol::control::{
    CONTENT_SINCE, FRAME_BYTES_MAX, Message, Overwrite, Refusal, RefusalCode, Request, RequestedAction, TransferId,
};
use culvert_protocol::counted::counted;
use culvert_protocol::path_mtu::DATAGRAM_BYTES_MIN;

use crate::connecting::connect_and_tell;
use crate::connection::INTRODUCTION_TIMEOUT;
use crate::engine::Engine;
use crate::events::Event;
use crate::outcome::{EndedTransfer, Outcome, conclude, tell_partner};
use crate::pushing::{push, receive_plan};
use crate::records::{LiveTransfer, Transition};
use crate::transfer::ends::{Ends, PortsOption};
use crate::transfer::error::{TransferError, failure};
use crate::transfer::manifest_exchange::{source_refusal, unexpected};
use crate::transfer::receiving::{FileRequest, Incoming, receive};
use crate::transfer::sending::{Payload, send};
use crate::transfer::{TransferContext, blocking};

/// The pause before the first retry. Each further pause is twice as long, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// The longest pause before a retry.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The states of a transfer that is being carried out.
const UNDER_WAY: &[RecordState] = &[RecordState::Queued, RecordState::Active];

/// Carries a request out, retrying after temporary failures, and keeps its record.
///
/// # Errors
/// [`TransferError`] of the last attempt.
pub async fn carry_out(
    engine: &Engine,
    id: TransferId,
    request: &TransferRequest,
    live: LiveTransfer,
) -> Result<Outcome, TransferError> {
    let mut outcome = try_repeatedly(engine, id, request, &live).await;
    let partner = request.target.to_string();
    let ended = EndedTransfer { id, partner: &partner, is_sender: request.is_sender() };
    if let Err(error) = conclude(engine, &ended, &mut outcome, || ()).await {
        say_aside!("culvert: the record of transfer {id} has not been written yet: {error}; retrying");
    }
    outcome
}

/// The two ends, each with the option that sets its UDP ports, for error messages.
fn ends(engine: &Engine, request: &TransferRequest) -> Ends {
    let there = match &request.target {
        Target::FarEnd { .. } => PortsOption::RemotePorts,
        _ => PortsOption::PortsOfNode,
    };
    let (option, senders_option) =
        if request.is_sender() { (there, PortsOption::Ports) } else { (PortsOption::Ports, there) };
    Ends { here: engine.name.clone(), option, senders_option }
}

/// Tries until an attempt succeeds, fails for good, or the retries are used up.
async fn try_repeatedly(
    engine: &Engine,
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
        note_attempt(engine, id, attempt);
        live.progress.send_modify(|progress| {
            // The last attempt's error remains until this attempt moves data.
            let notice = progress.notice.take();
            *progress = Progress { phase: Phase::Connecting, notice, ..Progress::default() };
        });
        let error = match try_once(engine, id, request, live, &mut was_reached).await {
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
        engine.observer.note(Event::AttemptFailed);
        // Fails only if the record is gone or has ended meanwhile, and then it must stay so.
        let _ = engine.records.transition(id, UNDER_WAY, Transition::Wait(failure(&error)));
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

fn note_attempt(engine: &Engine, id: TransferId, attempt: u32) {
    // Fails only if the record is gone or has ended meanwhile, and then it must stay so.
    let _ = engine.records.transition(id, UNDER_WAY, Transition::Attempt(attempt));
}

/// Makes one attempt: connect, request, send or receive. Sets `was_reached` once connected.
async fn try_once(
    engine: &Engine,
    id: TransferId,
    request: &TransferRequest,
    live: &LiveTransfer,
    was_reached: &mut bool,
) -> Result<Outcome, TransferError> {
    // Before connecting: without a data plane there is nothing to request.
    let plane = engine.supervisor.get().await?;
    let _held = engine.observer.hold_for_transfer();
    let mut cancel = live.cancel.clone();
    let mut connection = tokio::select! {
        connection = connect_and_tell(engine, &request.target, *was_reached, live) => connection?,
        () = TransferContext::canceled(&mut cancel) => return Err(crate::transfer::manifest_exchange::canceled()),
    };
    *was_reached = true;
    //= W-47
    //# The request is not sent to partners of older versions.
    if request.options.overwrite == Overwrite::Content && connection.version < CONTENT_SINCE {
        let text = format!(
            "the partner speaks version {} of the protocol and cannot compare files by content: update it, or use --overwrite changed",
            connection.version
        );
        return Err(TransferError::here(RefusalCode::Version, text));
    }
    let datagram_bytes = engine.datagram_bytes_towards(connection.address);
    let start_bits_per_second = engine.advice.start_rate(connection.partner).await;
    let wish = match &request.movement {
        Movement::Push { destination, .. } => RequestedAction::Push { destination: destination.0.clone() },
        Movement::Pull { sources, .. } => {
            RequestedAction::Pull { sources: sources.iter().map(|path| path.0.clone()).collect() }
        }
        Movement::Measure { bytes } => RequestedAction::Measure { bytes: *bytes },
    };
    require_short(&wish).map_err(TransferError::Here)?;
    let ask = Request {
        transfer: id,
        wish,
        options: request.options,
        lane_ports: plane.lanes().iter().map(|lane| lane.port).collect(),
        datagram_bytes_max: datagram_bytes,
    };
    let (writer, pending_close, version) = (connection.writer.clone(), connection.pending_close(), connection.version);
    writer.send(Message::Request(ask)).await?;
    let mut context = TransferContext {
        share: engine.shares.take_for_user(connection.partner),
        id,
        options: request.options,
        identity: engine.identity.clone(),
        plane,
        connection,
        partner_lane_ports: Vec::new(),
        datagram_bytes_max: datagram_bytes,
        progress: live.progress.clone(),
        cancel: live.cancel.clone(),
        names: live.names.clone(),
        start_bits_per_second,
        observer: engine.observer.clone(),
        patience: engine.bounds.patience,
        peer: request.target.to_string(),
        ends: ends(engine, request),
    };
    let outcome = match accepted(&mut context).await {
        Ok(()) => conduct(engine, context, request).await,
        Err(error) => {
            drop(context);
            Err(error)
        }
    };
    if let Err(error) = &outcome {
        tell_partner(engine, id, error, &writer, version).await;
    }
    drop(writer);
    pending_close.wait().await;
    outcome.map_err(|error| match error {
        // Name the refusing host, which the message is about.
        TransferError::Partner(Refusal { code, text }) => {
            TransferError::Partner(Refusal::new(code, format!("{}: {text}", request.target)))
        }
        error => error,
    })
}

/// Waits for the partner's `Accepted`.
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

/// Refuses a partner whose largest datagram cannot carry data.
fn check_datagram_bytes(bytes: u16) -> Result<(), TransferError> {
    //= W-35
    //# A largest datagram below 560 bytes (W-4 plus overhead) and a path longer than 4,096 bytes
    //# are refused.
    if bytes >= DATAGRAM_BYTES_MIN {
        return Ok(());
    }
    let text = format!("its interface carries datagrams of {bytes} bytes, but data needs {DATAGRAM_BYTES_MIN}");
    Err(TransferError::protocol(text))
}

/// Refuses a request that would not fit into one message.
fn require_short(wish: &RequestedAction) -> Result<(), Refusal> {
    /// Room for the length of a name, and for the rest of the request.
    const LENGTH_BYTES: usize = 3;
    const REST_BYTES: usize = 8 << 10;
    let RequestedAction::Pull { sources } = wish else { return Ok(()) };
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

/// Sends or receives once the partner has accepted.
async fn conduct(
    engine: &Engine,
    context: TransferContext,
    request: &TransferRequest,
) -> Result<Outcome, TransferError> {
    match &request.movement {
        Movement::Pull { destination, .. } => {
            let incoming = Incoming::Files(FileRequest {
                reach: Reach::Owner { directory: "/".into() },
                destination: destination.0.clone(),
                journals: engine.journals.clone(),
                observer: engine.observer.clone(),
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
            push(context, Box::new(NamedSources(sources))).await
        }
        Movement::Measure { bytes } => {
            let mut context = context;
            let has = receive_plan(&mut context, 0, *bytes).await?;
            let sent = send(context, Payload::Memory { bytes: *bytes }, has).await?;
            Ok(sent.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partner_whose_datagrams_carry_no_data_is_refused_with_a_sentence() {
        //= W-35
        //# A largest datagram below 560 bytes (W-4 plus overhead) and a path longer than 4,096
        //# bytes are refused.
        for bytes in [0, 47, 100, 559] {
            let error = check_datagram_bytes(bytes).unwrap_err().to_string();
            assert!(error.contains(&format!("datagrams of {bytes} bytes, but data needs 560")), "{error}");
        }
        assert!(check_datagram_bytes(560).is_ok());
    }
}
