//! Values as people write and read them, and the defaults that are more than a constant.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use culvert_link::kernel_bypass::Mode;
use culvert_model::address::DEFAULT_PORT;
use culvert_model::permitted;
use culvert_model::units::parse_bytes;
use culvert_system::accounts::SYSTEM_STATE;

use crate::settings::resolver::{Variables, user_directory};

/// Where a node serves metrics unless told otherwise.
pub const DEFAULT_METRICS: &str = "127.0.0.1:9472";

/// The smallest MTU of IPv6.
pub(super) const MTU_MIN: u16 = 1_280;
const MTU_MAX: u16 = 65_500;
/// A longer poll keeps the core from other work.
const BUSY_POLL_US_MAX: u32 = 10_000;
/// More memory than any host has.
const MEMORY_BYTES_MAX: u64 = 64 << 40;
/// The longest name of an interface, in bytes (`IFNAMSIZ` of the kernel, without its NUL).
const INTERFACE_BYTES_MAX: usize = 15;
/// The longest path of a unix socket, in bytes (unix(7), without its NUL).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// UDP ports of lanes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// For a node those after its TCP port, otherwise any.
    Automatic,
    /// Any that the operating system assigns.
    Any,
    /// These.
    These(Vec<u16>),
}

pub(super) fn join<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A value, or the words for its absence.
pub(super) fn or<T: ToString>(value: Option<&T>, absent: &str) -> String {
    value.map_or_else(|| absent.to_owned(), ToString::to_string)
}

pub(super) fn show_path(path: &Path) -> String {
    path.display().to_string()
}

pub(super) fn show_ports(ports: &Ports) -> String {
    match ports {
        Ports::Automatic => "automatic".to_owned(),
        Ports::Any => "any".to_owned(),
        Ports::These(ports) => join(ports),
    }
}

pub(super) fn default_state(variables: Variables<'_>) -> PathBuf {
    // The node's account has one state, whatever home sudo leaves it.
    if culvert_system::accounts::is_systems() {
        return SYSTEM_STATE.into();
    }
    user_directory("XDG_STATE_HOME", ".local/state", variables).unwrap_or_else(|| SYSTEM_STATE.into())
}

pub(super) fn default_listen() -> SocketAddr {
    SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), DEFAULT_PORT)
}

pub(super) fn parse_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    permitted::path(&path).map(|()| path)
}

pub(super) fn parse_socket_path(text: &str) -> Result<Option<PathBuf>, String> {
    let path = parse_path(text)?;
    if text.len() > SOCKET_PATH_BYTES_MAX {
        return Err(format!("'{text}' is too long for a socket: write at most {SOCKET_PATH_BYTES_MAX} bytes"));
    }
    Ok(Some(path))
}

pub(super) fn parse_name(text: &str) -> Result<String, String> {
    permitted::name(text).map(|()| text.to_owned())
}

pub(super) fn parse_interface(text: &str) -> Result<Option<String>, String> {
    let is_of_name = |byte: u8| byte.is_ascii_graphic() && !b"/:".contains(&byte);
    if (1..=INTERFACE_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_of_name) && !matches!(text, "." | "..") {
        return Ok(Some(text.to_owned()));
    }
    Err(format!(
        "{text:?} is not the name of an interface: write 1 to {INTERFACE_BYTES_MAX} visible characters, such as eth1"
    ))
}

pub(super) fn parse_memory(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes @ 1..=MEMORY_BYTES_MAX => Ok(bytes),
        _ => Err(format!("'{text}' is not a size of memory: write for instance 256MiB, at most 64Ti")),
    }
}

pub(super) fn parse_bind(text: &str) -> Result<IpAddr, String> {
    let address =
        text.parse().map_err(|_| format!("'{text}' is not an IP address: write for instance 192.0.2.1 or ::"))?;
    permitted::local(address).map(|()| address)
}

pub(super) fn parse_seconds(text: &str) -> Result<u32, String> {
    let most = u32::MAX;
    text.parse().map_err(|_| format!("'{text}' is not a number of seconds: write 0 (no limit) to {most}"))
}

pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    }
    let address: SocketAddr = text.parse().map_err(|_| {
        format!("'{text}' is not an address with a port: write for instance [::]:7272 or 192.0.2.1:7272")
    })?;
    permitted::local(address.ip()).map(|()| address)
}

pub(super) fn parse_metrics(text: &str) -> Result<Option<SocketAddr>, String> {
    match text {
        "off" | "none" => Ok(None),
        text => {
            let address: SocketAddr = text
                .parse()
                .map_err(|_| format!("'{text}' is not an address with a port, such as 127.0.0.1:9473, nor 'off'"))?;
            permitted::local(address.ip()).map(|()| Some(address))
        }
    }
}

/// Reads a list of cores.
///
/// # Errors
/// Why the text is no such list, in words.
pub fn parse_cores(text: &str) -> Result<Vec<usize>, String> {
    let explain =
        || backwards(text).unwrap_or_else(|| format!("'{text}' is not a list of cores: write for instance 2,3 or 2-5"));
    let cores = parse_ranges(text).ok_or_else(explain)?;
    let cores: Vec<usize> = cores.into_iter().map(|core| core as usize).collect();
    if cores.is_empty() || cores.len() > 64 { Err(explain()) } else { Ok(cores) }
}

/// Reads a list of UDP ports.
///
/// # Errors
/// Why the text is no such list, in words.
pub fn parse_ports(text: &str) -> Result<Ports, String> {
    if text == "any" {
        return Ok(Ports::Any);
    }
    let otherwise = || format!("'{text}' is not a list of UDP ports: write for instance 7273-7276, or any");
    let explain = || backwards(text).unwrap_or_else(otherwise);
    let ports = parse_ranges(text).ok_or_else(explain)?;
    let port = |port| u16::try_from(port).ok().filter(|&port| port > 0).ok_or_else(explain);
    let ports: Vec<u16> = ports.into_iter().map(port).collect::<Result<_, _>>()?;
    let mut seen = HashSet::new();
    match ports.iter().find(|port| !seen.insert(**port)) {
        Some(port) => Err(format!("'{text}' has port {port} twice: each lane has one of its own")),
        None => Ok(Ports::These(ports)),
    }
}

pub(super) fn parse_mtu(text: &str) -> Result<Option<u16>, String> {
    match text.parse() {
        Ok(mtu @ MTU_MIN..=MTU_MAX) => Ok(Some(mtu)),
        _ => Err(format!("'{text}' is not an MTU: write a number of bytes between {MTU_MIN} and {MTU_MAX}")),
    }
}

/// Whether this program's data plane has AF_XDP.
#[must_use]
pub const fn has_af_xdp() -> bool {
    true
}

pub(super) fn parse_datapath(text: &str) -> Result<String, String> {
    match text {
        "auto" | "udp" | "af_xdp" => Ok(text.to_owned()),
        _ => Err(format!("'{text}' is not a datapath: write auto, udp or af_xdp")),
    }
}

pub(super) fn parse_af_xdp_mode(text: &str) -> Result<Option<Mode>, String> {
    if text == "auto" {
        return Ok(None);
    }
    let modes = [Mode::ZeroCopy, Mode::Copy, Mode::Skb];
    let mode = modes.into_iter().find(|mode| mode.name() == text);
    mode.map(Some).ok_or_else(|| format!("'{text}' is not a mode of AF_XDP: write auto, zerocopy, copy or skb"))
}

pub(super) fn parse_busy_poll(text: &str) -> Result<u32, String> {
    let us = text.parse().ok().filter(|&us| us <= BUSY_POLL_US_MAX);
    us.ok_or_else(|| format!("'{text}' is not a time to poll: write microseconds from 0 (off) to {BUSY_POLL_US_MAX}"))
}

/// Why a list cannot be used, if the first number of a range in it is above the last.
fn backwards(text: &str) -> Option<String> {
    let ranges = text.split(',').filter_map(|part| part.trim().split_once('-'));
    let mut ranges = ranges.filter_map(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    let (first, last): (u32, u32) = ranges.find(|(first, last)| first > last)?;
    Some(format!("the range {first}-{last} has its first number above its last: write {last}-{first}"))
}

/// `2,4-6` as numbers.
fn parse_ranges(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last < first || last - first > 1_024 {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}
