//! The control process: sessions with partners, transfers, profiles, the API, and the command line around them.
//!
//! Everything that speaks to the outside in TCP, TLS, HTTP or JSON is here, and runs without privileges. What moves data
//! is in the data plane process, which [`dataplane`] starts and talks to.
#![forbid(unsafe_code)]

pub mod connection;
pub mod dataplane;
pub mod destination;
pub mod profiles;
pub mod sources;
pub mod state;
pub mod tls;
