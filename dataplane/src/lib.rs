//! The data plane: a process of its own whose lanes move sealed segments between network and disk.
//!
//! A lane is one pinned thread with its own datapath, disk ring, chunk buffers and flows; lanes
//! share nothing. The control process starts the data plane, hands it sockets, files and secrets
//! over a unix socket, and talks to each lane through two rings in shared memory:
//!
//! ```text
//!  control process                                     data plane process
//!  PlaneHandle ── unix socket (files, flows, keys) ──> coordinator (main thread) ── boxed flows ──> lane
//!     │                                                                                              │
//!     ├── command ring: send this chunk, place that one ────────────────────────────────────────────>│
//!     │<── event ring: delivered, written, hashed, reports ───────────────────────────────────────── │
//!     └── flow blocks: pacing rate, times, counters ───────────────────────────────────────────────  │
//! ```
//!
//! While data moves a lane does not allocate, lock, log or block; what allocates (opening flows,
//! deriving keys) happens on the main thread, which hands the results over. What a lane assumes
//! about itself is checked with [`invariant!`](culvert_link::invariant!); messages of the control
//! process, datagrams and the kernel's answers get errors instead. `unsafe` is confined to the
//! modules that say why they need it: [`buffers`], [`disk`]'s ring, the UDP socket, the residency
//! probe and [`kernel_calls`].
#![deny(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]

pub mod buffers;
pub mod core_dumps;
pub mod datapath;
pub mod disk;
pub mod keeper;
pub mod kernel_calls;
pub mod lane;
pub mod limit;
pub mod process;
pub mod sandbox;
