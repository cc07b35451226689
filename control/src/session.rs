//! What a node answers: incoming connections, who may come in, and what they may ask for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_protocol::chunk_map::{CHUNK_BYTES, CHUNKS_MAX};
use culvert_protocol::control::{Accepted, FLOWS_MAX, Message, Refusal, RefusalCode, Request, Wish};
use culvert_protocol::identity::PublicKey;
use culvert_protocol::path::PathMessage;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::connection::{Connection, INTRODUCTION_TIMEOUT};
use crate::destination::Reach;
use crate::node::Node;
use crate::registry::{LiveTransfer, RecordState, Role, TransferRecord, unix_ms};
use crate::request::{Outcome, push};
use crate::shares::Share;
use crate::transfer::receiving::{FileRequest, Incoming, receive};
use crate::transfer::{TransferContext, TransferError, blocking};

/// Connections that may be introducing themselves at once; as many from partners' addresses beside those from others.
const INTRODUCTIONS_MAX: usize = 64;
/// Connections that are introducing themselves or wait for it. More are closed at once, so strangers can take neither memory nor
/// descriptors beyond this.
const WAITING_MAX: usize = 256;
/// Transfers of partners that run at once; more are told to come again.
const SESSIONS_MAX: usize = 256;
/// Bytes of a measurement that a partner may ask for: an hour at 100 Gb/s.
const MEASURE_BYTES_MAX: u64 = 45_000_000_000_000;

/// Whom a node lets in, and how far.
#[derive(Clone, Debug)]
pub enum Admission {
    /// Whoever has a profile, as far as it permits.
    Profiles,
    /// One key only, whose owner started this node over ssh and may do what they may do there.
    Owner {
        /// The key.
        key: PublicKey,
        /// What may be reached.
        reach: Reach,
    },
}

/// Where connections wait until they may introduce themselves.
#[derive(Clone)]
struct Lobby {
    seats: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Lobby {
    fn new() -> Self {
        Self { seats: Arc::new(Semaphore::new(WAITING_MAX)), places: Arc::new(Semaphore::new(INTRODUCTIONS_MAX)) }
    }
}

/// Answers connections until the listener fails.
pub async fn listen(node: Arc<Node>, listener: TcpListener, admission: Admission) {
    // Strangers who say nothing hold their places for a while; partners have their own.
    let (strangers, partners) = (Lobby::new(), Lobby::new());
    let sessions = Arc::new(Semaphore::new(SESSIONS_MAX));
    loop {
        let (tcp, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Out of descriptors, or the connection was gone before it was accepted.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let lobby = if node.doorman.knows(address.ip()) { partners.clone() } else { strangers.clone() };
        let seat = lobby.seats.try_acquire_owned().ok();
        let Some(seat) = seat.filter(|_| node.doorman.admits(address.ip(), Instant::now())) else {
            node.metrics.note_refused_connection();
            continue;
        };
        let (node, admission, sessions) = (node.clone(), admission.clone(), sessions.clone());
        tokio::spawn(async move {
            let waiting = tokio::time::timeout(INTRODUCTION_TIMEOUT, lobby.places.acquire_owned()).await;
            let Ok(Ok(place)) = waiting else { return node.metrics.note_refused_connection() };
            let introduced = introduce(&node, tcp, &admission).await;
            drop((place, seat));
            match introduced {
                Ok(introduced) => {
                    let Ok(_session) = sessions.try_acquire_owned() else {
                        let busy = Refusal::new(
                            RefusalCode::Temporary,
                            "this node carries out as many transfers as it can: come again later",
                        );
                        refuse(introduced.connection, busy).await;
                        return;
                    };
                    answer(&node, introduced).await;
                }
                Err(reason) => {
                    node.metrics.note_refused_connection();
                    if node.metrics.may_log_stranger() {
                        eprintln!("culvert: a connection from {address} was refused: {reason}");
                    }
                }
            }
        });
    }
}

/// A transfer's place at this node.
struct Place {
    live: LiveTransfer,
    share: Share,
}

/// A partner that may ask.
struct Introduced {
    connection: Connection,
    reach: Reach,
    partner: String,
}

/// Shakes hands, finds out who it is, and turns strangers away with a reason.
async fn introduce(node: &Node, tcp: TcpStream, admission: &Admission) -> Result<Introduced, String> {
    let connection = Connection::accept(&node.tls, tcp, &node.name).await.map_err(|error| error.to_string())?;
    let key = connection.partner;
    match admission {
        Admission::Owner { key: owner, reach } if key == *owner => {
            Ok(Introduced { connection, reach: reach.clone(), partner: "ssh".to_owned() })
        }
        Admission::Owner { .. } => {
            let refusal = Refusal::new(RefusalCode::UnknownKey, "this far end serves only who started it");
            let text = refusal.text.clone();
            refuse(connection, refusal).await;
            Err(text)
        }
        Admission::Profiles => match node.profiles.with_key(key) {
            Ok(Some((partner, profile))) => {
                node.doorman.note_partner(connection.address.ip(), Instant::now());
                Ok(Introduced { connection, reach: Reach::Permitted(profile.permit), partner })
            }
            Ok(None) => {
                let fingerprint = key.fingerprint();
                let address = connection.address.to_string();
                // A table that cannot be written must not open the door either.
                if node.doorman.may_note_key(Instant::now()) {
                    let _ = node.profiles.note_pending(key, &connection.partner_name, &address, unix_ms() / 1_000);
                }
                let refusal = Refusal::new(
                    RefusalCode::UnknownKey,
                    format!(
                        "'{}' does not know this node's key ({fingerprint}): its admin can approve it with 'culvert profile approve {fingerprint} --name NAME --permit DIRECTORY:both'",
                        node.name
                    ),
                );
                refuse(connection, refusal).await;
                Err(format!("unknown key {fingerprint}"))
            }
            Err(error) => {
                refuse(connection, Refusal::new(RefusalCode::Temporary, "this node cannot read its profiles")).await;
                Err(error.to_string())
            }
        },
    }
}

/// Says no, and waits until it is said.
async fn refuse(connection: Connection, refusal: Refusal) {
    let _ = connection.writer.send(Message::Refused(refusal)).await;
    connection.close().await;
}

/// Answers one request.
async fn answer(node: &Arc<Node>, introduced: Introduced) {
    let Introduced { mut connection, reach, partner } = introduced;
    let introduced_over_ssh = matches!(reach, Reach::Owner { .. });
    let request = match tokio::time::timeout(INTRODUCTION_TIMEOUT, connection.reader.next()).await {
        Ok(Ok(Message::Request(request))) => request,
        Ok(Ok(Message::Path(PathMessage::Ask(request)))) => {
            crate::path::answer::answer(node, connection, request, &partner).await;
            return;
        }
        Ok(Ok(_)) => {
            refuse(connection, Refusal::new(RefusalCode::Protocol, "a request was expected")).await;
            return;
        }
        // Who connects and says nothing, for instance to see whether the port is open, is left.
        Ok(Err(_)) | Err(_) => return,
    };
    if let Err(refusal) = check(&request) {
        refuse(connection, refusal).await;
        return;
    }
    let id = request.transfer;
    let Some(share) = node.shares.take(connection.partner) else {
        let busy = "this node carries out as many transfers for this partner as it does for one: come again later";
        refuse(connection, Refusal::new(RefusalCode::Temporary, busy)).await;
        return;
    };
    let live = match node.registry.begin_for_partner(id, record(&request, &partner)) {
        Ok(live) => live,
        Err(refusal) => return refuse(connection, refusal).await,
    };
    let (writer, farewell) = (connection.writer.clone(), connection.farewell());
    let is_sender = matches!(request.wish, Wish::Pull { .. });
    let mut outcome = carry_out(node, connection, request, reach, Place { live, share }, &partner).await;
    if let Ok(outcome) = &mut outcome {
        node.supervisor.note_datapath(&mut outcome.result).await;
    }
    if let Err(TransferError::Here(refusal)) = &outcome {
        let _ = writer.send(Message::Refused(refusal.clone())).await;
    }
    drop(writer);
    // Before the goodbye: the partner may come again with the same transfer at once.
    let written = match &outcome {
        Ok(outcome) => node.registry.succeed(id, outcome.result.clone(), outcome.receipt.as_ref()),
        Err(error) => node.registry.fail(id, error),
    };
    if let Err(error) = written {
        eprintln!("culvert: the record of transfer {id} could not be written: {error}");
    }
    farewell.wait().await;
    match &outcome {
        Ok(outcome) => node.metrics.note_result(&outcome.result, &partner, is_sender),
        Err(error) => {
            node.metrics.note_failure();
            // Who started a far end over ssh reads the reason from its own end.
            if !introduced_over_ssh {
                eprintln!("culvert: transfer {id} with {partner} ended: {error}");
            }
        }
    }
}

async fn carry_out(
    node: &Arc<Node>,
    connection: Connection,
    request: Request,
    reach: Reach,
    place: Place,
    partner: &str,
) -> Result<Outcome, TransferError> {
    let Place { live, share } = place;
    let plane = node.supervisor.get().await?;
    let _awake = node.wakefulness.hold();
    if request.options.chunk_bytes as usize > plane.buffer_bytes() {
        let text = format!(
            "chunks of {} bytes exceed this node's buffers of {}",
            request.options.chunk_bytes,
            plane.buffer_bytes()
        );
        return Err(TransferError::here(RefusalCode::Protocol, text));
    }
    let datagram_bytes = node.datagram_bytes_towards(connection.address);
    let accepted = Accepted {
        lane_ports: plane.lanes().iter().map(|lane| lane.port).collect(),
        datagram_bytes_max: datagram_bytes,
    };
    let start_bits_per_second = crate::path::advice::start_rate(node, connection.partner);
    let context = |connection| TransferContext {
        id: request.transfer,
        options: request.options,
        identity: node.identity.clone(),
        plane,
        connection,
        partner_lane_ports: request.lane_ports,
        datagram_bytes_max: datagram_bytes.min(request.datagram_bytes_max),
        progress: live.progress,
        cancel: live.cancel,
        start_bits_per_second,
        metrics: node.metrics.clone(),
        patience: node.patience,
        peer: partner.to_owned(),
        share,
    };
    match request.wish {
        Wish::Push { destination } => {
            connection.writer.send(Message::Accepted(accepted)).await?;
            let journals = node.state.path("journals");
            let incoming = Incoming::Files(FileRequest { reach, destination, journals });
            let received = receive(context(connection), incoming).await?;
            Ok(Outcome { result: received.result, receipt: received.receipt })
        }
        Wish::Measure { bytes } => {
            connection.writer.send(Message::Accepted(accepted)).await?;
            let received = receive(context(connection), Incoming::Memory { bytes }).await?;
            Ok(Outcome { result: received.result, receipt: received.receipt })
        }
        Wish::Pull { sources } => {
            let opened =
                blocking(move || sources.iter().map(|source| reach.open_source(source)).collect::<Result<Vec<_>, _>>());
            let sources = opened.await.map_err(TransferError::Here)?;
            connection.writer.send(Message::Accepted(accepted)).await?;
            push(context(connection), sources).await
        }
    }
}

/// Refuses requests that no honest node makes.
fn check(request: &Request) -> Result<(), Refusal> {
    let refuse = |text: &str| Err(Refusal::new(RefusalCode::Protocol, text));
    let chunk_bytes = request.options.chunk_bytes;
    if !chunk_bytes.is_power_of_two() || !CHUNK_BYTES.contains(&chunk_bytes) {
        return refuse("the chunk size is not a power of two between 64 KiB and 16 MiB");
    }
    if request.lane_ports.is_empty() || request.lane_ports.len() > usize::from(FLOWS_MAX) {
        return refuse("the request names no lanes, or too many");
    }
    match &request.wish {
        Wish::Pull { sources } if sources.is_empty() => refuse("the request names no source"),
        Wish::Measure { bytes } if *bytes == 0 || *bytes > MEASURE_BYTES_MAX => {
            refuse("a measurement moves between a byte and 45 TB")
        }
        Wish::Measure { bytes } if bytes.div_ceil(chunk_bytes.into()) > CHUNKS_MAX.into() => {
            refuse("a measurement of so many bytes needs larger chunks")
        }
        _ => Ok(()),
    }
}

fn record(request: &Request, partner: &str) -> TransferRecord {
    let printable = |path: &[u8]| culvert_protocol::names::printable(path);
    let (role, description) = match &request.wish {
        Wish::Push { destination } => (Role::Receive, format!("{partner} → {}", printable(destination))),
        Wish::Pull { sources } => {
            let first = sources.first().map(|source| printable(source)).unwrap_or_default();
            (Role::Send, format!("{first} → {partner}"))
        }
        Wish::Measure { bytes } => (Role::Receive, format!("{bytes} bytes of measurement from {partner}")),
    };
    TransferRecord {
        transfer: request.transfer.to_string(),
        role,
        partner: partner.to_owned(),
        description,
        state: RecordState::Active,
        created_unix_ms: unix_ms(),
        ended_unix_ms: None,
        attempts: 1,
        result: None,
        error: None,
        request: None,
        progress: None,
    }
}
