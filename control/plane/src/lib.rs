//! The data plane as the control process has it: a process that is started, watched and commanded.
//!
//! [`dataplane`] starts it and hands out what a transfer needs of it: lanes, slots of flows, files,
//! buffers, events. [`next_hop`] finds the Ethernet address that leads to a partner, which the
//! lanes on AF_XDP cannot ask the kernel for. What the two processes say to each other is
//! [`culvert_link`]'s.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]

pub mod dataplane;
pub mod next_hop;
