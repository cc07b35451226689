//! The data plane as the control process sees it: a process that is started, watched and commanded.
//!
//! It is a child of this process or, where an admin gave it an account and rights of its own, a
//! process that somebody else (systemd) starts for each connection to a socket ([`Origin`]).
//!
//! A [`DataPlane`] stands for one run of that process. It hands out what a transfer needs: lanes,
//! slots for flows, files, buffers. Commands go to the lanes through shared rings; the lanes'
//! events come back through the same rings and reach the transfers' queues ([`EventReceiver`]).
//! When the process ends, on order or not, [`DataPlane::died`] resolves, every transfer that used
//! it ends with a temporary error, and [`Supervisor::get`] starts the next.
//!
//! [`next_hop`] finds the Ethernet address that leads to a partner, which lanes on AF_XDP cannot
//! ask the kernel for. The messages between the two processes belong to [`culvert_link`].
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]

mod data_plane;
mod error;
mod events;
pub mod next_hop;
pub mod placement;
pub mod ports;
mod process;
mod slots;
mod supervisor;
mod tracked_routes;

pub use crate::data_plane::DataPlane;
pub use crate::data_plane::files::InstalledFile;
pub use crate::data_plane::starting::start;
pub use crate::error::DataPlaneError;
pub use crate::events::{EventReceiver, EventSender, ReceiveEvent, SendEvent, Tagged, event_queue};
pub use crate::process::Origin;
pub use crate::slots::WantedFlow;
pub use crate::supervisor::Supervisor;
