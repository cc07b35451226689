//! Culvert's rate control on a virtual network and a virtual clock.
//!
//! Two simulators share the controllers, the feedback channel and the random numbers:
//!
//! - [`world`] moves *batches* of segments over one bottleneck in steps of a fraction of the round
//!   trip. It runs the real [`culvert_protocol::rate_control`] next to models of CUBIC and BBR
//!   flows, and is fast enough for minutes of 400 Gb/s × 200 ms.
//! - [`exact`] moves every single segment of one flow: the real sender and receiver flows with
//!   their sealing, the real pacer, the real reports. It validates the batches, and shows the end
//!   of a transfer.
//!
//! [`path_changes`] lets the receiver of such a flow move, and somebody copy its datagrams from
//! elsewhere.
//!
//! [`matrix`] holds the runs that the controller must pass; `cargo xtask sim` prints them, and the
//! tests of this crate run a quick part each time. Every run comes from a seed and repeats exactly.
#![forbid(unsafe_code)]

pub mod bbr;
pub mod command;
pub mod cross;
pub mod cubic;
pub mod exact;
pub mod feedback;
pub mod finding;
pub mod flow;
pub mod link;
pub mod matrix;
pub mod path_changes;
pub mod plot;
pub mod random;
pub mod scenes;
pub mod series;
pub mod world;
