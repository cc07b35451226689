//! From a TCP connection to a partner that may make requests: who waits, how long, and who is
//! turned away with which reason.
//!
//! ```text
//! accept ──> waiting: 3 s for the ClientHello ──> introducing: handshake, Hello, profile ──> asking: 5 s for a request
//!            places per host                      places per host, rate per host              places per partner
//! ```
//!
//! Strangers' hosts and partners' hosts have separate pools. In each, the oldest waiting
//! connection makes room ([`crate::slots`]), so silence never locks anybody out, not even behind
//! the same address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_engine::clock::unix_ms;
use culvert_engine::connection::incoming::ClientHelloReceived;
use culvert_engine::connection::{Connection, INTRODUCTION_TIMEOUT, refuse};
use culvert_engine::responder::IdentifiedPartner;
use culvert_engine::transfer::blocking;
use culvert_model::profile::Profile;
use culvert_objects::fs::reach::Reach;
use culvert_protocol::control::{Refusal, RefusalCode};
use culvert_protocol::identity::PublicKey;
use culvert_state::StateError;
use culvert_system::log_limit::{self, About};
use culvert_system::os_error;
use tokio::net::TcpStream;

use crate::admission::Admission;
use crate::host::Host;
use crate::node::Node;
use crate::profiles::ProfileError;
use crate::slots::{Limits, Slot, SlotPool};

/// How long a connection may take to say what it wants: a ClientHello is one flight of packets,
/// sent at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections whose ClientHello has not come. They cost a descriptor and some kilobytes; one
/// host's are replaced after 64 newer ones, which at 20 a second is as long as they may wait
/// anyway.
const WAITING: Limits = Limits { all: 256, each: 64 };
/// Strangers' hosts that shake hands or are told no. One host may begin 20 handshakes a second
/// ([`crate::connection_limiter`]), so each keeps its place for more than a second, longer than a
/// handshake by way of a satellite takes; and so many may come within one round trip.
const INTRODUCING_STRANGERS: Limits = Limits { all: 128, each: 32 };
/// The same for partners' hosts, behind each of which may be others' accounts. A script may begin
/// many transfers at once.
const INTRODUCING_PARTNERS: Limits = Limits { all: 256, each: 96 };

/// Where hosts of one kind wait.
#[derive(Debug)]
struct HandshakePool {
    waiting: Arc<SlotPool<Host>>,
    introducing: Arc<SlotPool<Host>>,
}

/// Where connections wait until they are introduced.
#[derive(Debug)]
pub struct HandshakePools {
    strangers: HandshakePool,
    partners: HandshakePool,
}

impl Default for HandshakePools {
    fn default() -> Self {
        let handshakes =
            |introducing| HandshakePool { waiting: SlotPool::new(WAITING), introducing: SlotPool::new(introducing) };
        Self { strangers: handshakes(INTRODUCING_STRANGERS), partners: handshakes(INTRODUCING_PARTNERS) }
    }
}

/// Why a connection is turned away.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeFailure {
    /// No ClientHello.
    #[error("it sent nothing for {} s", HELLO_TIMEOUT.as_secs())]
    Silent,
    /// Newer connections took its place.
    #[error("newer connections from its host needed its slot")]
    Crowded,
    /// More handshakes than its host may begin.
    #[error("its host starts too many handshakes")]
    TooMany,
    /// The introduction took too long.
    #[error("its introduction took longer than {} s", INTRODUCTION_TIMEOUT.as_secs())]
    Slow,
    /// What came was no introduction of a Culvert node.
    #[error("{0}")]
    Broken(String),
    /// Nobody that this node knows.
    #[error("{0}")]
    Unknown(String),
    /// This node cannot tell.
    #[error(transparent)]
    Profiles(#[from] ProfileError),
}

impl HandshakeFailure {
    /// The word for it in metrics.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Crowded => "crowded",
            Self::TooMany => "too_many",
            Self::Slow => "slow",
            Self::Broken(_) => "broken",
            Self::Unknown(_) => "unknown_key",
            Self::Profiles(_) => "profiles",
        }
    }
}

/// A slot for a waiting connection.
#[derive(Debug)]
pub struct HandshakeSlot {
    address: SocketAddr,
    is_partners: bool,
    place: Slot<Host>,
}

impl HandshakePools {
    const fn of(&self, is_partners: bool) -> &HandshakePool {
        if is_partners { &self.partners } else { &self.strangers }
    }

    /// A place for a connection that was just accepted.
    #[must_use]
    pub fn place(&self, node: &Node, address: SocketAddr) -> Option<HandshakeSlot> {
        let is_partners = node.connection_limiter.knows(address.ip(), Instant::now());
        // A waiting connection is never busy, so one slot can always be freed.
        let place = self.of(is_partners).waiting.take(address.ip().into()).ok()?;
        Some(HandshakeSlot { address, is_partners, place })
    }

    /// Waits for a connection's first message, and authenticates its peer.
    ///
    /// # Errors
    /// [`HandshakeFailure`]; a peer that could receive a reason has received it.
    pub async fn introduce(
        &self,
        node: &Node,
        seat: HandshakeSlot,
        tcp: TcpStream,
        admission: &Admission,
    ) -> Result<IdentifiedPartner, HandshakeFailure> {
        let HandshakeSlot { address, is_partners, mut place } = seat;
        let greeted = tokio::select! {
            biased;
            greeted = ClientHelloReceived::hear(tcp, address) => greeted.map_err(|error| HandshakeFailure::Broken(error.to_string()))?,
            () = place.lost() => return Err(HandshakeFailure::Crowded),
            () = tokio::time::sleep(HELLO_TIMEOUT) => return Err(HandshakeFailure::Silent),
        };
        if !node.connection_limiter.admits(address.ip(), Instant::now()) {
            return Err(HandshakeFailure::TooMany);
        }
        let introducing = self.of(is_partners).introducing.take(address.ip().into());
        drop(std::mem::replace(&mut place, introducing.map_err(|_| HandshakeFailure::Crowded)?));
        tokio::select! {
            biased;
            introduced = find_out(node, greeted, admission) => introduced,
            () = place.lost() => Err(HandshakeFailure::Crowded),
            () = tokio::time::sleep(INTRODUCTION_TIMEOUT) => Err(HandshakeFailure::Slow),
        }
    }
}

/// Performs the handshake, authenticates the peer, and turns strangers away with a reason.
async fn find_out(
    node: &Node,
    greeted: ClientHelloReceived,
    admission: &Admission,
) -> Result<IdentifiedPartner, HandshakeFailure> {
    let connection = greeted
        .accept(&node.engine.tls, &node.engine.name)
        .await
        .map_err(|error| HandshakeFailure::Broken(error.to_string()))?;
    let key = connection.partner;
    match admission {
        Admission::Owner { key: owner, reach } if key == *owner => {
            Ok(IdentifiedPartner { connection, reach: reach.clone(), partner: "ssh".to_owned() })
        }
        Admission::Owner { .. } => {
            let text = "this far end serves only the command that started it";
            refuse(connection, Refusal::new(RefusalCode::UnknownKey, text)).await;
            Err(HandshakeFailure::Unknown(text.to_owned()))
        }
        Admission::Profiles => match profile_with(node, key).await {
            Ok(Some((partner, profile))) => {
                node.connection_limiter.note_partner(connection.address.ip(), Instant::now());
                node.path.measurement_peers.note_partner(key, connection.address.ip());
                Ok(IdentifiedPartner { connection, reach: Reach::Permitted(profile.permit), partner })
            }
            Ok(None) => {
                let is_noted = note_key(node, &connection).await;
                refuse(connection, unknown_key(node, key, is_noted)).await;
                Err(HandshakeFailure::Unknown(format!("unknown key {}", key.fingerprint())))
            }
            Err(error) => {
                refuse(connection, unread_profiles(&error)).await;
                Err(error.into())
            }
        },
    }
}

/// The profile with a key. The files are read outside the runtime's thread.
async fn profile_with(node: &Node, key: PublicKey) -> Result<Option<(String, Profile)>, ProfileError> {
    let profiles = node.profiles.clone();
    blocking(move || profiles.with_key(key)).await
}

/// Notes a stranger's key for approval; whether it stands in the table now. A table that cannot be
/// written must not open the door either.
async fn note_key(node: &Node, connection: &Connection) -> bool {
    let (key, address) = (connection.partner, connection.address);
    if !node.connection_limiter.may_note_key(address.ip(), Instant::now()) {
        node.metrics.note_turned_away("pending_keys", "too_many");
        let profiles = node.profiles.clone();
        return blocking(move || profiles.pending().is_ok_and(|keys| keys.iter().any(|known| known.key == key))).await;
    }
    let (profiles, name) = (node.profiles.clone(), connection.partner_name.clone());
    // The port is one that its host chose for this connection: nothing listens there.
    let host = address.ip().to_canonical().to_string();
    let noted = blocking(move || profiles.note_pending(key, &name, &host, unix_ms() / 1_000)).await;
    match noted {
        Ok(is_noted) => {
            if !is_noted {
                node.metrics.note_turned_away("pending_keys", "all_places_taken");
            }
            is_noted
        }
        Err(error) => {
            log_limit::say(About::Keys, || {
                format!("the key {} was not recorded for approval: {error}", key.fingerprint())
            });
            false
        }
    }
}

fn unknown_key(node: &Node, key: PublicKey, is_noted: bool) -> Refusal {
    let (name, fingerprint) = (&node.engine.name, key.fingerprint());
    let text = if is_noted {
        format!(
            "'{name}' does not know this node's key ({fingerprint}): its admin can approve it with 'culvert profile approve {fingerprint} --name NAME --permit DIRECTORY:write' (:read to let it fetch)"
        )
    } else {
        format!(
            "'{name}' does not know this node's key ({fingerprint}), and records no more keys from \
             this host for approval: try again later, or have its admin run 'culvert profile add \
             NAME --key {key} --permit DIRECTORY:write' (:read to let it fetch)"
        )
    };
    Refusal::new(RefusalCode::UnknownKey, text)
}

/// The message to a partner whose profile cannot be looked up. It does not reveal paths of this
/// host.
fn unread_profiles(error: &ProfileError) -> Refusal {
    let mut text = "this node cannot read its profiles".to_owned();
    if let ProfileError::State(StateError::Os { error, .. }) = error
        && let Some(errno) = os_error::errno_of(error)
    {
        text = format!("{text}: {}", os_error::words(errno));
    }
    Refusal::new(RefusalCode::Temporary, text)
}
