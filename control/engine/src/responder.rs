//! A transfer that a partner requests: check the request, open what it names, send or receive, and
//! record the outcome.

use std::sync::Arc;

use culvert_model::record::{RecordState, Role, TransferRecord};
use culvert_objects::fs::reach::{NOT_PERMITTED, Reach};
use culvert_objects::fs::sources::listing::NamedSources;
use culvert_objects::fs::sources::{SOURCES_PER_REQUEST, Source};
use culvert_protocol::chunk_map::{CHUNK_BYTES, CHUNKS_MAX};
use culvert_protocol::control::{
    Accepted, FLOWS_MAX, Message, NOT_KEPT_IS_TOLD_SINCE, Refusal, RefusalCode, Request, RequestedAction,
};
use culvert_protocol::counted::{counted, grouped};
use culvert_protocol::foreign_text::foreign_text;
use culvert_protocol::names::NAME_BYTES_MAX;
use culvert_system::log_limit::{self, About};

use crate::connection::{Connection, refuse};
use crate::engine::Engine;
use crate::events::Event;
use crate::limits::{Limit, MEASURE_BYTES_MAX, sources_per_partner};
use crate::outcome::{EndedTransfer, Outcome, conclude, tell_partner};
use crate::pushing::push;
use crate::records::LiveTransfer;
use crate::shares::{Kind, Piece, Share};
use crate::transfer::ends::{Ends, PortsOption};
use crate::transfer::error::TransferError;
use crate::transfer::receiving::{FileRequest, Incoming, receive};
use crate::transfer::{TransferContext, blocking};

/// A partner that may request transfers.
#[derive(Debug)]
pub struct IdentifiedPartner {
    /// The connection.
    pub connection: Connection,
    /// The files that it may use.
    pub reach: Reach,
    /// Its profile's name.
    pub partner: String,
}

/// A transfer that is recorded and has its share.
struct StartedTransfer {
    live: LiveTransfer,
    share: Share,
}

/// Answers one request.
pub async fn answer(engine: &Arc<Engine>, introduced: IdentifiedPartner, request: Request) {
    let IdentifiedPartner { mut connection, reach, partner } = introduced;
    let introduced_over_ssh = matches!(reach, Reach::Owner { .. });
    let id = request.transfer;
    let share = engine.shares.take(connection.partner);
    let live = match engine.records.claim(id, record(&request, &partner, engine.clock.unix_ms())).await {
        Ok(live) => live,
        Err(refusal) => return refuse(connection, refusal).await,
    };
    let (writer, pending_close) = (connection.writer.clone(), connection.pending_close());
    let version = connection.version;
    let is_told = version >= NOT_KEPT_IS_TOLD_SINCE;
    let is_sender = matches!(request.wish, RequestedAction::Pull { .. });
    let mut outcome = carry_out(engine, connection, request, reach, StartedTransfer { live, share }, &partner).await;
    if let Err(error) = &outcome
        && let Some(refusal) = tell_partner(engine, id, error, &writer, version).await
        && refusal.code == RefusalCode::Temporary
    {
        outcome = Err(TransferError::Here(refusal));
    }
    let ended = EndedTransfer { id, partner: &partner, is_sender };
    let written = conclude(engine, &ended, &mut outcome, || drop(writer)).await;
    if let Err(error) = written {
        log_limit::say(About::Records, || {
            format!("the record of transfer {id} has not been written yet: {error}; retrying")
        });
    }
    pending_close.wait().await;
    match &outcome {
        Ok(outcome) => {
            if !introduced_over_ssh {
                let way = if is_sender { "to" } else { "from" };
                log_limit::inform(About::Stored, || {
                    format!("transfer {id} {way} {partner}: {}", outcome.result.line())
                });
            }
            // The user behind an ssh session reads warnings from their own end, if its version gets
            // them.
            if let Some(warning) = outcome.result.warning().filter(|_| !introduced_over_ssh || !is_told) {
                log_limit::say(About::Transfers, || format!("warning: transfer {id} with {partner}: {warning}"));
            }
        }
        Err(error) => {
            // The user who started a far end over ssh reads the reason from their own end.
            if !introduced_over_ssh {
                log_limit::say(About::Transfers, || match error.told() {
                    // The sentence addresses the partner; the log's reader is this node's admin.
                    Some(refusal) => {
                        let why = refusal.text.replace(NOT_PERMITTED, &format!("this node does not permit {partner}"));
                        format!("transfer {id} with {partner} was refused or ended by this node: {why}")
                    }
                    None => format!("transfer {id} with {partner} ended: {error}"),
                });
            }
        }
    }
}

/// The opened sources of a request, and the pieces of the partner's share that they take.
#[derive(Default)]
struct OpenedSources {
    sources: Vec<Source>,
    places: Vec<Piece>,
}

/// Refuses requests that no honest node sends.
///
/// # Errors
/// The refusal.
pub fn check(request: &Request) -> Result<(), Refusal> {
    let refuse = |text: &str| Err(Refusal::new(RefusalCode::Protocol, text));
    let chunk_bytes = request.options.chunk_bytes;
    if !chunk_bytes.is_power_of_two() || !CHUNK_BYTES.contains(&chunk_bytes) {
        return refuse("the chunk size is not a power of two between 64 KiB and 16 MiB");
    }
    if request.lane_ports.is_empty() || request.lane_ports.len() > usize::from(FLOWS_MAX) {
        return refuse("the request names no lanes, or too many");
    }
    let paths = match &request.wish {
        RequestedAction::Push { destination } => std::slice::from_ref(destination),
        RequestedAction::Pull { sources } => sources,
        RequestedAction::Measure { .. } => &[],
    };
    //= W-35
    //# A largest datagram below 560 bytes (W-4 plus overhead) and a path longer than 4,096 bytes
    //# are refused.
    if paths.iter().any(|path| path.len() > NAME_BYTES_MAX) {
        return refuse(&format!("the request names a path of more than {NAME_BYTES_MAX} bytes"));
    }
    let least = culvert_protocol::path_mtu::DATAGRAM_BYTES_MIN;
    if request.datagram_bytes_max < least {
        let bytes = request.datagram_bytes_max;
        return refuse(&format!(
            "the requester's interface carries datagrams of {bytes} bytes, but data needs {least}: give it a larger MTU"
        ));
    }
    match &request.wish {
        RequestedAction::Pull { sources } if sources.is_empty() => refuse("the request names no source"),
        RequestedAction::Measure { bytes } if *bytes == 0 || *bytes > MEASURE_BYTES_MAX => {
            refuse("a measurement must be between 1 byte and 45 TB")
        }
        RequestedAction::Measure { bytes } if bytes.div_ceil(chunk_bytes.into()) > CHUNKS_MAX.into() => {
            refuse("a measurement of this size needs larger chunks")
        }
        _ => Ok(()),
    }
}

/// Accepts the request, and sends or receives.
async fn carry_out(
    engine: &Arc<Engine>,
    connection: Connection,
    request: Request,
    reach: Reach,
    begun: StartedTransfer,
    partner: &str,
) -> Result<Outcome, TransferError> {
    let StartedTransfer { live, share } = begun;
    let plane = engine.supervisor.get().await?;
    let _held = engine.observer.hold_for_transfer();
    if request.options.chunk_bytes as usize > plane.buffer_bytes() {
        let text = format!(
            "chunks of {} bytes exceed this node's buffers of {}",
            request.options.chunk_bytes,
            plane.buffer_bytes()
        );
        return Err(TransferError::here(RefusalCode::Protocol, text));
    }
    let datagram_bytes = engine.datagram_bytes_towards(connection.address);
    let accepted = Accepted {
        lane_ports: plane.lanes().iter().map(|lane| lane.port).collect(),
        datagram_bytes_max: datagram_bytes,
    };
    let start_bits_per_second = engine.advice.start_rate(connection.partner).await;
    let opened = match &request.wish {
        RequestedAction::Pull { sources } => open_sources(engine, &share, reach.clone(), sources.clone()).await?,
        RequestedAction::Push { .. } | RequestedAction::Measure { .. } => OpenedSources::default(),
    };
    let is_owners = matches!(reach, Reach::Owner { .. });
    let context = |connection| TransferContext {
        id: request.transfer,
        options: request.options,
        identity: engine.identity.clone(),
        plane,
        connection,
        partner_lane_ports: request.lane_ports,
        datagram_bytes_max: datagram_bytes.min(request.datagram_bytes_max),
        progress: live.progress,
        cancel: live.cancel,
        names: live.names,
        start_bits_per_second,
        observer: engine.observer.clone(),
        patience: engine.bounds.patience,
        peer: partner.to_owned(),
        // If this end sends, the requester reads this end's messages: they name its options.
        ends: Ends {
            here: engine.name.clone(),
            option: PortsOption::Ports,
            senders_option: if is_owners { PortsOption::RemotePorts } else { PortsOption::PortsOfNode },
        },
        share,
    };
    match request.wish {
        RequestedAction::Push { destination } => {
            connection.writer.send(Message::Accepted(accepted)).await?;
            let journals = engine.journals.clone();
            let context = context(connection);
            let (observer, foretells) = (engine.observer.clone(), context.tells_dry_run());
            let incoming = Incoming::Files(FileRequest { reach, destination, journals, observer, foretells });
            let received = receive(context, incoming).await?;
            Ok(received.into())
        }
        RequestedAction::Measure { bytes } => {
            connection.writer.send(Message::Accepted(accepted)).await?;
            let received = receive(context(connection), Incoming::Memory { bytes }).await?;
            Ok(received.into())
        }
        RequestedAction::Pull { .. } => {
            let OpenedSources { sources, places } = opened;
            connection.writer.send(Message::Accepted(accepted)).await?;
            let pushed = push(context(connection), Box::new(NamedSources(sources))).await;
            drop(places);
            pushed
        }
    }
}

/// Opens the sources of a request. Each source, and each further match of a pattern, takes a piece
/// of the partner's share before it is opened.
async fn open_sources(
    engine: &Arc<Engine>,
    share: &Share,
    reach: Reach,
    asked: Vec<Vec<u8>>,
) -> Result<OpenedSources, TransferError> {
    let (engine, share) = (engine.clone(), share.branch());
    // The far end of the user's own ssh session has no limit.
    let is_limited = matches!(reach, Reach::Permitted(_));
    let opened = blocking(move || {
        let (mut places, mut count) = (Vec::new(), 0);
        let mut may_open = |more| {
            if is_limited {
                places.push(places_for_sources(&engine, &share, more, count)?);
                count += more;
            }
            Ok(())
        };
        may_open(asked.len())?;
        let sources = reach.open_sources(&asked, &engine.name, &mut may_open)?;
        Ok(OpenedSources { sources, places })
    });
    opened.await.map_err(TransferError::Here)
}

/// Takes pieces for `more` sources of a request that has `already` some. Each source may be a
/// directory that stays open while the transfer runs.
fn places_for_sources(engine: &Engine, share: &Share, more: usize, already: usize) -> Result<Piece, Refusal> {
    let sources = already.saturating_add(more);
    let (most, code, text) = if sources > SOURCES_PER_REQUEST {
        let text = format!(
            "the request names {}, but this node opens at most {} for one: name the directories \
             they are in, or split the request",
            counted(sources, "source"),
            grouped(SOURCES_PER_REQUEST as u64)
        );
        (0, RefusalCode::Failed, text)
    } else {
        let most = sources_per_partner();
        let text = format!(
            "the partner's transfers would have more than {} open, the most this node opens for one \
             partner: try again when another of them has ended, or name the directories they are in",
            counted(most, "source")
        );
        (most, RefusalCode::Temporary, text)
    };
    share.try_pieces(Kind::Sources, more, most, usize::MAX).ok_or_else(|| {
        engine.observer.note(Event::LimitReached(Limit::Sources));
        Refusal::new(code, text)
    })
}

fn record(request: &Request, partner: &str, created_unix_ms: u64) -> TransferRecord {
    let printable = |path: &[u8]| foreign_text(&culvert_protocol::names::printable(path));
    let (role, description) = match &request.wish {
        RequestedAction::Push { destination } => (Role::Receive, format!("{partner} → {}", printable(destination))),
        RequestedAction::Pull { sources } => {
            let first = sources.first().map(|source| printable(source)).unwrap_or_default();
            (Role::Send, format!("{first} → {partner}"))
        }
        RequestedAction::Measure { bytes } => {
            (Role::Receive, format!("{} of measurement from {partner}", counted(*bytes, "byte")))
        }
    };
    let record =
        TransferRecord::new(request.transfer, role, partner, description, RecordState::Active, created_unix_ms);
    TransferRecord { attempts: 1, ..record }
}

#[cfg(test)]
mod tests {
    use culvert_protocol::control::{Options, TransferId};
    use culvert_protocol::path_mtu::DATAGRAM_BYTES_MIN;

    use super::*;

    #[test]
    fn a_request_with_too_small_datagrams_or_too_long_a_path_is_refused() {
        //= W-35
        //# A largest datagram below 560 bytes (W-4 plus overhead) and a path longer than 4,096
        //# bytes are refused.
        let request = |datagram_bytes_max, path_bytes| Request {
            transfer: TransferId(1),
            wish: RequestedAction::Push { destination: vec![b'x'; path_bytes] },
            options: Options::default(),
            lane_ports: vec![7_272],
            datagram_bytes_max,
        };
        assert_eq!((DATAGRAM_BYTES_MIN, NAME_BYTES_MAX), (560, 4_096));
        assert!(check(&request(560, 4_096)).is_ok());
        assert!(check(&request(559, 4_096)).is_err());
        assert!(check(&request(560, 4_097)).is_err());
    }
}
