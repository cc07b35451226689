//! The link between the control process and the data plane: everything that either knows of the
//! other.
//!
//! Three ways, each for what it does best:
//! * a unix socket (`SOCK_SEQPACKET`) carries descriptors and secrets, and what is rare: start,
//!   files, flows ([`messages`]);
//! * two rings a lane in shared memory carry what follows the data: commands to the lane, events
//!   from it ([`commands`], [`ring`]);
//! * words in shared memory carry rates and counters ([`counters`]).
//!
//! [`plane_handle`] is the control process's end; the other is in the data plane's crate, which the
//! control process does not know. Beside the ways stands what both ends must do alike: read the
//! clock, find the largest datagram of a link ([`path_mtu`]), bind a port as a lane's
//! ([`udp_port`]), carry captured packets ([`capture`]).
//!
//! `unsafe` is confined to [`shared_memory`] and [`handles`].
#![deny(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]

/// Says a line on standard error. `eprintln!` panics when the line cannot be written: a reader who
/// is gone, or a full disk, would end what is under way.
#[macro_export]
macro_rules! say_aside {
    ($($line:tt)*) => {{
        use ::std::io::Write as _;
        let _ = ::std::writeln!(
            ::std::io::stderr(),
            "{}{}",
            $crate::aside::stamp(),
            $crate::aside::without_numbers(&::std::format!($($line)*))
        );
    }};
}

pub mod aside;
pub mod capture;
pub mod clock;
pub mod command_rings;
pub mod commands;
pub mod counters;
pub mod doorbell;

pub mod handles;
pub mod invariant;
pub mod kernel_bypass;
pub mod layout;
pub mod messages;
pub mod path_mtu;
pub mod plane_handle;
pub mod process_name;
pub mod ring;
pub mod rtnetlink;
pub mod shared_memory;
pub mod socket;
pub mod udp_port;
