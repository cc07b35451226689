//! The few kernel calls that no safe library offers: ethtool's ioctl for what ethtool netlink
//! lacks, and `adjtimex`.
//!
//! This is the only module with unsafe code. Each call owns the memory that it passes to the
//! kernel.

use std::ffi::c_char;
use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketType, socket};

// ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GRXFH: u32 = 0x29;
const ETHTOOL_SRXFH: u32 = 0x2a;
const ETHTOOL_SRXFHINDIR: u32 = 0x39;
const ETHTOOL_GRSSH: u32 = 0x46;
const UDP_V4_FLOW: u32 = 0x02;
const UDP_V6_FLOW: u32 = 0x06;
/// Offset of `fw_version` in `struct ethtool_drvinfo`: after the command, `driver[32]` and
/// `version[32]`.
const FIRMWARE_OFFSET: usize = 4 + 32 + 32;
/// The length of `fw_version`.
const FIRMWARE_BYTES: usize = 32;
/// Header fields of the hash (`RXH_*`) with ethtool's letters, in ethtool's order.
const HASH_FIELDS: [(char, u64); 7] =
    [('m', 1 << 1), ('v', 1 << 2), ('t', 1 << 3), ('s', 1 << 4), ('d', 1 << 5), ('f', 1 << 6), ('n', 1 << 7)];

/// Bytes of `struct ethtool_rxfh` before its table and key: command, context, their sizes,
/// function, transformation, reserved.
const RSS_HEADER_BYTES: usize = 4 * 4 + 4 + 4;
/// The shortest buffer of a request: longer than `struct ethtool_drvinfo` and `ethtool_rxnfc`.
const BUFFER_BYTES_MIN: usize = 512;
/// `ETH_RSS_HASH_TOP`, the Toeplitz function.
const RSS_TOEPLITZ: u8 = 1;
/// No NIC's table or key is larger; a larger size from a driver is refused.
const RSS_SIZE_MAX: u32 = 1 << 16;

/// How a NIC spreads flows over its queues.
#[derive(Clone, Debug)]
pub(crate) struct ReceiveHashParameters {
    pub(crate) key: Vec<u8>,
    pub(crate) indirection: Vec<u32>,
    /// Toeplitz, without a transformation of the fields before hashing.
    pub(crate) is_plain_toeplitz: bool,
}

/// The kernel's view of its clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClockState {
    pub(crate) synchronized: bool,
    pub(crate) error_max_us: u64,
    pub(crate) error_estimated_us: u64,
}

/// The firmware version of a NIC, if the driver gives one.
pub(crate) fn firmware_version(link: &str) -> io::Result<Option<String>> {
    let mut info = buffer(ETHTOOL_GDRVINFO, 0, 0);
    ethtool(link, &mut info)?;
    let bytes: Vec<u8> = info.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let field = &bytes[FIRMWARE_OFFSET..FIRMWARE_OFFSET + FIRMWARE_BYTES];
    let text = String::from_utf8_lossy(field);
    let text = text.split('\0').next().unwrap_or_default().trim();
    Ok((!text.is_empty() && text != "N/A").then(|| text.to_owned()))
}

/// The header fields that choose the receive queue of a flow type, as ethtool's letters (`sdfn`).
pub(crate) fn flow_hash(link: &str, flow: &str) -> io::Result<String> {
    let mut request = buffer(ETHTOOL_GRXFH, flow_type(flow)?, 0);
    ethtool(link, &mut request)?;
    let bits = request[1];
    Ok(HASH_FIELDS.iter().filter(|(_, bit)| bits & bit != 0).map(|(letter, _)| letter).collect())
}

/// Sets the header fields that choose the receive queue of a flow type.
pub(crate) fn set_flow_hash(link: &str, flow: &str, fields: &str) -> io::Result<()> {
    let mut request = buffer(ETHTOOL_SRXFH, flow_type(flow)?, 0);
    for letter in fields.chars() {
        let bit = HASH_FIELDS.iter().find(|(known, _)| *known == letter).map(|(_, bit)| bit);
        request[1] |= bit.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("'{letter}' is not a header field of ethtool"))
        })?;
    }
    ethtool(link, &mut request)
}

/// The key, the table and the function of a NIC's receive hash.
pub(crate) fn receive_hash(link: &str) -> io::Result<ReceiveHashParameters> {
    let words = |request: &[u64]| -> Vec<u8> { request.iter().flat_map(|word| word.to_ne_bytes()).collect() };
    let word = |bytes: &[u8], at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    // With sizes of zero, the driver reports the sizes that it needs.
    let mut request = buffer(ETHTOOL_GRSSH, 0, 0);
    ethtool(link, &mut request)?;
    let sizes = words(&request);
    let (entries, key_bytes) = (word(&sizes, 8), word(&sizes, 12));
    if entries > RSS_SIZE_MAX || key_bytes > RSS_SIZE_MAX {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let table_end = RSS_HEADER_BYTES + entries as usize * 4;
    let mut request = buffer(ETHTOOL_GRSSH, 0, table_end + key_bytes as usize);
    let [a, b, c, d] = entries.to_ne_bytes();
    let [e, f, g, h] = key_bytes.to_ne_bytes();
    request[1] = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    ethtool(link, &mut request)?;
    let answer = words(&request);
    let (function, transformation) = (answer[16], answer[17]);
    Ok(ReceiveHashParameters {
        key: answer[table_end..table_end + key_bytes as usize].to_vec(),
        indirection: (RSS_HEADER_BYTES..table_end).step_by(4).map(|at| word(&answer, at)).collect(),
        is_plain_toeplitz: function == RSS_TOEPLITZ && transformation == 0,
    })
}

/// Sets the queue of each hash bucket; an empty table restores the driver's default.
pub(crate) fn set_indirection(link: &str, table: &[u32]) -> io::Result<()> {
    let size = u32::try_from(table.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut request = buffer(ETHTOOL_SRXFHINDIR, size, 8 + table.len() * 4);
    for (pair, word) in table.chunks(2).zip(request[1..].iter_mut()) {
        let [a, b, c, d] = pair[0].to_ne_bytes();
        let [e, f, g, h] = pair.get(1).copied().unwrap_or(0).to_ne_bytes();
        *word = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    }
    ethtool(link, &mut request)
}

/// Reads the kernel's clock state without changing it.
pub(crate) fn clock_state() -> io::Result<ClockState> {
    // SAFETY: `timex` is plain data; all zeroes asks to change nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure outlives the call and has the length that the kernel expects.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ClockState {
        synchronized: state.status & libc::STA_UNSYNC == 0,
        error_max_us: u64::try_from(state.maxerror).unwrap_or(0),
        error_estimated_us: u64::try_from(state.esterror).unwrap_or(0),
    })
}

/// The type of a flow in the hash calls: `udp4` or `udp6`.
fn flow_type(flow: &str) -> io::Result<u32> {
    match flow {
        "udp4" => Ok(UDP_V4_FLOW),
        "udp6" => Ok(UDP_V6_FLOW),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("unknown flow type '{flow}'"))),
    }
}

/// Runs one `SIOCETHTOOL` with a buffer of native words that starts with the command. The buffer
/// has room for the largest structure of the commands used here.
fn ethtool(link: &str, buffer: &mut [u64]) -> io::Result<()> {
    // Invariant I-ethtool-buffer: The buffer of an ethtool ioctl is longer than every structure of
    // fixed size that the kernel writes into it.
    assert!(size_of_val(buffer) >= BUFFER_BYTES_MIN, "an ethtool buffer of {} bytes", size_of_val(buffer));
    let name = link.as_bytes();
    // SAFETY: `ifreq` is plain data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() || name.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("'{link}' is not an interface name")));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name) {
        *slot = byte.cast_signed();
    }
    request.ifr_ifru.ifru_data = buffer.as_mut_ptr().cast::<c_char>();
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: the request points to `buffer`, which outlives the call and is longer than the
    // structures of the commands that this module sends; the kernel writes no further than those.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A buffer that starts with two 32-bit words, with room for `bytes` in all.
fn buffer(first: u32, second: u32, bytes: usize) -> Vec<u64> {
    let mut words = vec![0_u64; bytes.max(BUFFER_BYTES_MIN).div_ceil(8)];
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    words[0] = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_is_not_there_is_an_error() {
        let error = flow_hash("no-such-link0", "udp4").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{error}");
        assert_eq!(flow_hash("a-name-that-is-too-long", "udp4").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(flow_hash("lo", "tcp9").is_err());
    }

    #[test]
    fn the_clock_state_is_plausible() {
        let state = clock_state().unwrap();
        assert!(state.error_max_us > 0);
    }
}
