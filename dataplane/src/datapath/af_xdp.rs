//! The datapath of hosts whose NIC and privileges permit it: AF_XDP, packets between a NIC queue and the lane's memory
//! without the kernel's network stack.

pub mod headers;
pub mod privilege;
pub mod queue;
pub mod rings;
pub mod socket;
pub mod steering;
pub mod umem;
