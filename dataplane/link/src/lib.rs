//! The link between the control process and the data plane: everything that either knows of the
//! other.
//!
//! It has three parts:
//! * a unix socket (`SOCK_SEQPACKET`) carries descriptors and secrets, and rare messages: start,
//!   files, flows ([`messages`]);
//! * two rings per lane in shared memory carry what each chunk needs: commands to the lane, events
//!   from it ([`commands`], [`ring`]);
//! * words in shared memory carry rates and counters ([`counters`]).
//!
//! [`plane_handle`] is the control process's end; the other end is in the data plane's crate, on
//! which the control process does not depend. This crate also has what both ends must do alike:
//! read the clock, find the largest datagram of a link ([`path_mtu`]), bind a lane's port
//! ([`udp_port`]), carry captured packets ([`capture`]).
//!
//! `unsafe` is confined to [`shared_memory`] and [`handles`].
#![deny(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]

/// Prints a line on standard error. `eprintln!` panics if the line cannot be written: a reader that
/// is gone, or a full disk, would end running transfers.
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
