//! What a node answers: incoming connections, who may come in, and what they may ask for.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use culvert_model::exit_code::ExitCode;
use culvert_model::profile::Leaves;
use culvert_model::record::{RecordState, Role, TransferRecord};
use culvert_objects::fs::destination::{NOT_PERMITTED, Reach};
use culvert_objects::fs::sources::{SOURCES_PER_REQUEST, Source};
use culvert_protocol::chunk_map::{CHUNK_BYTES, CHUNKS_MAX};
use culvert_protocol::control::{
    Accepted, FLOWS_MAX, Message, NOT_KEPT_IS_TOLD_SINCE, PERMISSIONS_ARE_TOLD_SINCE, Refusal, RefusalCode, Request,
    Wish,
};
use culvert_protocol::counted::{counted, grouped};
use culvert_protocol::foreign_text::foreign_text;
use culvert_protocol::identity::PublicKey;
use culvert_protocol::names::NAME_BYTES_MAX;
use culvert_protocol::path::{PathMessage, PathRequest};
use culvert_system::log_limit::{self, About};
use culvert_system::os_error;
use tokio::net::TcpListener;

use crate::cli::exit::CommandError;
use crate::connection::Connection;
use crate::limits::{
    Limit, MEASURE_BYTES_MAX, SESSIONS_MAX, SESSIONS_PER_PARTNER, SESSIONS_RESERVED, sources_per_partner,
};
use crate::lobby::{Introduced, Lobbies, Turned, refuse};
use crate::node::Node;
use crate::places::{Full, Limits, Place, Places};
use crate::registry::{LiveTransfer, unix_ms};
use crate::request::{Outcome, push};
use crate::shares::{Kind, Piece, Share};
use crate::transfer::error::TransferError;
use crate::transfer::receiving::{FileRequest, Incoming, receive};
use crate::transfer::udp_path::{Ends, PortsOption};
use crate::transfer::{TransferContext, blocking};

/// How long a partner that is introduced may take to ask: a request follows the introduction at
/// once.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a file server may take to say whether the directories are there that a partner may use.
const DIRECTORIES_PATIENCE: Duration = Duration::from_secs(3);
/// Partners that are introduced and have not asked, or are told no. One partner has as many as it
/// may have transfers: a script may begin all of them within one round trip.
const ASKING: Limits = Limits { all: 2 * SESSIONS_MAX, each: SESSIONS_PER_PARTNER };
/// Partners' transfers and path checks that run at once; more are told to come again.
const SESSIONS: Limits = Limits { all: SESSIONS_MAX, each: SESSIONS_PER_PARTNER };

/// Whom a node lets in, and how far.
#[derive(Clone, Debug)]
pub enum Admission {
    /// Any partner with a profile, as far as it permits.
    Profiles,
    /// One key only, whose owner started this node over ssh and may do what they may do there.
    Owner {
        /// The key.
        key: PublicKey,
        /// What may be reached.
        reach: Reach,
    },
}

/// Where partners are that have introduced themselves.
struct Hall {
    lobbies: Lobbies,
    asking: Arc<Places<PublicKey>>,
    sessions: Arc<Places<PublicKey>>,
}

/// A descriptor that is kept for the connection that comes when there is no other.
#[derive(Debug)]
pub struct SpareDescriptor(Option<OwnedFd>);

impl SpareDescriptor {
    /// Takes one.
    ///
    /// # Errors
    /// [`CommandError`]: a node that has none could not let in anybody.
    pub fn take() -> Result<Self, CommandError> {
        let taken = os_error::duplicate(rustix::stdio::stderr());
        let none = |error| CommandError::new(ExitCode::BadHost, format!("no connection could be accepted: {error}"));
        taken.map(|spare| Self(Some(spare))).map_err(none)
    }

    /// Gives it up, so that a connection can have it; whether there was one.
    fn give_up(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Takes one again if it was given up and there is one.
    fn renew(&mut self) {
        if self.0.is_none() {
            self.0 = os_error::duplicate(rustix::stdio::stderr()).ok();
        }
    }
}

/// Answers connections until the listener fails.
pub async fn listen(node: Arc<Node>, listener: TcpListener, mut spare: SpareDescriptor, admission: Admission) {
    let hall = Hall { lobbies: Lobbies::default(), asking: Places::new(ASKING), sessions: Places::new(SESSIONS) };
    let (hall, admission) = (Arc::new(hall), Arc::new(admission));
    loop {
        let (tcp, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Out of descriptors: the partner is admitted with the spare one, and gets a message
            // about what this node lacks.
            Err(_) if spare.give_up() => continue,
            // Out of descriptors all the same, or the connection was gone before it was accepted.
            Err(error) => {
                if os_error::errno_of(&error).is_some_and(os_error::is_shortage) {
                    log_limit::say(About::Strangers, || {
                        os_error::explained(format!("a connection cannot be accepted: {error}"))
                    });
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // One that came over an IPv6 socket is shown as the IPv4 address that it is.
        let address = std::net::SocketAddr::new(address.ip().to_canonical(), address.port());
        spare.renew();
        let (node, hall, admission) = (node.clone(), hall.clone(), admission.clone());
        // The place is taken here and not in the task, so that tasks are as few as places.
        let place = hall.lobbies.place(&node, address);
        tokio::spawn(async move {
            let introduced = match place {
                Some(place) => hall.lobbies.introduce(&node, place, tcp, &admission).await,
                None => Err(Turned::Crowded),
            };
            match introduced {
                Ok(introduced) => attend(&node, &hall, introduced).await,
                Err(reason) => {
                    node.metrics.note_refused_connection();
                    node.metrics.note_turned_away("control", reason.word());
                    log_limit::say(About::Strangers, || format!("a connection from {address} was refused: {reason}"));
                }
            }
        });
    }
}

/// Attends to a partner until it has asked and been answered.
async fn attend(node: &Arc<Node>, hall: &Hall, introduced: Introduced) {
    // A connection without a request is never busy, so one slot can always be freed.
    let Ok(mut place) = hall.asking.take(introduced.connection.partner) else { return };
    let asked = hear_request(node, hall, introduced, &mut place).await;
    match asked {
        Ok((asked, _session)) => {
            drop(place);
            match asked {
                Asked::Transfer(introduced, request) => answer(node, introduced, request).await,
                Asked::Path(introduced, request) => {
                    crate::path::answer::answer(node, introduced.connection, request, &introduced.partner).await;
                }
            }
        }
        Err(Some(unheard)) => {
            let Unheard { connection, reason, refusal } = *unheard;
            node.metrics.note_turned_away("asking", reason);
            tokio::select! {
                () = refuse(connection, refusal) => {}
                () = place.lost() => {}
            }
        }
        // Clients that connect and leave, for example to see whether the port is open, are ignored.
        Err(None) => {}
    }
}

/// What a partner asks for.
enum Asked {
    Transfer(Introduced, Request),
    Path(Introduced, PathRequest),
}

/// A partner that is refused before anything is done for it.
struct Unheard {
    connection: Connection,
    reason: &'static str,
    refusal: Refusal,
}

/// Waits for a partner's request, and takes a place for what it asks.
async fn hear_request(
    node: &Node,
    hall: &Hall,
    mut introduced: Introduced,
    place: &mut Place<PublicKey>,
) -> Result<(Asked, Place<PublicKey>), Option<Box<Unheard>>> {
    let unheard = |introduced: Introduced, reason, refusal| {
        Err(Some(Box::new(Unheard { connection: introduced.connection, reason, refusal })))
    };
    let temporary = |text: &str| Refusal::new(RefusalCode::Temporary, text);
    let message = tokio::select! {
        biased;
        message = introduced.connection.reader.next() => message,
        () = place.lost() => {
            let text = "newer connections of this partner without a request needed the slot of this one";
            return unheard(introduced, "crowded", temporary(text));
        }
        () = tokio::time::sleep(REQUEST_TIMEOUT) => {
            let text = format!("no request came within {} s", REQUEST_TIMEOUT.as_secs());
            return unheard(introduced, "silent", temporary(&text));
        }
    };
    let key = introduced.connection.partner;
    let asked = match message {
        Ok(Message::Request(request)) => match check(&request) {
            Ok(()) => Asked::Transfer(introduced, request),
            Err(refusal) => return unheard(introduced, "broken", refusal),
        },
        Ok(Message::Path(PathMessage::Ask(request))) => Asked::Path(introduced, request),
        // A client that only asks whether it is known, is.
        Ok(Message::Ping(number)) => {
            if introduced.connection.version >= PERMISSIONS_ARE_TOLD_SINCE {
                let reach = introduced.reach.clone();
                let leaves = tokio::time::timeout(DIRECTORIES_PATIENCE, blocking(move || reach.leaves())).await;
                // Who hears nothing of it knows as little as from an older program.
                if let Ok(Leaves { store, fetch }) = leaves {
                    let _ = introduced.connection.writer.send(Message::Permits { store, fetch }).await;
                }
            }
            let _ = introduced.connection.writer.send(Message::Pong(number)).await;
            introduced.connection.close().await;
            return Err(None);
        }
        Ok(_) => {
            let refusal = Refusal::new(RefusalCode::Protocol, "a request was expected");
            return unheard(introduced, "broken", refusal);
        }
        Err(_) => return Err(None),
    };
    let full = match hall.sessions.take_beside(key, SESSIONS_RESERVED) {
        Ok(session) if session.settle() => return Ok((asked, session)),
        Ok(_) => Full::All,
        Err(full) => full,
    };
    let text = match full {
        Full::Holder => "this node is running as many transfers for this partner as its share permits: try again later",
        Full::All => "this node is running as many transfers as it can: try again later",
    };
    node.metrics.note_limit(Limit::Sessions);
    let (Asked::Transfer(introduced, _) | Asked::Path(introduced, _)) = asked;
    unheard(introduced, full.word(), temporary(text))
}

/// What a transfer has at this node.
struct Begun {
    live: LiveTransfer,
    share: Share,
}

/// Answers one request.
async fn answer(node: &Arc<Node>, introduced: Introduced, request: Request) {
    let Introduced { mut connection, reach, partner } = introduced;
    let introduced_over_ssh = matches!(reach, Reach::Owner { .. });
    let id = request.transfer;
    let share = node.shares.take(connection.partner);
    let live = match node.registry.begin_for_partner(id, record(&request, &partner)).await {
        Ok(live) => live,
        Err(refusal) => return refuse(connection, refusal).await,
    };
    let (writer, farewell) = (connection.writer.clone(), connection.farewell());
    let version = connection.version;
    let is_told = version >= NOT_KEPT_IS_TOLD_SINCE;
    let is_sender = matches!(request.wish, Wish::Pull { .. });
    let mut outcome = carry_out(node, connection, request, reach, Begun { live, share }, &partner).await;
    if let Ok(outcome) = &mut outcome {
        node.supervisor.note_datapath(&mut outcome.result).await;
    }
    if let Some(refusal) = outcome.as_ref().err().and_then(TransferError::told) {
        let refusal = node.registry.told(id, refusal, version);
        if refusal.code == RefusalCode::Temporary {
            outcome = Err(TransferError::Here(refusal.clone()));
        }
        let _ = writer.send(Message::Refused(refusal)).await;
    }
    // Before the goodbye, for which the partner waits (W-56): it may come again with the same
    // transfer at once, or have this node stopped.
    let written = match &mut outcome {
        Ok(outcome) => {
            let journal = outcome.journal.take();
            let goodbye = async {
                Outcome::forget_journal(journal).await;
                drop(writer);
            };
            node.registry.succeed(id, outcome.result.clone(), outcome.receipt.as_ref(), goodbye).await
        }
        Err(error) => {
            let failed = node.registry.fail(id, error).await;
            drop(writer);
            failed
        }
    };
    if let Err(error) = written {
        log_limit::say(About::Records, || {
            format!("the record of transfer {id} has not been written yet: {error}; retrying")
        });
    }
    farewell.wait().await;
    match &outcome {
        Ok(outcome) => {
            node.metrics.note_result(&outcome.result, &partner, is_sender);
            if !introduced_over_ssh {
                let way = if is_sender { "to" } else { "from" };
                log_limit::inform(About::Stored, || {
                    format!("transfer {id} {way} {partner}: {}", outcome.result.line())
                });
            }
            // As below, unless it is reported elsewhere.
            if let Some(warning) = outcome.result.warning().filter(|_| !introduced_over_ssh || !is_told) {
                log_limit::say(About::Transfers, || format!("warning: transfer {id} with {partner}: {warning}"));
            }
        }
        Err(error) => {
            node.metrics.note_failure();
            // The user who started a far end over ssh reads the reason from their own end.
            if !introduced_over_ssh {
                log_limit::say(About::Transfers, || match error.told() {
                    // The sentence is written for whoever asked.
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

async fn carry_out(
    node: &Arc<Node>,
    connection: Connection,
    request: Request,
    reach: Reach,
    begun: Begun,
    partner: &str,
) -> Result<Outcome, TransferError> {
    let Begun { live, share } = begun;
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
    let start_bits_per_second = crate::path::advice::start_rate(node, connection.partner).await;
    let opened = match &request.wish {
        Wish::Pull { sources } => open_sources(node, &share, reach.clone(), sources.clone()).await?,
        Wish::Push { .. } | Wish::Measure { .. } => OpenedSources::default(),
    };
    let is_owners = matches!(reach, Reach::Owner { .. });
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
        names: live.names,
        start_bits_per_second,
        metrics: node.metrics.clone(),
        patience: node.patience,
        peer: partner.to_owned(),
        // Where this end sends, the other has asked for it, and reads what this end says.
        ends: Ends {
            here: node.name.clone(),
            option: PortsOption::Ports,
            senders_option: if is_owners { PortsOption::RemotePorts } else { PortsOption::PortsOfNode },
        },
        share,
    };
    match request.wish {
        Wish::Push { destination } => {
            connection.writer.send(Message::Accepted(accepted)).await?;
            let journals = node.state.path("journals");
            let context = context(connection);
            let (metrics, foretells) = (node.metrics.clone(), context.tells_dry_run());
            let incoming = Incoming::Files(FileRequest { reach, destination, journals, metrics, foretells });
            let received = receive(context, incoming).await?;
            Ok(received.into())
        }
        Wish::Measure { bytes } => {
            connection.writer.send(Message::Accepted(accepted)).await?;
            let received = receive(context(connection), Incoming::Memory { bytes }).await?;
            Ok(received.into())
        }
        Wish::Pull { .. } => {
            let OpenedSources { sources, places } = opened;
            connection.writer.send(Message::Accepted(accepted)).await?;
            let pushed = push(context(connection), sources).await;
            drop(places);
            pushed
        }
    }
}

/// The sources of a request, and the places that they take.
#[derive(Default)]
struct OpenedSources {
    sources: Vec<Source>,
    places: Vec<Piece>,
}

/// Opens the sources of a request. Each takes a place before it is opened, and so does each further
/// match of a pattern.
async fn open_sources(
    node: &Arc<Node>,
    share: &Share,
    reach: Reach,
    asked: Vec<Vec<u8>>,
) -> Result<OpenedSources, TransferError> {
    let (node, share) = (node.clone(), share.branch());
    // A user's own far end has all that a request can name.
    let is_limited = matches!(reach, Reach::Permitted(_));
    let opened = blocking(move || {
        let (mut places, mut count) = (Vec::new(), 0);
        let mut may_open = |more| {
            if is_limited {
                places.push(places_for_sources(&node, &share, more, count)?);
                count += more;
            }
            Ok(())
        };
        may_open(asked.len())?;
        let sources = reach.open_sources(&asked, &node.name, &mut may_open)?;
        Ok(OpenedSources { sources, places })
    });
    opened.await.map_err(TransferError::Here)
}

/// Places for sources of a request that has some already; each may be a directory that stays open
/// while the transfer runs.
fn places_for_sources(node: &Node, share: &Share, more: usize, already: usize) -> Result<Piece, Refusal> {
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
        node.metrics.note_limit(Limit::Sources);
        Refusal::new(code, text)
    })
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
    let paths = match &request.wish {
        Wish::Push { destination } => std::slice::from_ref(destination),
        Wish::Pull { sources } => sources,
        Wish::Measure { .. } => &[],
    };
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
        Wish::Pull { sources } if sources.is_empty() => refuse("the request names no source"),
        Wish::Measure { bytes } if *bytes == 0 || *bytes > MEASURE_BYTES_MAX => {
            refuse("a measurement must be between 1 byte and 45 TB")
        }
        Wish::Measure { bytes } if bytes.div_ceil(chunk_bytes.into()) > CHUNKS_MAX.into() => {
            refuse("a measurement of this size needs larger chunks")
        }
        _ => Ok(()),
    }
}

fn record(request: &Request, partner: &str) -> TransferRecord {
    let printable = |path: &[u8]| foreign_text(&culvert_protocol::names::printable(path));
    let (role, description) = match &request.wish {
        Wish::Push { destination } => (Role::Receive, format!("{partner} → {}", printable(destination))),
        Wish::Pull { sources } => {
            let first = sources.first().map(|source| printable(source)).unwrap_or_default();
            (Role::Send, format!("{first} → {partner}"))
        }
        Wish::Measure { bytes } => {
            (Role::Receive, format!("{} of measurement from {partner}", counted(*bytes, "byte")))
        }
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
