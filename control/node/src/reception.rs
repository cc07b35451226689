//! What a node answers: incoming connections, who may come in, and what they may ask for.

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

/// Where partners are that have introduced themselves.
struct Capacity {
    handshakes: HandshakePools,
    asking: Arc<SlotPool<PublicKey>>,
    sessions: Arc<SlotPool<PublicKey>>,
}

/// A descriptor that is kept for the connection that comes when there is no other.
#[derive(Debug)]
pub struct SpareDescriptor(Option<OwnedFd>);

impl SpareDescriptor {
    /// Takes one.
    ///
    /// # Errors
    /// A sentence: a node that has none could not let in anybody.
    pub fn take() -> Result<Self, String> {
        let taken = os_error::duplicate(rustix::stdio::stderr());
        let none = |error| format!("no connection could be accepted: {error}");
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
    let capacity = Capacity {
        handshakes: HandshakePools::default(),
        asking: SlotPool::new(ASKING),
        sessions: SlotPool::new(SESSIONS),
    };
    let (capacity, admission) = (Arc::new(capacity), Arc::new(admission));
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
        let (node, capacity, admission) = (node.clone(), capacity.clone(), admission.clone());
        // The place is taken here and not in the task, so that tasks are as few as places.
        let place = capacity.handshakes.place(&node, address);
        tokio::spawn(async move {
            let introduced = match place {
                Some(place) => capacity.handshakes.introduce(&node, place, tcp, &admission).await,
                None => Err(HandshakeFailure::Crowded),
            };
            match introduced {
                Ok(introduced) => attend(&node, &capacity, introduced).await,
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
async fn attend(node: &Arc<Node>, capacity: &Capacity, introduced: IdentifiedPartner) {
    // A connection without a request is never busy, so one slot can always be freed.
    let Ok(mut place) = capacity.asking.take(introduced.connection.partner) else { return };
    let asked = hear_request(node, capacity, introduced, &mut place).await;
    match asked {
        Ok((asked, _session)) => {
            drop(place);
            match asked {
                PartnerRequest::Transfer(introduced, request) => answer(&node.engine, introduced, request).await,
                PartnerRequest::Path(introduced, request) => {
                    let IdentifiedPartner { connection, partner, .. } = introduced;
                    answer_check(&node.engine, &node.path, connection, request, &partner).await;
                }
            }
        }
        Err(Some(unheard)) => {
            let EarlyRefusal { connection, reason, refusal } = *unheard;
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
enum PartnerRequest {
    Transfer(IdentifiedPartner, Request),
    Path(IdentifiedPartner, PathRequest),
}

/// A partner that is refused before anything is done for it.
struct EarlyRefusal {
    connection: Connection,
    reason: &'static str,
    refusal: Refusal,
}

/// Waits for a partner's request, and takes a place for what it asks.
async fn hear_request(
    node: &Node,
    capacity: &Capacity,
    mut introduced: IdentifiedPartner,
    place: &mut Slot<PublicKey>,
) -> Result<(PartnerRequest, Slot<PublicKey>), Option<Box<EarlyRefusal>>> {
    let unheard = |introduced: IdentifiedPartner, reason, refusal| {
        Err(Some(Box::new(EarlyRefusal { connection: introduced.connection, reason, refusal })))
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
        Ok(Message::Request(request)) => match responder::check(&request) {
            Ok(()) => PartnerRequest::Transfer(introduced, request),
            Err(refusal) => return unheard(introduced, "broken", refusal),
        },
        Ok(Message::Path(PathMessage::Ask(request))) => PartnerRequest::Path(introduced, request),
        // A client that only asks whether it is known, is.
        Ok(Message::Ping(number)) => {
            if introduced.connection.version >= PERMISSIONS_ARE_TOLD_SINCE {
                let reach = introduced.reach.clone();
                let leaves = tokio::time::timeout(DIRECTORIES_PATIENCE, blocking(move || reach.leaves())).await;
                // Who hears nothing of it knows as little as from an older program.
                if let Ok(PermissionSummary { store, fetch }) = leaves {
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
    let full = match capacity.sessions.take_beside(key, SESSIONS_RESERVED) {
        Ok(session) if session.settle() => return Ok((asked, session)),
        Ok(_) => Full::All,
        Err(full) => full,
    };
    let text = match full {
        Full::Holder => "this node is running as many transfers for this partner as its share permits: try again later",
        Full::All => "this node is running as many transfers as it can: try again later",
    };
    node.metrics.note_limit(Limit::Sessions);
    let (PartnerRequest::Transfer(introduced, _) | PartnerRequest::Path(introduced, _)) = asked;
    unheard(introduced, full.word(), temporary(text))
}
