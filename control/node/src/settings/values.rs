//! Values as people write them.

use std::net::{Ipv6Addr, SocketAddr};

use culvert_link::kernel_bypass::Mode;

/// A longer poll takes the core from what waits for it.
const BUSY_POLL_US_MAX: u32 = 10_000;

/// UDP ports of lanes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Those behind the control connection's for a node, any for others.
    Automatic,
    /// Whatever the operating system gives.
    Any,
    /// These.
    These(Vec<u16>),
}

pub(super) fn join<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    }
    text.parse()
        .map_err(|_| format!("'{text}' is not an address with a port: write for instance [::]:7272 or 192.0.2.1:7272"))
}

pub(super) fn parse_metrics(text: &str) -> Result<Option<SocketAddr>, String> {
    match text {
        "off" | "none" => Ok(None),
        text => text.parse().map(Some).map_err(|_| format!("'{text}' is not an address with a port, nor 'off'")),
    }
}

/// Reads a list of cores.
///
/// # Errors
/// In words.
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
/// In words.
pub fn parse_ports(text: &str) -> Result<Ports, String> {
    if text == "any" {
        return Ok(Ports::Any);
    }
    let otherwise = || format!("'{text}' is not a list of UDP ports: write for instance 7273-7276, or any");
    let explain = || backwards(text).unwrap_or_else(otherwise);
    let ports = parse_ranges(text).ok_or_else(explain)?;
    let port = |port| u16::try_from(port).ok().filter(|&port| port > 0).ok_or_else(explain);
    ports.into_iter().map(port).collect::<Result<_, _>>().map(Ports::These)
}

pub(super) fn parse_mtu(text: &str) -> Result<Option<u16>, String> {
    match text.parse() {
        Ok(mtu @ 1_280..=65_500) => Ok(Some(mtu)),
        _ => Err(format!("'{text}' is not an MTU: write a number of bytes between 1280 and 65500")),
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

/// What is said of a list with a range whose first number is above its last, if it is one.
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
