//! The UDP ports that a user names for the lanes, and the message if too few of them are free.

use std::fmt;

use culvert_link::plane_handle::PlaneConfig;
use culvert_protocol::counted::{agree, counted};
use culvert_system::descriptors::host_name;

/// Too few ports are free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortsInUse {
    ports: Vec<u16>,
    lanes: usize,
    free: usize,
    /// The data plane's message about the first that is not.
    text: String,
    /// The option with which the user names ports.
    option: &'static str,
}

impl PortsInUse {
    pub(super) fn new(config: &PlaneConfig, free: usize, text: String) -> Self {
        Self { ports: config.ports.clone(), lanes: config.cores.len(), free, text, option: "--ports" }
    }

    /// As shown to a user who names the ports with another option.
    #[must_use]
    pub fn named_with(self, option: &'static str) -> Self {
        Self { option, ..self }
    }

    /// The data plane's message about the first port that is not free. It suffices if the user
    /// names one port per lane.
    #[must_use]
    pub fn of_first(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for PortsInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, option, ports) = (host_name(), self.option, show_ports(&self.ports));
        match self.free {
            0 => write!(f, "no UDP port of {ports} on {host} is free")?,
            free => {
                let verb = agree(free, "is", "are");
                let lanes = counted(self.lanes, "lane");
                write!(f, "only {free} of the UDP ports {ports} on {host} {verb} free, and {lanes} need one each")?;
            }
        }
        write!(
            f,
            ": stop one of the programs that use them ('ss -ulpn' there lists them), or choose \
             other ports with {option}"
        )
    }
}

/// Ports as people type them: `7273-7276,7280`.
#[must_use]
pub fn show_ports(ports: &[u16]) -> String {
    let mut sorted = ports.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let ranges = sorted.chunk_by(|&one, &next| one.checked_add(1) == Some(next));
    let show = |range: &[u16]| match range {
        [first, .., last] => format!("{first}-{last}"),
        [one] => one.to_string(),
        [] => String::new(),
    };
    ranges.map(show).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_shown_as_they_are_typed() {
        for (ports, shown) in [
            (&[7273][..], "7273"),
            (&[7273, 7274, 7275], "7273-7275"),
            (&[7280, 7273, 7274], "7273-7274,7280"),
            (&[65535, 65534], "65534-65535"),
            (&[], ""),
        ] {
            assert_eq!(show_ports(ports), shown);
        }
    }
}
