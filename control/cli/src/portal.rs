//! The portal's side of the command line: logging in, and what somebody who is logged in asks.
//!
//! ```text
//! address       the portal's URL, in one spelling
//! secret        tokens and passwords: where they are read from, and that nobody sees them
//! credentials   the file of the portals that one is logged in to
//! client        one request to a portal, and what its refusals mean here
//! documents     the part of the portal's answers that commands use
//! schedule      when a device that waits asks again
//! device        being let in by somebody with a browser
//! session       being let in for one command, by a password
//! login, logout, whoami, tokens       the commands
//! program       `culvert portal`, which becomes `culvert-portal`
//! ```
//!
//! No secret leaves this host over plain HTTP, except to this host itself, and none goes to a
//! server that has not shown before, without a secret, that it is a portal.

pub mod address;
pub mod args;
pub mod client;
pub mod credentials;
pub mod device;
pub mod documents;
pub mod login;
pub mod logout;
pub mod program;
pub mod schedule;
pub mod secret;
pub mod session;
pub mod tokens;
pub mod whoami;
