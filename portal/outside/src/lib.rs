//! The portal's mail and HTTP to other services, for real.
//!
//! Two of the portal's seams lead out of its host, and what is behind them is not trusted: a
//! webhook's address comes from a user, an answer from whoever listens there. [`HttpClient`] and
//! [`SmtpMailer`] therefore bound what an answer may cost in time and memory, and where a request
//! may go ([`is_public`]).
#![forbid(unsafe_code)]

mod authorities;
mod http_client;
mod public_address;
mod resolver;
mod smtp;

pub use authorities::TlsSetupError;
pub use http_client::HttpClient;
pub use public_address::is_public;
pub use smtp::{SmtpMailer, SmtpSettings, SmtpSetupError, SmtpTimeouts};
