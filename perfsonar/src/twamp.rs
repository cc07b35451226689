//! TWAMP (RFC 5357), unauthenticated: the messages of TWAMP-Control, and the server as a pure state
//! machine. The packets of TWAMP-Test are those of [`crate::stamp`].
//!
//! ```text
//! client                       server
//!                              <─ Server-Greeting (64)
//! Set-Up-Response (164) ─────>
//!                              <─ Server-Start (48)
//! Request-TW-Session (112) ──>
//!                              <─ Accept-Session (48)
//! Start-Sessions (32) ───────>
//!                              <─ Start-Ack (32)
//!      … TWAMP-Test over UDP …
//! Stop-Sessions (32) ────────>
//! ```

pub mod messages;
pub mod server;

pub use messages::{Accept, ControlError};
