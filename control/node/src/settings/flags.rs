//! What the command line may set.

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
