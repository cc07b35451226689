//! Options that commands share: where the state is, and how the data plane is set up.

use clap::Args;
use culvert_node::settings::Flags;

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
pub struct GlobalArgs {
    /// Directory of keys, profiles, records and journals [variable: CULVERT_STATE] [default:
    /// $XDG_STATE_HOME/culvert; /var/lib/culvert for the culvert account and for root's node
    /// commands]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Common options")]
    pub state: Option<String>,
    /// Configuration file [variable: CULVERT_CONFIG] [default:
    /// $XDG_CONFIG_HOME/culvert/culvert.toml, /etc/culvert/culvert.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Common options")]
    pub config: Option<String>,
    /// Print errors only: no progress, no messages, no result of a transfer or an audit; --json
    /// still prints its document
    #[arg(short, long, global = true, help_heading = "Common options")]
    pub quiet: bool,
}

/// How this host's data plane is set up.
#[derive(Clone, Debug, Default, Args)]
pub struct EngineArgs {
    /// Cores to run lanes on, one lane per core: 2,3 or 2-5 [variable: CULVERT_CORES] [default:
    /// half of the cores, at most 4]
    #[arg(long, value_name = "LIST", help_heading = "Data plane")]
    pub cores: Option<String>,
    /// Memory for chunk buffers; limits how much data can be in flight [variable: CULVERT_MEMORY]
    /// [default: 64MiB per lane]
    #[arg(long, value_name = "SIZE", help_heading = "Data plane")]
    pub memory: Option<String>,
    /// Local address of the lanes' sockets [variable: CULVERT_BIND] [default: all addresses]
    #[arg(long, value_name = "ADDRESS", help_heading = "Data plane")]
    pub bind: Option<String>,
    /// UDP ports for the lanes, for example 7273-7276; each lane uses a free one [variable:
    /// CULVERT_PORTS] [default: any port; for a node, those after its TCP port]
    #[arg(long, value_name = "LIST", help_heading = "Data plane")]
    pub ports: Option<String>,
    /// Largest IP packet to send, in bytes [variable: CULVERT_MTU] [default: what the path carries]
    #[arg(long, value_name = "BYTES", help_heading = "Data plane")]
    pub mtu: Option<String>,
    /// Datapath: auto, udp or af_xdp [variable: CULVERT_DATAPATH] [default: auto]
    #[arg(long, value_name = "NAME", help_heading = "Data plane")]
    pub datapath: Option<String>,
    /// Network interface for AF_XDP [variable: CULVERT_INTERFACE] [default: the one that leads to
    /// the partner, or the only one; with --datapath auto, AF_XDP is used only on an interface
    /// named here]
    #[arg(long, value_name = "NAME", help_heading = "Data plane")]
    pub interface: Option<String>,
    /// Use this AF_XDP mode and no other: zerocopy, copy or skb [variable: CULVERT_AF_XDP_MODE]
    /// [default: auto, the best that works]
    #[arg(long, value_name = "MODE", help_heading = "Data plane")]
    pub af_xdp_mode: Option<String>,
    /// Microseconds of busy polling per AF_XDP system call [variable: CULVERT_BUSY_POLL] [default:
    /// 0, use interrupts]
    #[arg(long, value_name = "MICROSECONDS", help_heading = "Data plane")]
    pub busy_poll: Option<String>,
}

impl EngineArgs {
    /// The first of the options that were given on the command line, as people type it.
    #[must_use]
    pub fn given(&self) -> Option<&'static str> {
        let Self { cores, memory, bind, ports, mtu, datapath, interface, af_xdp_mode, busy_poll } = self;
        let options = [
            (cores, "--cores"),
            (memory, "--memory"),
            (bind, "--bind"),
            (ports, "--ports"),
            (mtu, "--mtu"),
            (datapath, "--datapath"),
            (interface, "--interface"),
            (af_xdp_mode, "--af-xdp-mode"),
            (busy_poll, "--busy-poll"),
        ];
        options.into_iter().find(|(value, _)| value.is_some()).map(|(_, name)| name)
    }
}

impl GlobalArgs {
    /// As flags for the settings.
    #[must_use]
    pub fn flags(&self, engine: &EngineArgs) -> Flags {
        let engine = engine.clone();
        Flags {
            config: self.config.clone(),
            state: self.state.clone(),
            cores: engine.cores,
            memory: engine.memory,
            bind: engine.bind,
            ports: engine.ports,
            mtu: engine.mtu,
            datapath: engine.datapath,
            interface: engine.interface,
            af_xdp_mode: engine.af_xdp_mode,
            busy_poll: engine.busy_poll,
            ..Flags::default()
        }
    }
}
