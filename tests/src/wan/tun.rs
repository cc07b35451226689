//! A TUN device in a network namespace: whole IP packets, one for each read and write.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::ioctl::{Setter, ioctl, opcode};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// `TUNSETIFF` of linux/if_tun.h.
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<std::ffi::c_int>(b'T', 202);
/// `IFF_TUN | IFF_NO_PI`: IP packets without an extra header.
const FLAGS: i16 = 0x0001 | 0x1000;

/// `struct ifreq` of linux/if.h, as far as TUNSETIFF reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// Makes a TUN device called `name` in a namespace created by `ip netns`, and returns its
/// descriptor, which does not block.
///
/// # Errors
/// The operating system's.
pub(crate) fn create(namespace: &str, name: &str) -> io::Result<OwnedFd> {
    let namespace = File::open(format!("/run/netns/{namespace}"))?;
    let name = name.to_owned();
    // Only a separate thread can change its namespace without taking the caller along.
    let made = std::thread::spawn(move || -> io::Result<OwnedFd> {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        let device = open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        let mut request = InterfaceRequest { name: [0; 16], flags: FLAGS, rest: [0; 22] };
        let bytes = name.as_bytes();
        request.name[..bytes.len().min(15)].copy_from_slice(&bytes[..bytes.len().min(15)]);
        // SAFETY: TUNSETIFF reads a `struct ifreq`, which InterfaceRequest is laid out as; the
        // kernel keeps no pointer to it.
        unsafe { ioctl(&device, Setter::<TUNSETIFF, InterfaceRequest>::new(request))? };
        Ok(device)
    });
    made.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes a device panicked")))
}
