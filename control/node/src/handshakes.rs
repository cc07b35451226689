//! From an accepted TCP connection to an authenticated partner: which connections wait, for how
//! long, and which are refused with what reason.
//!
//! ```text
//! accept ──> awaiting the ClientHello, 3 s ──> handshake, Hello, profile, 10 s ──> awaiting a request, 5 s
//!            slots per host                    slots and a rate per host           slots per partner (listener.rs)
//! ```
//!
//! Strangers' hosts and partners' hosts have separate pools. A full pool evicts the oldest waiting
//! connection ([`crate::slots`]), so idle connections lock nobody out, not even hosts behind the
//! same address.

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

/// How long a connection may take to send its ClientHello: it is one flight of packets, sent at
/// once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections whose ClientHello has not arrived. Each costs a descriptor and a few kilobytes. A
/// connection is evicted after 64 newer ones from its host, which at 20 per second takes about as
/// long as [`HELLO_TIMEOUT`].
const AWAITING_HELLO: Limits = Limits { all: 256, each: 64 };
/// Strangers' connections in their handshake, or being refused. A host may start 20 handshakes per
/// second ([`crate::connection_limiter`]), so each keeps its slot for more than a second: longer
/// than a handshake over a satellite takes. The total is what may arrive within one such round
/// trip.
const AUTHENTICATING_STRANGERS: Limits = Limits { all: 128, each: 32 };
/// The same for partners' hosts, each of which may have other accounts too. A script may start many
/// transfers at once.
const AUTHENTICATING_PARTNERS: Limits = Limits { all: 256, each: 96 };

/// The pools of one kind of host.
#[derive(Debug)]
struct HandshakePool {
    awaiting_hello: Arc<SlotPool<Host>>,
    authenticating: Arc<SlotPool<Host>>,
}

impl HandshakePool {
    fn new(authenticating: Limits) -> Self {
        Self { awaiting_hello: SlotPool::new(AWAITING_HELLO), authenticating: SlotPool::new(authenticating) }
    }
}

/// The pools of connections that are not authenticated yet.
#[derive(Debug)]
pub struct HandshakePools {
    strangers: HandshakePool,
    partners: HandshakePool,
}

impl Default for HandshakePools {
    fn default() -> Self {
        Self {
            strangers: HandshakePool::new(AUTHENTICATING_STRANGERS),
            partners: HandshakePool::new(AUTHENTICATING_PARTNERS),
        }
    }
}

/// Why a connection was refused before it was authenticated.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeFailure {
    /// No ClientHello arrived.
    #[error("it sent nothing for {} s", HELLO_TIMEOUT.as_secs())]
    Silent,
    /// Newer connections took its slot.
    #[error("newer connections from its host needed its slot")]
    Crowded,
    /// Its host starts more handshakes than it may.
    #[error("its host starts too many handshakes")]
    TooMany,
    /// The handshake and the `Hello` took too long.
    #[error("its introduction took longer than {} s", INTRODUCTION_TIMEOUT.as_secs())]
    Slow,
    /// What arrived is not the introduction of a Culvert node.
    #[error("{0}")]
    Broken(String),
    /// This node does not know the key.
    #[error("{0}")]
    Unknown(String),
    /// The profiles could not be read.
    #[error(transparent)]
    Profiles(#[from] ProfileError),
}

impl HandshakeFailure {
    /// The label in metrics.
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

/// A slot of a connection that is not authenticated yet.
#[derive(Debug)]
pub struct HandshakeSlot {
    address: SocketAddr,
    is_partners: bool,
    slot: Slot<Host>,
}

impl HandshakePools {
    /// Takes a slot for a connection that was just accepted.
    #[must_use]
    pub fn take(&self, node: &Node, address: SocketAddr) -> Option<HandshakeSlot> {
        let is_partners = node.connection_limiter.knows(address.ip(), Instant::now());
        // A connection that awaits its ClientHello is never busy, so a slot can always be freed.
        let slot = self.of(is_partners).awaiting_hello.take(address.ip().into()).ok()?;
        Some(HandshakeSlot { address, is_partners, slot })
    }

    /// Waits for a connection's ClientHello, and authenticates its peer.
    ///
    /// # Errors
    /// [`HandshakeFailure`]. A peer that completed the handshake has been sent the reason.
    pub async fn authenticate(
        &self,
        node: &Node,
        slot: HandshakeSlot,
        tcp: TcpStream,
        admission: &Admission,
    ) -> Result<IdentifiedPartner, HandshakeFailure> {
        let HandshakeSlot { address, is_partners, mut slot } = slot;
        let hello = tokio::select! {
            biased;
            hello = ClientHelloReceived::hear(tcp, address) => hello.map_err(|error| HandshakeFailure::Broken(error.to_string()))?,
            () = slot.evicted() => return Err(HandshakeFailure::Crowded),
            () = tokio::time::sleep(HELLO_TIMEOUT) => return Err(HandshakeFailure::Silent),
        };
        if !node.connection_limiter.admits(address.ip(), Instant::now()) {
            return Err(HandshakeFailure::TooMany);
        }
        let authenticating = self.of(is_partners).authenticating.take(address.ip().into());
        drop(std::mem::replace(&mut slot, authenticating.map_err(|_| HandshakeFailure::Crowded)?));
        tokio::select! {
            biased;
            identified = identify(node, hello, admission) => identified,
            () = slot.evicted() => Err(HandshakeFailure::Crowded),
            () = tokio::time::sleep(INTRODUCTION_TIMEOUT) => Err(HandshakeFailure::Slow),
        }
    }

    const fn of(&self, is_partners: bool) -> &HandshakePool {
        if is_partners { &self.partners } else { &self.strangers }
    }
}

/// Performs the handshake, finds out whose key the peer has proved, and refuses strangers with a
/// reason.
async fn identify(
    node: &Node,
    hello: ClientHelloReceived,
    admission: &Admission,
) -> Result<IdentifiedPartner, HandshakeFailure> {
    let connection = hello
        .accept(&node.engine.tls, &node.engine.name)
        .await
        .map_err(|error| HandshakeFailure::Broken(error.to_string()))?;
    //= W-30
    //# A node identifies its partners by these keys and nothing else.
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
            //= W-34
            //# If a node receives a `Hello` under an unknown key, it records the key as pending (in
            //# a table of fixed size, with a share per host) and refuses with `unknown_key`.
            Ok(None) => {
                let is_recorded = record_pending_key(node, &connection).await;
                refuse(connection, unknown_key(node, key, is_recorded)).await;
                Err(HandshakeFailure::Unknown(format!("unknown key {}", key.fingerprint())))
            }
            Err(error) => {
                refuse(connection, unreadable_profiles(&error)).await;
                Err(error.into())
            }
        },
    }
}

/// The profile with a key. The files are read on a blocking thread.
async fn profile_with(node: &Node, key: PublicKey) -> Result<Option<(String, Profile)>, ProfileError> {
    let profiles = node.profiles.clone();
    blocking(move || profiles.with_key(key)).await
}

/// Records a stranger's key for approval; returns whether the table contains it now. If the table
/// cannot be written, the key is refused all the same.
async fn record_pending_key(node: &Node, connection: &Connection) -> bool {
    let (key, address) = (connection.partner, connection.address);
    if !node.connection_limiter.may_record_key(address.ip(), Instant::now()) {
        node.metrics.note_turned_away("pending_keys", "too_many");
        let profiles = node.profiles.clone();
        return blocking(move || profiles.pending().is_ok_and(|keys| keys.iter().any(|known| known.key == key))).await;
    }
    let (profiles, name) = (node.profiles.clone(), connection.partner_name.clone());
    // Without the port: the peer's is ephemeral, and nothing listens there.
    let host = address.ip().to_canonical().to_string();
    let recorded = blocking(move || profiles.note_pending(key, &name, &host, unix_ms() / 1_000)).await;
    match recorded {
        Ok(is_recorded) => {
            if !is_recorded {
                node.metrics.note_turned_away("pending_keys", "all_places_taken");
            }
            is_recorded
        }
        Err(error) => {
            log_limit::say(About::Keys, || {
                format!("the key {} was not recorded for approval: {error}", key.fingerprint())
            });
            false
        }
    }
}

fn unknown_key(node: &Node, key: PublicKey, is_recorded: bool) -> Refusal {
    let (name, fingerprint) = (&node.engine.name, key.fingerprint());
    let text = if is_recorded {
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

/// The message to a peer whose profile cannot be looked up. It does not reveal paths of this host.
fn unreadable_profiles(error: &ProfileError) -> Refusal {
    let mut text = "this node cannot read its profiles".to_owned();
    if let ProfileError::State(StateError::Os { error, .. }) = error
        && let Some(errno) = os_error::errno_of(error)
    {
        text = format!("{text}: {}", os_error::words(errno));
    }
    Refusal::new(RefusalCode::Temporary, text)
}
