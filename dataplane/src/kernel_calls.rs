//! Calls that no safe library offers: the ioctl that reads and changes a NIC's receive rules, and
//! signals that a process ignores.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// The ioctls that [`EthtoolSocket`] uses.
pub const IOCTLS: [u64; 2] = [libc::SIOCETHTOOL, libc::SIOCGIFNAME];

// Commands of include/uapi/linux/ethtool.h.
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GRXCLSRLCNT: u32 = 0x2e;
const ETHTOOL_GRXCLSRULE: u32 = 0x2f;
const ETHTOOL_GRXCLSRLALL: u32 = 0x30;
const ETHTOOL_SRXCLSRLDEL: u32 = 0x31;
const ETHTOOL_SRXCLSRLINS: u32 = 0x32;
/// The bit of [`EthtoolSocket::flags`] for a NIC that uses its receive rules.
pub const ETH_FLAG_NTUPLE: u32 = 1 << 27;

/// Bytes of `struct ethtool_rx_flow_spec`.
pub const SPEC_BYTES: usize = 168;
// Where the fields of `struct ethtool_rxnfc` stand.
const DATA_OFFSET: usize = 8;
const SPEC_OFFSET: usize = 16;
const COUNT_OFFSET: usize = SPEC_OFFSET + SPEC_BYTES;
const LOCATIONS_OFFSET: usize = COUNT_OFFSET + 4;
/// Where a rule's location stands in `struct ethtool_rx_flow_spec`.
pub const LOCATION_OFFSET: usize = 160;

/// Asks a NIC's driver about its receive rules, by the number of its interface: names may change.
#[derive(Debug)]
pub struct EthtoolSocket {
    socket: OwnedFd,
    interface: u32,
}

/// A `struct ethtool_rxnfc` with room for so many locations behind it.
struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn new(command: u32, locations: u32) -> Self {
        let bytes = LOCATIONS_OFFSET + 4 * locations as usize;
        let mut request = Self { bytes: vec![0; bytes.next_multiple_of(8)] };
        request.set_u32(0, command);
        request.set_u32(COUNT_OFFSET, locations);
        request
    }

    fn set_u32(&mut self, offset: usize, value: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }

    fn u32(&self, offset: usize) -> u32 {
        self.bytes[offset..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }
}

impl EthtoolSocket {
    /// Opens the socket.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(interface: u32) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, interface })
    }

    /// The features that are turned on, as far as the old flags show them.
    ///
    /// # Errors
    /// The driver's.
    pub fn flags(&self) -> io::Result<u32> {
        let mut request = Request::new(ETHTOOL_GFLAGS, 0);
        self.run(&mut request)?;
        // `struct ethtool_value`: the value follows the command.
        Ok(request.u32(4))
    }

    /// How many rules there are, and what the driver says of its table: its size, and in the
    /// uppermost bit whether it chooses locations itself.
    ///
    /// # Errors
    /// The driver's.
    pub fn rule_count(&self) -> io::Result<(u32, u32)> {
        let mut request = Request::new(ETHTOOL_GRXCLSRLCNT, 0);
        self.run(&mut request)?;
        Ok((request.u32(COUNT_OFFSET), request.u32(DATA_OFFSET)))
    }

    /// The locations of up to `count` rules.
    ///
    /// # Errors
    /// The driver's: `EMSGSIZE` if there are more.
    pub fn rule_locations(&self, count: u32) -> io::Result<Vec<u32>> {
        let mut request = Request::new(ETHTOOL_GRXCLSRLALL, count);
        self.run(&mut request)?;
        let found = request.u32(COUNT_OFFSET).min(count) as usize;
        Ok((0..found).map(|number| request.u32(LOCATIONS_OFFSET + 4 * number)).collect())
    }

    /// The rule at a location.
    ///
    /// # Errors
    /// The driver's; there may be none.
    pub fn rule(&self, location: u32) -> io::Result<[u8; SPEC_BYTES]> {
        let mut request = Request::new(ETHTOOL_GRXCLSRULE, 0);
        request.set_u32(SPEC_OFFSET + LOCATION_OFFSET, location);
        self.run(&mut request)?;
        Ok(*request.bytes[SPEC_OFFSET..].first_chunk().expect("a request has a rule"))
    }

    /// Sets a rule. Returns its location.
    ///
    /// # Errors
    /// The driver's.
    pub fn insert_rule(&self, spec: &[u8; SPEC_BYTES]) -> io::Result<u32> {
        let mut request = Request::new(ETHTOOL_SRXCLSRLINS, 0);
        request.bytes[SPEC_OFFSET..COUNT_OFFSET].copy_from_slice(spec);
        self.run(&mut request)?;
        Ok(request.u32(SPEC_OFFSET + LOCATION_OFFSET))
    }

    /// Removes the rule at a location.
    ///
    /// # Errors
    /// The driver's.
    pub fn delete_rule(&self, location: u32) -> io::Result<()> {
        let mut request = Request::new(ETHTOOL_SRXCLSRLDEL, 0);
        request.set_u32(SPEC_OFFSET + LOCATION_OFFSET, location);
        self.run(&mut request)
    }

    fn run(&self, request: &mut Request) -> io::Result<()> {
        let mut interface = self.named()?;
        interface.ifr_ifru.ifru_data = request.bytes.as_mut_ptr().cast();
        // SAFETY: the request lives through the call. The kernel reads and writes a
        // `struct ethtool_rxnfc` and as many locations behind it as the request's count says, and
        // `Request::new` made room for those; nothing else sets the count or the command.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut interface) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The interface by the name that it has now.
    fn named(&self) -> io::Result<libc::ifreq> {
        // SAFETY: `ifreq` is plain data; all zeroes is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_ifindex = self.interface.cast_signed();
        // SAFETY: the request lives through the call, which writes the name into it.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCGIFNAME as _, &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(request) }
    }
}

/// From now on this process ignores requests to terminate, from its terminal or service: it ends
/// when its work is done.
pub fn ignore_requests_to_end() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: no handler runs when a signal is ignored.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// A write beyond the limit on file sizes (`ulimit -f`) fails with `EFBIG` from now on, instead of
/// ending this process: the file fails by name. Processes that this one starts inherit it.
pub fn ignore_file_size_signal() {
    // SAFETY: no handler runs when a signal is ignored.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Starts a process that ignores Ctrl-C, which a terminal sends to its whole foreground group,
/// unless the process decides otherwise. The caller ends it, in an order that a program that dies
/// at once would break. The caller ignores the signal meanwhile too, so it has one thread.
///
/// SIGHUP is not ignored: what the process starts would inherit that, and outlive its session.
pub fn start_beyond_terminal<T>(start: impl FnOnce() -> T) -> T {
    let _ignored = Ignored::begin(libc::SIGINT);
    start()
}

/// A signal that is ignored as long as this is.
struct Ignored {
    signal: i32,
    before: Option<libc::sigaction>,
}

impl Ignored {
    fn begin(signal: i32) -> Self {
        // SAFETY: `sigaction` is plain data; all zeroes is a valid value, with an empty mask and no
        // flags.
        let mut ignore: libc::sigaction = unsafe { std::mem::zeroed() };
        ignore.sa_sigaction = libc::SIG_IGN;
        // SAFETY: as above.
        let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: both live through the call, and no handler runs when a signal is ignored.
        let result = unsafe { libc::sigaction(signal, &raw const ignore, &raw mut before) };
        Self { signal, before: (result == 0).then_some(before) }
    }
}

impl Drop for Ignored {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // SAFETY: what was in force before is put back as the kernel told it, and what it
            // refers to is never unloaded.
            unsafe { libc::sigaction(self.signal, before, std::ptr::null_mut()) };
        }
    }
}

/// Sizes, offsets and numbers as they are used here, for a test to hold against the kernel's
/// header.
#[cfg(test)]
pub fn layout() -> String {
    let (data, count, locations) = (DATA_OFFSET, COUNT_OFFSET, LOCATIONS_OFFSET);
    format!(
        "{SPEC_BYTES} {data} {SPEC_OFFSET} {count} {locations} {LOCATION_OFFSET} | {ETHTOOL_GFLAGS} {ETHTOOL_GRXCLSRLCNT} \
         {ETHTOOL_GRXCLSRULE} {ETHTOOL_GRXCLSRLALL} {ETHTOOL_SRXCLSRLDEL} {ETHTOOL_SRXCLSRLINS} {ETH_FLAG_NTUPLE}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_gone_is_an_error() {
        let socket = EthtoolSocket::open(999_999).unwrap();
        let gone = [libc::ENODEV, libc::ENXIO];
        for error in [socket.rule_count().unwrap_err(), socket.delete_rule(0).unwrap_err()] {
            assert!(error.raw_os_error().is_some_and(|errno| gone.contains(&errno)), "{error}");
        }
    }

    #[test]
    fn loopback_has_no_rules() {
        let socket = EthtoolSocket::open(1).unwrap();
        for error in [socket.rule_count().unwrap_err(), socket.rule_locations(4).unwrap_err()] {
            assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "{error}");
        }
        assert_eq!(socket.flags().unwrap() & ETH_FLAG_NTUPLE, 0);
    }
}
