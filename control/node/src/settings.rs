//! Settings: flags beat `CULVERT_*` variables, these beat the configuration file, and that beats
//! the defaults.
//!
//! Every setting remembers where its value came from, so `culvert config show --origin` can tell.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use culvert_engine::engine::TransferBounds;
use culvert_engine::transfer::patience::PATIENCE_DEFAULT;
use culvert_link::engine::{BUFFERS_PER_LANE_MIN, EngineConfig};
use culvert_link::kernel_bypass::{AfXdpStart, Mode};
use culvert_model::address::DEFAULT_PORT;
use culvert_model::units::{parse_bytes, show_bytes};
use culvert_plane::next_hop::Tables;
use culvert_plane::next_hop::interface::InterfaceError;
use culvert_protocol::chunk_map::CHUNK_BYTES_DEFAULT;
use culvert_protocol::counted::{agree, counted};
use culvert_system::accounts::SYSTEM_STATE;
use culvert_system::regular_file::{self, Links};
use serde::Deserialize;

/// Where a node serves metrics unless told otherwise.
pub const DEFAULT_METRICS: &str = "127.0.0.1:9472";
/// The configuration of the system's node.
pub const SYSTEM_CONFIGURATION: &str = "/etc/culvert/culvert.toml";
/// Lanes unless cores are named: more do not help before a 100 Gb/s NIC.
const LANES_DEFAULT_MAX: usize = 4;
/// No configuration is longer.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Chunk buffers of each lane unless memory is set: what 10 Gb/s have in flight over 50 ms, and
/// small enough for any host.
const LANE_MEMORY_BYTES: usize = 64 << 20;
/// Bytes asked for each lane's socket; hosts grant what `net.core.rmem_max` allows. 16 MiB are 3 ms
/// at 40 Gb/s.
pub const SOCKET_BUFFER_BYTES: usize = 16 << 20;
/// A longer poll takes the core from what waits for it.
const BUSY_POLL_US_MAX: u32 = 10_000;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// A variable.
    Variable(&'static str),
    /// A file.
    File(PathBuf),
    /// It was not set.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Origin {
    /// A setting as those know it who have set it.
    fn name_of(&self, name: &str) -> String {
        match self {
            Self::Flag => format!("--{}", name.strip_suffix("_us").unwrap_or(name).replace('_', "-")),
            origin => format!("{name} (from {origin})"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Its origin.
    pub origin: Origin,
}

/// What the command line set.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`
    pub config: Option<String>,
    /// `--state`
    pub state: Option<String>,
    /// `--name`
    pub name: Option<String>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--metrics`
    pub metrics: Option<String>,
    /// `--cores`
    pub cores: Option<String>,
    /// `--memory`
    pub memory: Option<String>,
    /// `--bind`
    pub bind: Option<String>,
    /// `--ports`
    pub ports: Option<String>,
    /// `--mtu`
    pub mtu: Option<String>,
    /// `--datapath`
    pub datapath: Option<String>,
    /// `--interface`
    pub interface: Option<String>,
    /// `--dataplane-socket`
    pub dataplane_socket: Option<String>,
    /// `--af-xdp-mode`
    pub af_xdp_mode: Option<String>,
    /// `--busy-poll`
    pub busy_poll: Option<String>,
}

/// The configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSettings {
    state: Option<String>,
    name: Option<String>,
    listen: Option<String>,
    metrics: Option<String>,
    cores: Option<CoreList>,
    memory: Option<String>,
    bind: Option<String>,
    ports: Option<String>,
    mtu: Option<u32>,
    datapath: Option<String>,
    interface: Option<String>,
    dataplane_socket: Option<String>,
    af_xdp_mode: Option<String>,
    busy_poll_us: Option<u32>,
    patience_s: Option<u32>,
    #[serde(default)]
    path: crate::path::settings::PathTable,
    responder: Option<crate::path::settings::ResponderTable>,
    archive: Option<crate::path::settings::ArchiveTable>,
    psconfig: Option<crate::path::settings::PsconfigTable>,
}

/// Cores in a file: a list, or text as on the command line.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum CoreList {
    List(Vec<usize>),
    Text(String),
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file.
    #[error("the configuration file {path} cannot be used: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A value.
    #[error("{} cannot be used: {reason}", origin.name_of(name))]
    Value {
        /// The setting.
        name: &'static str,
        /// Where its value came from.
        origin: Origin,
        /// Why not.
        reason: String,
    },
    /// A value that this host has no such thing for.
    #[error("{} cannot be used: {reason}", origin.name_of(name))]
    Host {
        /// The setting.
        name: &'static str,
        /// Where its value came from.
        origin: Origin,
        /// Why not.
        reason: String,
    },
}

impl SettingsError {
    /// Whether the command line has to be typed otherwise.
    #[must_use]
    pub const fn is_of_command_line(&self) -> bool {
        matches!(self, Self::Value { origin: Origin::Flag, .. })
    }
}

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

/// All settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The state directory.
    pub state: Setting<PathBuf>,
    /// What the node calls itself.
    pub name: Setting<String>,
    /// Where a node listens for control connections.
    pub listen: Setting<SocketAddr>,
    /// Where a node serves metrics.
    pub metrics: Setting<Option<SocketAddr>>,
    /// The lanes' cores; empty for the default choice.
    pub cores: Setting<Vec<usize>>,
    /// Bytes of chunk buffers.
    pub memory: Setting<u64>,
    /// The address that lanes bind.
    pub bind: Setting<IpAddr>,
    /// The lanes' UDP ports.
    pub ports: Setting<Ports>,
    /// The largest IP packet, if it is limited.
    pub mtu: Setting<Option<u16>>,
    /// How packets move.
    pub datapath: Setting<String>,
    /// The interface that AF_XDP attaches to.
    pub interface: Setting<Option<String>>,
    /// Where a node's data plane is started by somebody else; none if the node starts it itself.
    pub dataplane_socket: Setting<Option<PathBuf>>,
    /// The only mode of AF_XDP that is tried; `None` tries all, best first.
    pub af_xdp_mode: Setting<Option<Mode>>,
    /// Microseconds that AF_XDP sockets poll the NIC's driver in each call; 0 leaves it to
    /// interrupts.
    pub busy_poll_us: Setting<u32>,
    /// Seconds after which a transfer that gets nowhere is given up; 0 never.
    pub patience_s: Setting<u32>,
    /// Path checks, the responder, the archive and the template: only in the file.
    pub paths: crate::path::settings::PathSettings,
    /// The file that was read, if there is one.
    pub file: Option<PathBuf>,
}

/// Looks a variable up; a parameter, so that tests need not change the process.
type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

struct Resolver<'a> {
    variables: Variables<'a>,
    file: Option<PathBuf>,
}

impl Resolver<'_> {
    fn resolve<T>(
        &self,
        name: &'static str,
        variable: &'static str,
        flag: Option<&String>,
        in_file: Option<String>,
        default: impl FnOnce() -> T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Setting<T>, SettingsError> {
        let found = match (flag, (self.variables)(variable), in_file) {
            (Some(text), _, _) => Some((text.clone(), Origin::Flag)),
            (None, Some(text), _) => Some((text, Origin::Variable(variable))),
            (None, None, Some(text)) => Some((text, Origin::File(self.file.clone().unwrap_or_default()))),
            (None, None, None) => None,
        };
        let Some((text, origin)) = found else { return Ok(Setting { value: default(), origin: Origin::Default }) };
        match parse(&text) {
            Ok(value) => Ok(Setting { value, origin }),
            Err(reason) => Err(SettingsError::Value { name, origin, reason }),
        }
    }
}

impl Settings {
    /// Settles every setting.
    ///
    /// # Errors
    /// [`SettingsError`] names the first that cannot be used.
    pub fn resolve(flags: &Flags) -> Result<Self, SettingsError> {
        Self::resolve_with(flags, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// What a configuration file of this text sets, without flags and variables; `path` is for
    /// errors and origins.
    ///
    /// # Errors
    /// [`SettingsError`] names the first that cannot be used.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, SettingsError> {
        Self::settle(&Flags::default(), &|_| None, parse_file(text, path)?, Some(path.to_owned()))
    }

    fn resolve_with(flags: &Flags, variables: Variables<'_>) -> Result<Self, SettingsError> {
        let (file, path) = read_file(flags, variables)?;
        Self::settle(flags, variables, file, path)
    }

    fn settle(
        flags: &Flags,
        variables: Variables<'_>,
        file: FileSettings,
        path: Option<PathBuf>,
    ) -> Result<Self, SettingsError> {
        let r = Resolver { variables, file: path.clone() };
        let text = |text: &str| Ok(text.to_owned());
        let cores_in_file = file.cores.map(|cores| match cores {
            CoreList::Text(text) => text,
            CoreList::List(cores) => cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        });
        Ok(Self {
            state: r.resolve(
                "state",
                "CULVERT_STATE",
                flags.state.as_ref(),
                file.state,
                || default_state(variables),
                |text| Ok(PathBuf::from(text)),
            )?,
            name: r.resolve(
                "name",
                "CULVERT_NAME",
                flags.name.as_ref(),
                file.name,
                culvert_system::descriptors::host_name,
                text,
            )?,
            listen: r.resolve(
                "listen",
                "CULVERT_LISTEN",
                flags.listen.as_ref(),
                file.listen,
                default_listen,
                parse_listen,
            )?,
            metrics: r.resolve(
                "metrics",
                "CULVERT_METRICS",
                flags.metrics.as_ref(),
                file.metrics,
                || DEFAULT_METRICS.parse().ok(),
                parse_metrics,
            )?,
            cores: r.resolve("cores", "CULVERT_CORES", flags.cores.as_ref(), cores_in_file, Vec::new, parse_cores)?,
            memory: r.resolve("memory", "CULVERT_MEMORY", flags.memory.as_ref(), file.memory, || 0, parse_bytes)?,
            bind: r.resolve(
                "bind",
                "CULVERT_BIND",
                flags.bind.as_ref(),
                file.bind,
                || Ipv6Addr::UNSPECIFIED.into(),
                |text| text.parse().map_err(|_| format!("'{text}' is not an IP address")),
            )?,
            ports: r.resolve(
                "ports",
                "CULVERT_PORTS",
                flags.ports.as_ref(),
                file.ports,
                || Ports::Automatic,
                parse_ports,
            )?,
            mtu: r.resolve(
                "mtu",
                "CULVERT_MTU",
                flags.mtu.as_ref(),
                file.mtu.map(|mtu| mtu.to_string()),
                || None,
                parse_mtu,
            )?,
            datapath: r.resolve(
                "datapath",
                "CULVERT_DATAPATH",
                flags.datapath.as_ref(),
                file.datapath,
                || "auto".to_owned(),
                parse_datapath,
            )?,
            interface: r.resolve(
                "interface",
                "CULVERT_INTERFACE",
                flags.interface.as_ref(),
                file.interface,
                || None,
                |text| Ok(Some(text.to_owned())),
            )?,
            dataplane_socket: r.resolve(
                "dataplane_socket",
                "CULVERT_DATAPLANE_SOCKET",
                flags.dataplane_socket.as_ref(),
                file.dataplane_socket,
                || None,
                |text| Ok(Some(PathBuf::from(text))),
            )?,
            af_xdp_mode: r.resolve(
                "af_xdp_mode",
                "CULVERT_AF_XDP_MODE",
                flags.af_xdp_mode.as_ref(),
                file.af_xdp_mode,
                || None,
                parse_af_xdp_mode,
            )?,
            busy_poll_us: r.resolve(
                "busy_poll_us",
                "CULVERT_BUSY_POLL",
                flags.busy_poll.as_ref(),
                file.busy_poll_us.map(|us| us.to_string()),
                || 0,
                parse_busy_poll,
            )?,
            patience_s: r.resolve(
                "patience_s",
                "CULVERT_PATIENCE",
                None,
                file.patience_s.map(|seconds| seconds.to_string()),
                || PATIENCE_DEFAULT.as_secs() as u32,
                |text| text.parse().map_err(|_| format!("'{text}' is not a number of seconds")),
            )?,
            paths: crate::path::settings::PathSettings {
                path: file.path,
                responder: file.responder,
                archive: file.archive,
                psconfig: file.psconfig,
            },
            file: path,
        })
    }

    /// Every setting as text with its origin, for `culvert config show`.
    #[must_use]
    pub fn table(&self) -> Vec<(&'static str, String, Origin)> {
        let cores = if self.cores.value.is_empty() { "automatic".to_owned() } else { join(&self.cores.value) };
        let ports = match &self.ports.value {
            Ports::Automatic => "automatic".to_owned(),
            Ports::Any => "any".to_owned(),
            Ports::These(ports) => join(ports),
        };
        let memory = if self.memory.value == 0 { "automatic".to_owned() } else { show_bytes(self.memory.value) };
        vec![
            ("state", self.state.value.display().to_string(), self.state.origin.clone()),
            ("name", self.name.value.clone(), self.name.origin.clone()),
            ("listen", self.listen.value.to_string(), self.listen.origin.clone()),
            (
                "metrics",
                self.metrics.value.map_or("off".to_owned(), |address| address.to_string()),
                self.metrics.origin.clone(),
            ),
            ("cores", cores, self.cores.origin.clone()),
            ("memory", memory, self.memory.origin.clone()),
            ("bind", self.bind.value.to_string(), self.bind.origin.clone()),
            ("ports", ports, self.ports.origin.clone()),
            ("mtu", self.mtu.value.map_or("the path's".to_owned(), |mtu| mtu.to_string()), self.mtu.origin.clone()),
            ("datapath", self.datapath.value.clone(), self.datapath.origin.clone()),
            (
                "interface",
                self.interface.value.clone().unwrap_or_else(|| "automatic".to_owned()),
                self.interface.origin.clone(),
            ),
            (
                "dataplane_socket",
                self.dataplane_socket.value.as_ref().map_or("none".to_owned(), |path| path.display().to_string()),
                self.dataplane_socket.origin.clone(),
            ),
            (
                "af_xdp_mode",
                self.af_xdp_mode.value.map_or("automatic", Mode::name).to_owned(),
                self.af_xdp_mode.origin.clone(),
            ),
            ("busy_poll_us", self.busy_poll_us.value.to_string(), self.busy_poll_us.origin.clone()),
            ("patience_s", self.patience_s.value.to_string(), self.patience_s.origin.clone()),
        ]
    }

    /// How far the user limits transfers.
    #[must_use]
    pub fn transfer_bounds(&self) -> TransferBounds {
        TransferBounds { datagram_bytes: self.datagram_bytes_cap(), patience: self.patience() }
    }

    /// How long a transfer may make no progress; no limit if none.
    #[must_use]
    fn patience(&self) -> Option<std::time::Duration> {
        Some(std::time::Duration::from_secs(self.patience_s.value.into())).filter(|patience| !patience.is_zero())
    }

    /// The data plane's set-up. `is_node` says that this process is a node with ports of its own,
    /// rather than one for a single transfer; `partner` is that transfer's partner, as far as it is
    /// known.
    ///
    /// # Errors
    /// [`SettingsError`]: cores that this process may not use.
    pub fn engine(&self, is_node: bool, partner: Option<IpAddr>) -> Result<EngineConfig, SettingsError> {
        let cores = self.lane_cores()?;
        let memory_bytes = match self.memory.value as usize {
            0 => cores.len() * LANE_MEMORY_BYTES,
            bytes => bytes,
        };
        let least = cores.len() * BUFFERS_PER_LANE_MIN * CHUNK_BYTES_DEFAULT as usize;
        if memory_bytes < least {
            let origin = self.memory.origin.clone();
            let reason = format!(
                "{} is too little for {}: write {} or more, or use fewer cores",
                show_bytes(memory_bytes as u64),
                counted(cores.len(), "lane"),
                show_bytes(least as u64)
            );
            return Err(SettingsError::Value { name: "memory", origin, reason });
        }
        let first = self.listen.value.port();
        let ports = match &self.ports.value {
            Ports::Automatic if is_node && first > 0 => {
                (1..=cores.len() as u16).map(|lane| first.saturating_add(lane)).collect()
            }
            Ports::Automatic | Ports::Any => Vec::new(),
            Ports::These(ports) => ports.clone(),
        };
        // Partners' firewalls know a node's ports; a single transfer's lanes take any that are
        // free.
        let ports = if is_node { ports.into_iter().take(cores.len()).collect() } else { ports };
        if !ports.is_empty() && ports.len() < cores.len() {
            return Err(SettingsError::Value {
                name: "ports",
                origin: self.ports.origin.clone(),
                reason: format!(
                    "{} {} too few for {}: each lane has one of its own",
                    counted(ports.len(), "port"),
                    agree(ports.len(), "is", "are"),
                    counted(cores.len(), "lane")
                ),
            });
        }
        let (af_xdp, refusals) = self.af_xdp(partner)?;
        Ok(EngineConfig {
            cores: cores.into_iter().map(Some).collect(),
            memory_bytes,
            buffer_bytes: CHUNK_BYTES_DEFAULT as usize,
            bind: self.bind.value,
            ports,
            socket_buffer_bytes: SOCKET_BUFFER_BYTES,
            af_xdp,
            refusals,
        })
    }

    /// Whether AF_XDP is asked for and its interface left to be found.
    #[must_use]
    pub fn seeks_interface(&self) -> bool {
        self.datapath.value == "af_xdp" && self.interface.value.is_none()
    }

    /// The interface for AF_XDP, or why there is none: where it was asked for, and by itself only
    /// where an interface was named.
    fn af_xdp(&self, partner: Option<IpAddr>) -> Result<(Option<AfXdpStart>, Vec<String>), SettingsError> {
        let name = self.interface.value.as_deref();
        let is_wanted = match self.datapath.value.as_str() {
            "af_xdp" => true,
            "auto" => name.is_some(),
            _ => false,
        };
        if !is_wanted {
            return Ok((None, Vec::new()));
        }
        let found = Tables::open().map_err(InterfaceError::from).and_then(|tables| tables.interface(name, partner));
        let (only, busy_poll_us) = (self.af_xdp_mode.value, self.busy_poll_us.value);
        let busy_poll_us = (busy_poll_us > 0).then_some(busy_poll_us);
        match found {
            Ok(start) => Ok((Some(AfXdpStart { only, busy_poll_us, ..start }), Vec::new())),
            Err(error @ InterfaceError::Unclear { .. }) => Ok((None, vec![format!("{error}; UDP sockets are used")])),
            Err(error) => Err(SettingsError::Host {
                name: "interface",
                origin: self.interface.origin.clone(),
                reason: error.to_string(),
            }),
        }
    }

    fn lane_cores(&self) -> Result<Vec<usize>, SettingsError> {
        let usable: Vec<usize> =
            core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
        if let Some(core) = self.cores.value.iter().find(|core| !usable.contains(core)) {
            return Err(SettingsError::Value {
                name: "cores",
                origin: self.cores.origin.clone(),
                reason: format!("core {core} is not one that this process may use ({})", join(&usable)),
            });
        }
        if !self.cores.value.is_empty() {
            return Ok(self.cores.value.clone());
        }
        // Half of the cores, beginning somewhere else in each process, so that two nodes on a host
        // do not meet.
        let lanes = (usable.len() / 2).clamp(1, LANES_DEFAULT_MAX);
        let begin = std::process::id() as usize;
        Ok((0..lanes).map(|lane| usable.get((begin + lane) % usable.len().max(1)).copied().unwrap_or(0)).collect())
    }

    /// The largest UDP payload, if the MTU is limited.
    #[must_use]
    fn datagram_bytes_cap(&self) -> Option<u16> {
        self.mtu.value.map(|mtu| mtu - 28)
    }
}

fn join<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn read_file(flags: &Flags, variables: Variables<'_>) -> Result<(FileSettings, Option<PathBuf>), SettingsError> {
    let named = flags.config.clone().or_else(|| variables("CULVERT_CONFIG")).map(PathBuf::from);
    let path = match &named {
        Some(path) => path.clone(),
        None => {
            let candidates = [
                user_directory("XDG_CONFIG_HOME", ".config", variables).map(|directory| directory.join("culvert.toml")),
                Some(SYSTEM_CONFIGURATION.into()),
            ];
            match candidates.into_iter().flatten().find(|path| path.exists()) {
                Some(path) => path,
                None => return Ok((FileSettings::default(), None)),
            }
        }
    };
    let text = regular_file::read_text(&path, FILE_BYTES_MAX, Links::Followed)
        .map_err(|error| SettingsError::File { path: path.clone(), reason: error.to_string() })?;
    Ok((parse_file(&text, &path)?, Some(path)))
}

fn parse_file(text: &str, path: &Path) -> Result<FileSettings, SettingsError> {
    toml::from_str(text).map_err(|error| SettingsError::File { path: path.to_owned(), reason: error.to_string() })
}

/// `$VARIABLE/culvert`, or `~/fallback/culvert`.
fn user_directory(variable: &str, fallback: &str, variables: Variables<'_>) -> Option<PathBuf> {
    let base = variables(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| variables("HOME").map(|home| Path::new(&home).join(fallback)));
    base.map(|base| base.join("culvert"))
}

fn default_state(variables: Variables<'_>) -> PathBuf {
    // The node's account has one state, whatever home sudo leaves it.
    if culvert_system::accounts::is_systems() {
        return SYSTEM_STATE.into();
    }
    user_directory("XDG_STATE_HOME", ".local/state", variables).unwrap_or_else(|| SYSTEM_STATE.into())
}

fn default_listen() -> SocketAddr {
    SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), DEFAULT_PORT)
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    }
    text.parse()
        .map_err(|_| format!("'{text}' is not an address with a port: write for instance [::]:7272 or 192.0.2.1:7272"))
}

fn parse_metrics(text: &str) -> Result<Option<SocketAddr>, String> {
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

fn parse_mtu(text: &str) -> Result<Option<u16>, String> {
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

fn parse_datapath(text: &str) -> Result<String, String> {
    match text {
        "auto" | "udp" | "af_xdp" => Ok(text.to_owned()),
        _ => Err(format!("'{text}' is not a datapath: write auto, udp or af_xdp")),
    }
}

fn parse_af_xdp_mode(text: &str) -> Result<Option<Mode>, String> {
    if text == "auto" {
        return Ok(None);
    }
    let modes = [Mode::ZeroCopy, Mode::Copy, Mode::Skb];
    let mode = modes.into_iter().find(|mode| mode.name() == text);
    mode.map(Some).ok_or_else(|| format!("'{text}' is not a mode of AF_XDP: write auto, zerocopy, copy or skb"))
}

fn parse_busy_poll(text: &str) -> Result<u32, String> {
    let us = text.parse().ok().filter(|&us| us <= BUSY_POLL_US_MAX);
    us.ok_or_else(|| format!("'{text}' is not a time to poll: write microseconds from 0 (off) to {BUSY_POLL_US_MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn modes_and_polling_of_af_xdp() {
        assert_eq!(parse_af_xdp_mode("auto"), Ok(None));
        assert_eq!(parse_af_xdp_mode("zerocopy"), Ok(Some(Mode::ZeroCopy)));
        assert!(parse_af_xdp_mode("zero").unwrap_err().contains("zerocopy, copy or skb"));
        assert_eq!(parse_busy_poll("50"), Ok(50));
        for wrong in ["-1", "10001", "fast"] {
            assert!(parse_busy_poll(wrong).unwrap_err().contains(wrong));
        }
    }

    #[test]
    fn flags_beat_variables_beat_the_file_beats_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("culvert.toml");
        std::fs::write(&path, "name = 'file'\nmtu = 1500\ncores = [0]\n").unwrap();
        let flags = Flags { config: Some(path.display().to_string()), ..Flags::default() };
        let variables = |name: &str| (name == "CULVERT_NAME").then(|| "variable".to_owned());
        let settings = Settings::resolve_with(&flags, &variables).unwrap();
        assert_eq!(
            (settings.name.value.as_str(), &settings.name.origin),
            ("variable", &Origin::Variable("CULVERT_NAME"))
        );
        assert_eq!((settings.mtu.value, settings.mtu.origin), (Some(1500), Origin::File(path)));
        assert_eq!(settings.datapath.origin, Origin::Default);
        let flags = Flags { name: Some("flag".into()), ..flags };
        assert_eq!(Settings::resolve_with(&flags, &variables).unwrap().name.value, "flag");
    }

    #[test]
    fn mistakes_are_named_with_their_origin() {
        let fails = |flags: Flags| Settings::resolve_with(&flags, &none).unwrap_err().to_string();
        let error = fails(Flags { mtu: Some("9k".into()), ..Flags::default() });
        assert!(error.contains("--mtu cannot be used") && error.contains("1280"), "{error}");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("culvert.toml");
        std::fs::write(&path, "nmae = 'typo'\n").unwrap();
        let error = fails(Flags { config: Some(path.display().to_string()), ..Flags::default() });
        assert!(error.contains("nmae"), "{error}");
        let error = fails(Flags { config: Some("/nowhere/culvert.toml".into()), ..Flags::default() });
        assert!(error.contains("/nowhere"), "{error}");
    }

    #[test]
    fn lists_are_read() {
        assert_eq!(parse_cores("2,4-6"), Ok(vec![2, 4, 5, 6]));
        assert_eq!(parse_ports("7273-7275"), Ok(Ports::These(vec![7273, 7274, 7275])));
        assert_eq!(parse_ports("any"), Ok(Ports::Any));
        for text in ["", "a", "3-1", "1,,2", "0-99999"] {
            assert!(parse_cores(text).is_err(), "{text}");
        }
        assert!(parse_ports("7280-7273").unwrap_err().contains("write 7273-7280"));
        assert!(parse_cores("1,5-2").unwrap_err().contains("write 2-5"));
        assert!(parse_ports("0").is_err() && parse_ports("70000").is_err());
    }

    #[test]
    fn a_core_that_is_not_there_is_refused() {
        let settings = Settings::resolve_with(&Flags { cores: Some("63".into()), ..Flags::default() }, &none).unwrap();
        if core_affinity::get_core_ids().unwrap_or_default().len() < 64 {
            assert!(settings.engine(false, None).unwrap_err().to_string().contains("core 63"));
        }
    }

    #[test]
    fn each_lane_has_a_port() {
        let flags = Flags { ports: Some("7000".into()), cores: Some("0".into()), ..Flags::default() };
        let settings = Settings::resolve_with(&flags, &none).unwrap();
        assert_eq!(settings.engine(true, None).unwrap().ports, [7000]);
    }
}
