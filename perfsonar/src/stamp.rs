//! STAMP (RFC 8762) with the extensions of RFC 8972: packets, session senders and reflectors. Pure:
//! no socket, no clock.
//!
//! TWAMP-Light and TWAMP-Test in unauthenticated mode have the same base packets, so the reflector
//! answers them too (RFC 8762 4.6).

pub mod limits;
pub mod packet;
pub mod reflector;
pub mod sender;
pub mod tlv;

pub use limits::{ReflectorLimits, Refused};
pub use packet::{Authentication, PacketError, Reflected, Request};
pub use reflector::Reflector;
pub use sender::{Rejection, RoundTrip, SenderSession, SessionResult};
