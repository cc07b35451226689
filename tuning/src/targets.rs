//! Targets: the values that a host should have, derived from its fastest link, the round trip time
//! and its memory.
//!
//! The numbers come from fasterdata.es.net ("Host Tuning", "100G Tuning", "Test/Measurement Host
//! Tuning"); section 6 of `docs/tuning.md` lists them with their sources. fasterdata has no row for
//! 400G: it says "100G and above".

use culvert_host::cpu_set::CpuSet;
use culvert_host::facts::{Facts, Link};
use serde::Serialize;

use crate::profile::{GIGABIT, ProfileName};
use crate::site::{Pacing, Site};

const MIB: u64 = 1 << 20;
/// The slowest link that counts as a data link unless the site file names them.
const DATA_LINK_BITS_PER_SECOND: u64 = 10 * GIGABIT;
/// A TCP window is at most 65535 · 2^14 (RFC 7323), so one stream cannot use a larger buffer.
const TCP_BUFFER_MAX: u64 = 1 << 30;
/// Streams of one transfer unless the site file gives a number: with these, the formula yields
/// fasterdata's values.
const STREAMS: u32 = 8;
/// Memory of one lane's packet buffers: 16 Ki frames of 4 KiB.
const UMEM_BYTES_PER_LANE: u64 = 64 * MIB;

/// The values with which the rules compare the facts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Targets {
    /// The profile.
    pub profile: ProfileName,
    /// Why this profile was chosen.
    pub chosen_because: String,
    /// The rate that the host should reach.
    pub rate_bits_per_second: u64,
    /// The round trip time for which buffers are sized.
    pub rtt_ms: f64,
    /// Streams that share the path.
    pub streams: u32,
    /// Lanes of the data plane.
    pub lanes: u32,
    /// Names of the links that carry transfers.
    pub data_links: Vec<String>,
    /// `net.core.rmem_max` and `wmem_max`.
    pub socket_buffer_max_bytes: u64,
    /// The third number of `tcp_rmem` and `tcp_wmem`.
    pub tcp_buffer_max_bytes: u64,
    /// Whether memory rather than the path limits `tcp_buffer_max_bytes`.
    pub limited_by_memory: bool,
    /// Memory for packet buffers of all lanes.
    pub umem_bytes: u64,
    /// The contents of the site file.
    pub site: Site,
}

impl Targets {
    /// Chooses the profile and derives its values. `named` takes precedence over the site file,
    /// which takes precedence over the facts.
    #[must_use]
    pub fn choose(facts: &Facts, site: &Site, named: Option<ProfileName>) -> Self {
        let data_links = data_links(facts, site);
        let fastest = data_links
            .iter()
            .filter_map(|name| Some((facts.link(name)?.speed_bits_per_second?, name)))
            .max_by_key(|(speed, _)| *speed);
        let (profile, chosen_because) = match (named, site.profile, fastest) {
            (Some(name), _, _) => (name, "it was asked for".to_owned()),
            (None, Some(name), _) => (name, "the site file names it".to_owned()),
            (None, None, Some((speed, link))) => {
                (ProfileName::of_rate(speed), format!("{link} has {}", gigabits(speed)))
            }
            (None, None, None) => (ProfileName::Dtn10g, "no data link reports its speed".to_owned()),
        };
        let rate = fastest.map(|(speed, _)| speed).or(profile.nominal_bits_per_second()).unwrap_or(10 * GIGABIT);
        let partner_rtts = site.partners.iter().filter_map(|partner| partner.rtt_ms);
        let measured_rtts = facts.paths.iter().filter_map(|path| path.rtt_ms);
        let longest = partner_rtts.chain(measured_rtts).reduce(f64::max);
        let column = ProfileName::of_rate(profile.nominal_bits_per_second().unwrap_or(rate));
        let rtt_ms = site.rtt_ms.or(longest).unwrap_or(if column == ProfileName::Dtn40g { 50.0 } else { 100.0 });
        let streams = site.streams.unwrap_or(STREAMS);
        let lanes = lanes(facts, site, &data_links, column);
        let (socket, tcp, limited_by_memory) =
            buffers(profile, column, rate, rtt_ms, streams, facts.memory.total_bytes);
        Self {
            profile,
            chosen_because,
            rate_bits_per_second: rate,
            rtt_ms,
            streams,
            lanes,
            data_links,
            socket_buffer_max_bytes: socket,
            tcp_buffer_max_bytes: tcp,
            limited_by_memory,
            umem_bytes: u64::from(lanes) * UMEM_BYTES_PER_LANE,
            site: site.clone(),
        }
    }

    /// The links that carry transfers.
    pub fn links<'a>(&'a self, facts: &'a Facts) -> impl Iterator<Item = &'a Link> {
        facts.links.iter().filter(|link| self.data_links.contains(&link.name))
    }

    /// Whether the profile is for this rate or more.
    #[must_use]
    pub fn is_at_least(&self, gigabits: u64) -> bool {
        self.rate_bits_per_second >= gigabits * GIGABIT
    }

    /// Whether a rule that applies on request only was requested.
    #[must_use]
    pub fn enables(&self, rule: &str) -> bool {
        self.site.enable.iter().any(|id| id == rule)
    }

    /// The rate of each stream when fq paces: together 85 % of the link (fasterdata, "Packet
    /// Pacing": 80 to 90 %).
    #[must_use]
    pub fn qdisc_rate_bits_per_second(&self, link: &Link) -> Option<u64> {
        if self.site.pacing != Pacing::Qdisc {
            return None;
        }
        Some(self.paced_rate_bits_per_second(link.speed_bits_per_second?))
    }

    /// The rate of each stream when fq paces a link of this speed.
    #[must_use]
    pub fn paced_rate_bits_per_second(&self, speed_bits_per_second: u64) -> u64 {
        speed_bits_per_second / 100 * 85 / u64::from(self.streams)
    }
}

/// A rate as text.
#[must_use]
pub fn gigabits(bits_per_second: u64) -> String {
    let gigabits = bits_per_second as f64 / 1e9;
    if gigabits.fract() == 0.0 { format!("{gigabits:.0} Gb/s") } else { format!("{gigabits:.2} Gb/s") }
}

/// The online CPUs of the link's node; all online CPUs if the node is unknown.
#[must_use]
pub fn local_cpus(facts: &Facts, link: &Link) -> CpuSet {
    let node = link.numa_node.and_then(|node| facts.node(node));
    node.map_or_else(|| facts.cpu.online.clone(), |node| node.cpus.intersection(&facts.cpu.online))
}

/// One CPU of each core: where two CPUs share a core, kernels number the first of each core before
/// the second ones, so the first half of the node's CPUs.
#[must_use]
pub fn physical_cores(facts: &Facts, cpus: &CpuSet) -> CpuSet {
    if facts.cpu.smt_active == Some(true) { cpus.iter().take(cpus.len().div_ceil(2)).collect() } else { cpus.clone() }
}

/// Physical links that are up and fast; if none is fast, all physical links that are up. The site
/// file overrides both.
fn data_links(facts: &Facts, site: &Site) -> Vec<String> {
    let said = |link: &Link| site.links.get(&link.name).and_then(|site| site.data);
    let candidate = |link: &&Link| link.is_physical() && link.up && link.carrier != Some(false) && said(link).is_none();
    let fast = |link: &&Link| link.speed_bits_per_second.is_some_and(|speed| speed >= DATA_LINK_BITS_PER_SECOND);
    let named = facts.links.iter().filter(|link| said(link) == Some(true));
    let mut chosen: Vec<String> = named.map(|link| link.name.clone()).collect();
    let any_named = !chosen.is_empty();
    let any_fast = facts.links.iter().filter(candidate).any(|link| fast(&link));
    if !any_named {
        let by_speed = facts.links.iter().filter(candidate).filter(|link| !any_fast || fast(link));
        chosen.extend(by_speed.map(|link| link.name.clone()));
    }
    chosen
}

/// About one lane for each 12.5 Gb/s, on at most half of the physical cores of the NIC's node,
/// which leaves the others to interrupts and disks.
fn lanes(facts: &Facts, site: &Site, data_links: &[String], column: ProfileName) -> u32 {
    if let Some(lanes) = site.lanes {
        return lanes;
    }
    let count = |cores: &CpuSet| u32::try_from(cores.len()).unwrap_or(u32::MAX);
    if let Some(cores) = &site.lane_cores {
        return count(cores).max(1);
    }
    let wished = match column {
        ProfileName::Dtn400g => 32,
        ProfileName::Dtn100g => 8,
        ProfileName::Dtn40g => 4,
        _ => 2,
    };
    let link = data_links.iter().find_map(|name| facts.link(name));
    let cores = link.map_or(facts.cpu.cores, |link| Some(count(&physical_cores(facts, &local_cpus(facts, link)))));
    cores.map_or(wished, |cores| wished.min((cores / 2).max(1)))
}

/// Socket buffer maximum, TCP buffer maximum, and whether memory limited the latter.
fn buffers(
    profile: ProfileName,
    column: ProfileName,
    rate_bits_per_second: u64,
    rtt_ms: f64,
    streams: u32,
    memory_bytes: u64,
) -> (u64, u64, bool) {
    let long = rtt_ms > 100.0;
    let (socket, floor) = match (profile, column) {
        (_, ProfileName::Dtn100g | ProfileName::Dtn400g) => (i32::MAX as u64, 1024 * MIB),
        (ProfileName::Measurement, ProfileName::Dtn40g) => (512 * MIB, 256 * MIB),
        (ProfileName::Measurement, _) => (256 * MIB, 128 * MIB),
        (_, ProfileName::Dtn40g) => (128 * MIB, 64 * MIB),
        (_, _) if long => (128 * MIB, 64 * MIB),
        (_, _) => (64 * MIB, 32 * MIB),
    };
    // Measurements use one stream; the streams of a transfer share the path.
    let sharing = if profile == ProfileName::Measurement { 1 } else { streams };
    let bdp_bytes = rate_bits_per_second as f64 / 8.0 / f64::from(sharing) * rtt_ms / 1e3;
    // Exact: the size in bytes is far below 2^53.
    let wished = ((2.0 * bdp_bytes) as u64).min(TCP_BUFFER_MAX).next_power_of_two().clamp(floor, TCP_BUFFER_MAX);
    let ceiling = if memory_bytes == 0 { TCP_BUFFER_MAX } else { memory_bytes / (4 * u64::from(streams)) };
    // Rounded down to a power of two, so that small differences in memory change nothing.
    let ceiling = 1_u64 << ceiling.max(MIB).ilog2();
    let tcp = wished.min(ceiling);
    // Invariant I-tuning-tcp-buffer: A recommended TCP buffer is a power of two from 1 MiB to 1
    // GiB.
    assert!(tcp.is_power_of_two() && (MIB..=TCP_BUFFER_MAX).contains(&tcp), "a TCP buffer of {tcp} bytes");
    (socket.max(tcp), tcp, ceiling < wished)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn host(speed_gigabits: u64, memory_bytes: u64) -> Facts {
        let mut facts = Facts::default();
        facts.memory.total_bytes = memory_bytes;
        facts.links.push(Link {
            name: "ens1".to_owned(),
            device: Some("0000:81:00.0".to_owned()),
            up: true,
            carrier: Some(true),
            speed_bits_per_second: Some(speed_gigabits * GIGABIT),
            ..Link::default()
        });
        facts
    }

    fn site(text: &str) -> Site {
        Site::from_toml(text, "site.toml").unwrap()
    }

    #[test]
    fn the_defaults_are_fasterdatas() {
        for (speed, profile, socket, tcp) in [
            (10, ProfileName::Dtn10g, 67_108_864, 33_554_432),
            (40, ProfileName::Dtn40g, 134_217_728, 67_108_864),
            (100, ProfileName::Dtn100g, 2_147_483_647, 1_073_741_824),
            (400, ProfileName::Dtn400g, 2_147_483_647, 1_073_741_824),
        ] {
            let targets = Targets::choose(&host(speed, 256 * GIB), &Site::default(), None);
            assert_eq!(targets.profile, profile);
            assert_eq!((targets.socket_buffer_max_bytes, targets.tcp_buffer_max_bytes), (socket, tcp), "{speed}G");
            assert!(!targets.limited_by_memory);
        }
        let long = Targets::choose(&host(10, 64 * GIB), &site("rtt_ms = 200"), None);
        assert_eq!((long.socket_buffer_max_bytes, long.tcp_buffer_max_bytes), (134_217_728, 67_108_864));
        let measurement = Targets::choose(&host(10, 64 * GIB), &Site::default(), Some(ProfileName::Measurement));
        assert_eq!(measurement.socket_buffer_max_bytes, 268_435_456);
        assert!(measurement.tcp_buffer_max_bytes >= 134_217_728);
    }

    #[test]
    fn little_memory_limits_the_buffers() {
        let targets = Targets::choose(&host(100, 16 * GIB), &Site::default(), None);
        assert_eq!(targets.tcp_buffer_max_bytes, 512 * MIB);
        assert!(targets.limited_by_memory);
    }

    #[test]
    fn slow_links_are_left_alone_where_there_is_a_fast_one() {
        let mut facts = host(100, GIB);
        facts.links.push(Link {
            name: "eno1".to_owned(),
            device: Some("0000:01:00.0".to_owned()),
            up: true,
            speed_bits_per_second: Some(GIGABIT),
            ..Link::default()
        });
        assert_eq!(Targets::choose(&facts, &Site::default(), None).data_links, ["ens1"]);
        let said = site("[links.eno1]\ndata = true");
        assert_eq!(Targets::choose(&facts, &said, None).data_links, ["eno1"]);
        let not = site("[links.ens1]\ndata = false");
        assert_eq!(Targets::choose(&facts, &not, None).data_links, ["eno1"]);
    }

    #[test]
    fn pacing_leaves_fifteen_percent() {
        let facts = host(10, GIB);
        let targets = Targets::choose(&facts, &site("pacing = \"qdisc\"\nstreams = 4"), None);
        assert_eq!(targets.qdisc_rate_bits_per_second(&facts.links[0]), Some(2_125_000_000));
        assert_eq!(Targets::choose(&facts, &Site::default(), None).qdisc_rate_bits_per_second(&facts.links[0]), None);
    }
}
