//! The settings at the top level of the configuration file: one row each.
//!
//! A new setting needs one row here, and the code that uses its value. Help, `culvert config show`,
//! the configuration file and the documents list settings in this order.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use culvert_engine::transfer::progress_watchdog::PATIENCE_DEFAULT;
use culvert_link::kernel_bypass::Mode;
use culvert_model::units::show_bytes;
use culvert_system::descriptors::host_name;

use crate::settings::file::CoreList;
use crate::settings::row::settings;
use crate::settings::values::{
    DEFAULT_METRICS, Ports, default_listen, default_state, join, or, parse_af_xdp_mode, parse_bind, parse_busy_poll,
    parse_cores, parse_datapath, parse_interface, parse_listen, parse_memory, parse_metrics, parse_mtu, parse_name,
    parse_path, parse_ports, parse_seconds, parse_socket_path, show_path, show_ports,
};

settings! {
    /// Directory of keys, profiles, records and journals
    state: PathBuf, in file String {
        flag: Common "--state" "DIR",
        variable: "CULVERT_STATE",
        example: "/var/lib/culvert",
        default: default_state, "$XDG_STATE_HOME/culvert; /var/lib/culvert for the culvert account and for \
            root's node commands",
        parse: parse_path,
        show: |path| path.display().to_string(),
        note: "The system's node gets /var/lib/culvert from its unit. A value set here applies to the \
            commands of all users too.",
    }
    /// Address and TCP port to listen on for partners
    listen: SocketAddr, in file String {
        flag: Node "--listen" "ADDRESS",
        variable: "CULVERT_LISTEN",
        example: "[::]:7272",
        default: |_| default_listen(), "all addresses, port 7272",
        parse: parse_listen,
        show: SocketAddr::to_string,
        note: "Port 0 is any that is free.",
    }
    /// Address and TCP port to serve /metrics on, or off
    metrics: Option<SocketAddr>, in file String {
        flag: Node "--metrics" "ADDRESS",
        variable: "CULVERT_METRICS",
        example: "127.0.0.1:9472",
        default: |_| DEFAULT_METRICS.parse().ok(), "127.0.0.1:9472",
        parse: parse_metrics,
        show: |address| or(address.as_ref(), "off"),
        note: "Port 0 is any that is free.",
    }
    /// Name that partners see
    name: String, in file String {
        flag: Node "--name" "NAME",
        variable: "CULVERT_NAME",
        example: "dtn1",
        default: |_| host_name(), "the host name",
        parse: parse_name,
        show: String::clone,
    }
    /// Cores to run lanes on, one lane per core: 2,3 or 2-5
    cores: Vec<usize>, in file CoreList {
        flag: DataPlane "--cores" "LIST",
        variable: "CULVERT_CORES",
        example: [2, 3],
        default: |_| Vec::new(), "half of the cores, at most 4",
        parse: parse_cores,
        show: |cores| if cores.is_empty() { "automatic".to_owned() } else { join(cores) },
        note: "A core that is named twice runs two lanes.",
    }
    /// Memory for chunk buffers; limits how much data can be in flight
    memory: u64, in file String {
        flag: DataPlane "--memory" "SIZE",
        variable: "CULVERT_MEMORY",
        example: "256MiB",
        default: |_| 0, "64MiB per lane",
        parse: parse_memory,
        show: |&bytes| if bytes == 0 { "automatic".to_owned() } else { show_bytes(bytes) },
    }
    /// Local address of the lanes' sockets
    bind: IpAddr, in file String {
        flag: DataPlane "--bind" "ADDRESS",
        variable: "CULVERT_BIND",
        example: "::",
        default: |_| Ipv6Addr::UNSPECIFIED.into(), "all addresses",
        parse: parse_bind,
        show: IpAddr::to_string,
    }
    /// UDP ports for the lanes, for example 7273-7276; each lane uses a free one
    ports: Ports, in file String {
        flag: DataPlane "--ports" "LIST",
        variable: "CULVERT_PORTS",
        example: "7273-7276",
        default: |_| Ports::Automatic, "any port; for a node, those after its TCP port",
        parse: parse_ports,
        show: show_ports,
    }
    /// Largest IP packet to send, in bytes
    mtu: Option<u16>, in file u32 {
        flag: DataPlane "--mtu" "BYTES",
        variable: "CULVERT_MTU",
        example: 9000,
        default: |_| None, "what the path carries",
        parse: parse_mtu,
        show: |mtu| or(mtu.as_ref(), "the path's"),
    }
    /// Datapath: auto, udp or af_xdp
    datapath: String, in file String {
        flag: DataPlane "--datapath" "NAME",
        variable: "CULVERT_DATAPATH",
        example: "auto",
        default: |_| "auto".to_owned(), "auto",
        parse: parse_datapath,
        show: String::clone,
    }
    /// Network interface for AF_XDP
    interface: Option<String>, in file String {
        flag: DataPlane "--interface" "NAME",
        variable: "CULVERT_INTERFACE",
        example: "eth1",
        default: |_| None, "the one that leads to the partner, or the only one; with --datapath \
            auto, AF_XDP is used only on an interface named here",
        parse: parse_interface,
        show: |name| or(name.as_ref(), "automatic"),
    }
    /// Socket on which systemd starts the data plane as a separate unit
    dataplane_socket: Option<PathBuf>, in file String {
        flag: NodeDataPlane "--dataplane-socket" "PATH",
        variable: "CULVERT_DATAPLANE_SOCKET",
        example: "/run/culvert/dataplane.sock",
        default: |_| None, "none; the node starts the data plane itself",
        parse: parse_socket_path,
        show: |path| or(path.as_deref().map(show_path).as_ref(), "none"),
        note: "The system's node gets it from its unit.",
    }
    /// Use this AF_XDP mode and no other: zerocopy, copy or skb
    af_xdp_mode: Option<Mode>, in file String {
        flag: DataPlane "--af-xdp-mode" "MODE",
        variable: "CULVERT_AF_XDP_MODE",
        example: "zerocopy",
        default: |_| None, "auto, the best that works",
        parse: parse_af_xdp_mode,
        show: |mode| mode.map_or("automatic", Mode::name).to_owned(),
    }
    /// Microseconds of busy polling per AF_XDP system call
    busy_poll_us: u32, in file u32 {
        flag: DataPlane "--busy-poll" "MICROSECONDS",
        variable: "CULVERT_BUSY_POLL",
        example: 0,
        default: |_| 0, "0, use interrupts",
        parse: parse_busy_poll,
        show: u32::to_string,
    }
    /// Seconds after which a transfer that makes no progress, although both nodes are alive, is
    /// abandoned and retried; 0 waits forever
    patience_s: u32, in file u32 {
        variable: "CULVERT_PATIENCE",
        example: 600,
        default: |_| PATIENCE_DEFAULT.as_secs() as u32, "600",
        parse: parse_seconds,
        show: u32::to_string,
    }
}
