//! The AF_XDP socket: opened, sized, mapped, bound, woken.
//!
//! The order matters (Documentation/networking/af_xdp.rst): memory is registered, rings are sized
//! and mapped, FILL is filled, the program is attached, and only then the socket is bound to a
//! queue.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use culvert_link::kernel_bypass::Mode;
use rustix::io::Errno;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING,
    XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpOptionsFlags, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::queue::{Rings, Wake};
use super::rings::{Consumer, Producer};
use super::umem::{CHUNK_BYTES, Umem};

/// `XDP_MAX_TX_SKB_BUDGET` (include/uapi/linux/if_xdp.h from 6.17 on): descriptors that copy mode
/// sends in one call.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// Copy mode allocates what it sends from the socket's send buffer, so it must hold a ring of jumbo
/// packets.
const SEND_BUFFER_BYTES: usize = 64 << 20;
/// Packets that a busy poll takes: the default weight of NAPI.
const BUSY_POLL_BUDGET: libc::c_int = 64;

/// How to open a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Entries of RX and TX, a power of two. FILL and COMPLETION have as many as the UMEM has
    /// chunks, rounded up.
    pub ring_entries: u32,
    /// Busy polling for so many microseconds a call, preferred over interrupts; needs
    /// `CAP_NET_ADMIN`.
    pub busy_poll_us: Option<u32>,
    /// Packets of several descriptors.
    pub multi_buffer: bool,
}

/// Why there is no AF_XDP socket on a queue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocketError {
    /// The kernel has none.
    #[error("this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)")]
    NoAfXdp,
    /// No `CAP_NET_RAW`.
    #[error("AF_XDP sockets need CAP_NET_RAW: run as root, or grant the program the capability")]
    NotPermitted,
    /// The memory may not be locked.
    #[error(
        "{bytes} bytes of packet memory may not be locked: raise the limit (ulimit -l, or \
         LimitMEMLOCK= in the service), or grant CAP_IPC_LOCK"
    )]
    MemoryLock {
        /// Of the UMEM.
        bytes: usize,
    },
    /// The queue is in use.
    #[error("queue {queue} of the interface is in use by another AF_XDP socket: stop the program that has it")]
    QueueBusy {
        /// The queue.
        queue: u32,
    },
    /// The queue or the mode does not exist.
    #[error("the interface has no queue {queue}, or its driver refuses it in {} mode (EINVAL)", mode.name())]
    NoSuchQueue {
        /// The queue.
        queue: u32,
        /// The operation that failed.
        mode: Mode,
    },
    /// The driver cannot do it.
    #[error("the driver has no {} mode", .0.name())]
    NoSuchMode(Mode),
    /// The interface is down.
    #[error("the interface is down: ip link set DEVICE up")]
    Down,
    /// The interface is gone.
    #[error("the interface is gone")]
    Gone,
    /// Something else.
    #[error("cannot {what}: {}", io::Error::from(*error))]
    Os {
        /// The operation that failed.
        what: &'static str,
        /// Why it failed.
        error: Errno,
    },
}

/// An AF_XDP socket.
#[derive(Debug)]
pub struct XdpSocket {
    fd: OwnedFd,
    busy_polls: bool,
    multi_buffer: bool,
}

impl XdpSocket {
    /// Opens a socket over `umem`, with its rings, not bound yet. `shares_with` is a bound socket
    /// over the same UMEM.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn open(umem: &Umem, options: &SocketOptions, shares_with: bool) -> Result<(Self, Rings), SocketError> {
        let fd = rustix::net::socket_with(
            AddressFamily::from_raw(libc::AF_XDP as u16),
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|error| match error {
            Errno::AFNOSUPPORT => SocketError::NoAfXdp,
            Errno::PERM | Errno::ACCESS => SocketError::NotPermitted,
            error => SocketError::Os { what: "open an AF_XDP socket", error },
        })?;
        let os = |what| move |error| SocketError::Os { what, error };
        if !shares_with {
            let registration = XdpUmemReg {
                addr: umem.base_address(),
                len: umem.bytes() as u64,
                chunk_size: CHUNK_BYTES as u32,
                headroom: 0,
                flags: XdpUmemRegFlags::empty(),
                tx_metadata_len: 0,
            };
            sockopt::set_xdp_umem_reg(&fd, registration).map_err(|error| registration_error(error, umem.bytes()))?;
        }
        let chunks = ((umem.bytes() / CHUNK_BYTES) as u32).next_power_of_two();
        let entries = options.ring_entries;
        sockopt::set_xdp_umem_fill_ring_size(&fd, chunks).map_err(os("size the fill ring"))?;
        sockopt::set_xdp_umem_completion_ring_size(&fd, chunks).map_err(os("size the completion ring"))?;
        sockopt::set_xdp_rx_ring_size(&fd, entries).map_err(os("size the receive ring"))?;
        sockopt::set_xdp_tx_ring_size(&fd, entries).map_err(os("size the transmit ring"))?;
        let offsets = sockopt::xdp_mmap_offsets(&fd).map_err(os("ask for the rings' layout"))?;
        let map = |error: io::Error| SocketError::Os {
            what: "map the rings",
            error: Errno::from_io_error(&error).unwrap_or(Errno::INVAL),
        };
        let rings = Rings {
            fill: Producer::map(fd.as_fd(), XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, chunks).map_err(map)?,
            completion: Consumer::map(fd.as_fd(), XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr, chunks).map_err(map)?,
            receive: Consumer::map(fd.as_fd(), XDP_PGOFF_RX_RING, &offsets.rx, entries).map_err(map)?,
            transmit: Producer::map(fd.as_fd(), XDP_PGOFF_TX_RING, &offsets.tx, entries).map_err(map)?,
        };
        let mut socket = Self { fd, busy_polls: false, multi_buffer: options.multi_buffer };
        // Better, not needed: a kernel or host that does not have it changes nothing but the speed.
        if sockopt::set_socket_send_buffer_size_force(&socket.fd, SEND_BUFFER_BYTES).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(&socket.fd, SEND_BUFFER_BYTES);
        }
        let _ = socket.set_option(libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, entries as libc::c_int);
        if let Some(busy_poll_us) = options.busy_poll_us {
            socket.busy_polls = socket.prefer_busy_polling(busy_poll_us).is_ok();
        }
        Ok((socket, rings))
    }

    /// Binds to a queue of an interface. The program is attached by then, in the driver for all
    /// modes but [`Mode::Skb`].
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn bind(&self, interface: u32, queue: u32, mode: Mode) -> Result<(), SocketError> {
        let way = match mode {
            Mode::ZeroCopy => SocketAddrXdpFlags::XDP_ZEROCOPY,
            Mode::Copy | Mode::Skb => SocketAddrXdpFlags::XDP_COPY,
        };
        let mut flags = way | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
        flags.set(SocketAddrXdpFlags::XDP_USE_SG, self.multi_buffer);
        let bound = rustix::net::bind(&self.fd, &SocketAddrXdp::new(flags, interface, queue));
        self.bound(bound, queue, mode)
    }

    /// Binds to another queue over the UMEM of `first`, in its mode.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn bind_shared(&self, interface: u32, queue: u32, mode: Mode, first: &Self) -> Result<(), SocketError> {
        // The kernel refuses every other flag here: the first socket's hold.
        let addr = SocketAddrXdp::new(SocketAddrXdpFlags::XDP_SHARED_UMEM, interface, queue);
        let shared = SocketAddrXdpWithSharedUmem { addr, shared_umem_fd: first.fd.as_fd() };
        let bound = rustix::net::bind(&self.fd, &shared);
        self.bound(bound, queue, mode)
    }

    fn bound(&self, bound: Result<(), Errno>, queue: u32, mode: Mode) -> Result<(), SocketError> {
        bound.map_err(|error| bind_error(error, queue, mode))?;
        let options = sockopt::xdp_options(&self.fd)
            .map_err(|error| SocketError::Os { what: "ask how the socket is bound", error })?;
        if options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY) != (mode == Mode::ZeroCopy) {
            return Err(SocketError::NoSuchMode(mode));
        }
        Ok(())
    }

    /// Packets that the kernel dropped before this socket: because RX was full, because no frame
    /// was free, and for other reasons.
    #[must_use]
    pub fn drops(&self) -> u64 {
        sockopt::xdp_statistics(&self.fd).map_or(0, |statistics| {
            statistics.rx_dropped
                + statistics.rx_ring_full.unwrap_or(0)
                + statistics.rx_fill_ring_empty_descs.unwrap_or(0)
        })
    }

    fn prefer_busy_polling(&self, busy_poll_us: u32) -> io::Result<()> {
        self.set_option(libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, 1)?;
        self.set_option(libc::SOL_SOCKET, libc::SO_BUSY_POLL, busy_poll_us as libc::c_int)?;
        self.set_option(libc::SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET, BUSY_POLL_BUDGET)
    }

    fn set_option(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let bytes = size_of_val(&value) as libc::socklen_t;
        // SAFETY: the kernel reads one int from a live int.
        let done = unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, (&raw const value).cast(), bytes) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

fn bind_error(error: Errno, queue: u32, mode: Mode) -> SocketError {
    match error {
        Errno::BUSY => SocketError::QueueBusy { queue },
        Errno::INVAL => SocketError::NoSuchQueue { queue, mode },
        Errno::OPNOTSUPP | Errno::PROTONOSUPPORT => SocketError::NoSuchMode(mode),
        Errno::NETDOWN => SocketError::Down,
        Errno::NODEV | Errno::NXIO => SocketError::Gone,
        Errno::PERM => SocketError::NotPermitted,
        error => SocketError::Os { what: "bind the AF_XDP socket", error },
    }
}

fn registration_error(error: Errno, bytes: usize) -> SocketError {
    match error {
        Errno::NOBUFS | Errno::PERM => SocketError::MemoryLock { bytes },
        error => SocketError::Os { what: "register the packet memory", error },
    }
}

impl AsFd for XdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Wake for XdpSocket {
    #[inline]
    fn wake_transmit(&self) -> Result<(), Errno> {
        rustix::net::send(&self.fd, &[], SendFlags::DONTWAIT).map(drop)
    }

    #[inline]
    fn wake_receive(&self) -> Result<(), Errno> {
        let mut nothing = [0u8; 0];
        rustix::net::recv(&self.fd, &mut nothing, RecvFlags::DONTWAIT).map(drop)
    }

    fn always(&self) -> bool {
        self.busy_polls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_refuses_is_said_with_its_remedy() {
        for (error, words) in [
            (bind_error(Errno::BUSY, 3, Mode::Copy), ["queue 3", "stop the program"]),
            (bind_error(Errno::INVAL, 9, Mode::ZeroCopy), ["no queue 9", "zerocopy"]),
            (bind_error(Errno::OPNOTSUPP, 0, Mode::ZeroCopy), ["driver", "no zerocopy mode"]),
            (bind_error(Errno::NETDOWN, 0, Mode::Copy), ["interface is down", "ip link set"]),
            (bind_error(Errno::NODEV, 0, Mode::Copy), ["interface", "gone"]),
            (bind_error(Errno::PERM, 0, Mode::Copy), ["CAP_NET_RAW", "run as root"]),
            (registration_error(Errno::NOBUFS, 16 << 20), ["16777216 bytes", "LimitMEMLOCK"]),
        ] {
            let said = error.to_string();
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
        }
    }
}
