//! Settings: flags beat `CULVERT_*` variables, these beat the configuration file, and that beats
//! the defaults.
//!
//! Every setting remembers where its value came from, so `culvert config show --origin` can tell.

mod file;
mod flags;
pub mod lanes;
mod origin;
mod resolver;
mod values;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use culvert_engine::engine::TransferBounds;
use culvert_engine::transfer::progress_watchdog::PATIENCE_DEFAULT;
use culvert_link::kernel_bypass::Mode;
use culvert_model::address::DEFAULT_PORT;
use culvert_model::units::{parse_bytes, show_bytes};
use culvert_path::settings::PathSettings;
use culvert_system::accounts::SYSTEM_STATE;

pub use crate::settings::file::SYSTEM_CONFIGURATION;
use crate::settings::file::{CoreList, FileSettings, parse_file, read_file};
pub use crate::settings::flags::Flags;
pub use crate::settings::origin::{Origin, Setting, SettingsError};
use crate::settings::resolver::{Resolver, Variables, user_directory};
pub use crate::settings::values::{Ports, has_af_xdp, parse_cores, parse_ports};
use crate::settings::values::{
    join, parse_af_xdp_mode, parse_busy_poll, parse_datapath, parse_listen, parse_metrics, parse_mtu,
};

/// Where a node serves metrics unless told otherwise.
pub const DEFAULT_METRICS: &str = "127.0.0.1:9472";

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
    pub paths: PathSettings,
    /// The file that was read, if there is one.
    pub file: Option<PathBuf>,
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
            paths: PathSettings {
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

    /// The largest UDP payload, if the MTU is limited.
    #[must_use]
    fn datagram_bytes_cap(&self) -> Option<u16> {
        self.mtu.value.map(|mtu| mtu - 28)
    }
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

#[cfg(test)]
mod tests;
