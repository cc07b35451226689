//! Accepts partners' connections and answers their requests.
//!
//! A connection is authenticated ([`crate::handshakes`]), sends one request, and then holds a slot
//! for a session until the request has been answered. Each step has a pool of slots of its own, so
//! the number of tasks is bounded by the number of slots.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use culvert_engine::connection::{Connection, refuse};
use culvert_engine::limits::{Limit, SESSIONS_MAX, SESSIONS_PER_PARTNER, SESSIONS_RESERVED};
use culvert_engine::responder::{self, IdentifiedPartner, answer};
use culvert_engine::transfer::blocking;
use culvert_model::profile::PermissionSummary;
use culvert_path::answer::answer as answer_check;
use culvert_protocol::control::{Message, PERMISSIONS_ARE_TOLD_SINCE, Refusal, RefusalCode, Request};
use culvert_protocol::identity::PublicKey;
use culvert_protocol::path::{PathMessage, PathRequest};
use culvert_system::log_limit::{self, About};
use culvert_system::os_error;
use tokio::net::TcpListener;

use crate::admission::Admission;
use crate::handshakes::{HandshakeFailure, HandshakePools};
use crate::node::Node;
use crate::slots::{Full, Limits, Slot, SlotPool};

/// How long an authenticated partner may take to send its request, which follows `Hello` at once.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a file server may take to show whether the directories a partner may use exist.
const DIRECTORIES_TIMEOUT: Duration = Duration::from_secs(3);
/// Partners that are authenticated and have not sent a request, or are being refused. A partner may
/// have as many as it may have sessions: a script may start all of them within one round trip.
const AWAITING_REQUEST: Limits = Limits { all: 2 * SESSIONS_MAX, each: SESSIONS_PER_PARTNER };
/// Transfers and path checks requested by partners that run at once. Others are refused as
/// temporary.
const SESSIONS: Limits = Limits { all: SESSIONS_MAX, each: SESSIONS_PER_PARTNER };

/// The pools of slots that a connection passes through.
struct Capacity {
    handshakes: HandshakePools,
    awaiting_request: Arc<SlotPool<PublicKey>>,
    sessions: Arc<SlotPool<PublicKey>>,
}

/// A descriptor held in reserve for accepting a connection when no other is left.
#[derive(Debug)]
pub struct SpareDescriptor(Option<OwnedFd>);

impl SpareDescriptor {
    /// Reserves one.
    ///
    /// # Errors
    /// A sentence: a node without it could refuse nobody with a reason.
    pub fn take() -> Result<Self, String> {
        let taken = os_error::duplicate(rustix::stdio::stderr());
        let none = |error| format!("no connection could be accepted: {error}");
        taken.map(|spare| Self(Some(spare))).map_err(none)
    }

    /// Closes it, so that a connection can have it; returns whether there was one.
    fn release(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Reserves one again after [`SpareDescriptor::release`], if there is one.
    fn renew(&mut self) {
        if self.0.is_none() {
            self.0 = os_error::duplicate(rustix::stdio::stderr()).ok();
        }
    }
}

/// Accepts connections and answers them, forever.
pub async fn listen(node: Arc<Node>, listener: TcpListener, mut spare: SpareDescriptor, admission: Admission) {
    let capacity = Capacity {
        handshakes: HandshakePools::default(),
        awaiting_request: SlotPool::new(AWAITING_REQUEST),
        sessions: SlotPool::new(SESSIONS),
    };
    let (capacity, admission) = (Arc::new(capacity), Arc::new(admission));
    loop {
        let (tcp, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Out of descriptors: the partner is accepted with the spare one, and gets a message
            // that says what this node lacks.
            Err(_) if spare.release() => continue,
            // Out of descriptors even so, or the connection was gone before it was accepted.
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
        // An IPv4 address that arrives through an IPv6 socket counts, and is shown, as IPv4.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        spare.renew();
        let (node, capacity, admission) = (node.clone(), capacity.clone(), admission.clone());
        // Taken here and not in the task, so that there are never more tasks than slots.
        let slot = capacity.handshakes.take(&node, address);
        tokio::spawn(async move {
            let identified = match slot {
                Some(slot) => capacity.handshakes.authenticate(&node, slot, tcp, &admission).await,
                None => Err(HandshakeFailure::Crowded),
            };
            match identified {
                Ok(identified) => serve(&node, &capacity, identified).await,
                Err(reason) => {
                    node.metrics.note_refused_connection();
                    node.metrics.note_turned_away("control", reason.word());
                    log_limit::say(About::Strangers, || format!("a connection from {address} was refused: {reason}"));
                }
            }
        });
    }
}

/// Reads a partner's request and answers it.
async fn serve(node: &Arc<Node>, capacity: &Capacity, identified: IdentifiedPartner) {
    // A connection without a request is never busy, so a slot can always be freed.
    let Ok(mut slot) = capacity.awaiting_request.take(identified.connection.partner) else { return };
    match read_request(identified, &mut slot).await {
        Ok(request) => match take_session(node, capacity, request) {
            Ok((request, _session)) => {
                drop(slot);
                answer_request(node, request).await;
            }
            Err(refused) => refuse_early(node, *refused, slot).await,
        },
        Err(Some(refused)) => refuse_early(node, *refused, slot).await,
        // Answered already, or a client that only connects and leaves, for example to see whether
        // the port is open.
        Err(None) => {}
    }
}

async fn answer_request(node: &Arc<Node>, request: PartnerRequest) {
    match request {
        PartnerRequest::Transfer(identified, request) => answer(&node.engine, identified, request).await,
        PartnerRequest::Path(identified, request) => {
            let IdentifiedPartner { connection, partner, .. } = identified;
            answer_check(&node.engine, &node.path, connection, request, &partner).await;
        }
    }
}

async fn refuse_early(node: &Node, refused: EarlyRefusal, mut slot: Slot<PublicKey>) {
    let EarlyRefusal { connection, reason, refusal } = refused;
    node.metrics.note_turned_away("asking", reason);
    tokio::select! {
        () = refuse(connection, refusal) => {}
        () = slot.evicted() => {}
    }
}

/// What a partner requests.
enum PartnerRequest {
    Transfer(IdentifiedPartner, Request),
    Path(IdentifiedPartner, PathRequest),
}

/// A partner that is refused before anything is done for it.
struct EarlyRefusal {
    connection: Connection,
    /// The label in metrics.
    reason: &'static str,
    refusal: Refusal,
}

impl EarlyRefusal {
    fn new(identified: IdentifiedPartner, reason: &'static str, refusal: Refusal) -> Box<Self> {
        Box::new(Self { connection: identified.connection, reason, refusal })
    }

    fn temporary(identified: IdentifiedPartner, reason: &'static str, text: &str) -> Box<Self> {
        Self::new(identified, reason, Refusal::new(RefusalCode::Temporary, text))
    }
}

/// Waits for a partner's request. The error is none if nothing remains to be done for the
/// connection.
async fn read_request(
    mut identified: IdentifiedPartner,
    slot: &mut Slot<PublicKey>,
) -> Result<PartnerRequest, Option<Box<EarlyRefusal>>> {
    let message = tokio::select! {
        biased;
        message = identified.connection.reader.next() => message,
        () = slot.evicted() => {
            let text = "newer connections of this partner without a request needed the slot of this one";
            return Err(Some(EarlyRefusal::temporary(identified, "crowded", text)));
        }
        () = tokio::time::sleep(REQUEST_TIMEOUT) => {
            let text = format!("no request arrived within {} s", REQUEST_TIMEOUT.as_secs());
            return Err(Some(EarlyRefusal::temporary(identified, "silent", &text)));
        }
    };
    match message {
        //= W-35
        //# The connecting end sends one `Request`: transfer id, operation (push, pull or measure),
        //# options, the UDP ports of its lanes, its largest datagram.
        Ok(Message::Request(request)) => match responder::check(&request) {
            Ok(()) => Ok(PartnerRequest::Transfer(identified, request)),
            Err(refusal) => Err(Some(EarlyRefusal::new(identified, "broken", refusal))),
        },
        //= W-46
        //# Since version 2, the connecting end may send `Path(Ask)` in place of a `Request`. A path
        //# check follows instead of a transfer, under rules P-1 … P-9 in `docs/path.md`.
        Ok(Message::Path(PathMessage::Ask(request))) => Ok(PartnerRequest::Path(identified, request)),
        Ok(Message::Ping(number)) => {
            answer_ping(identified, number).await;
            Err(None)
        }
        Ok(_) => {
            let refusal = Refusal::new(RefusalCode::Protocol, "a request was expected");
            Err(Some(EarlyRefusal::new(identified, "broken", refusal)))
        }
        Err(_) => Err(None),
    }
}

/// Tells a partner that only asks whether this node knows it what it may do here.
//= W-35
//# An end that only wants to check whether it is known sends `Ping` instead, receives `Pong`, and
//# the connection is closed.
async fn answer_ping(identified: IdentifiedPartner, number: u64) {
    let IdentifiedPartner { connection, reach, .. } = identified;
    //= W-60
    //# Since version 8, an end that receives `Ping` in place of a `Request` (W-35) sends `Permits`
    //# before its `Pong`. It says whether the asking end may store files with it and whether it may
    //# fetch any: `no`, `yes`, or `unusable` if it may but the node's account cannot use any of the
    //# directories.
    if connection.version >= PERMISSIONS_ARE_TOLD_SINCE {
        let permissions = tokio::time::timeout(DIRECTORIES_TIMEOUT, blocking(move || reach.leaves())).await;
        //= W-60
        //# The end may omit the message; it sends it at most once and at no other time.
        if let Ok(PermissionSummary { store, fetch }) = permissions {
            let _ = connection.writer.send(Message::Permits { store, fetch }).await;
        }
    }
    let _ = connection.writer.send(Message::Pong(number)).await;
    connection.close().await;
}

/// Takes a slot for what a partner requests.
fn take_session(
    node: &Node,
    capacity: &Capacity,
    request: PartnerRequest,
) -> Result<(PartnerRequest, Slot<PublicKey>), Box<EarlyRefusal>> {
    let (PartnerRequest::Transfer(identified, _) | PartnerRequest::Path(identified, _)) = &request;
    let full = match capacity.sessions.take_share(identified.connection.partner, SESSIONS_RESERVED) {
        Ok(session) if session.mark_busy() => return Ok((request, session)),
        Ok(_) => Full::All,
        Err(full) => full,
    };
    let text = match full {
        Full::Holder => "this node is running as many transfers for this partner as its share permits: try again later",
        Full::All => "this node is running as many transfers as it can: try again later",
    };
    node.metrics.note_limit(Limit::Sessions);
    let (PartnerRequest::Transfer(identified, _) | PartnerRequest::Path(identified, _)) = request;
    Err(EarlyRefusal::temporary(identified, full.word(), text))
}
