//! Real counterparts for the tests of the portal: what it talks to in use, started by a test on
//! ports and in a folder of its own, and ended with the test.
//!
//! Each `start` returns `None` where its program cannot be had, and prints `skipped: why`. What is
//! not in the distribution comes from npm or PyPI, in fixed versions, once for each target
//! directory. These block, and may meet no asynchronous runtime.
//!
//! The portal itself is here twice: its service in the test's process, on either database, with a
//! clock that stands ([`room`]), and the real program ([`program`]), on either database ([`live`]).
#![forbid(unsafe_code)]

pub mod browser;
pub mod cache;
pub mod command_line;
pub mod direct;
pub mod documents;
pub mod http;
pub mod live;
pub mod load;
pub mod nginx;
pub mod node;
pub mod oidc_provider;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod program;
pub mod python;
pub mod random;
pub mod room;
pub mod scripted_server;
pub mod smtp;
pub mod sql;
pub mod tcp_proxy;
pub mod tls;
