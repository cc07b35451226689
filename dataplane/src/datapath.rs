//! How a lane moves packets. One trait ([`Datapath`]), one module for each implementation: [`udp`]
//! sockets, [`af_xdp`], and [`sim`], a network in memory on a virtual clock. The lane is compiled
//! once for each, so the hot path does not ask which it has.

pub mod af_xdp;
mod interface;
pub mod sim;
pub mod udp;

pub use interface::{Arrival, DatagramCounts, Datapath, Endpoints, RingCensus, SendOutcome};
pub use udp::socket::QueueCondition;
