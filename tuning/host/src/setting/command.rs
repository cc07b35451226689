//! The command with which an admin makes a setting by hand, where Culvert may not.

use super::{Setting, Value};
use crate::collect::path_of_key;
use crate::netlink::{LinkBytes, QdiscTree};

impl Setting {
    /// A shell command that sets this value; `None` if no single command does.
    #[must_use]
    pub fn command(&self, value: &Value) -> Option<String> {
        let text = value.0.as_deref()?;
        Some(match self {
            Self::Service { unit } => {
                let verb = if text == "running" { "start" } else { "stop" };
                format!("systemctl {verb} {unit}")
            }
            Self::Sysctl { key } if key.contains('/') => format!("echo {text} > {}", path_of_key(key)),
            Self::Sysctl { key } => format!("sysctl -w {key}='{text}'"),
            Self::DirtyLimit { background } => {
                let (kind, number) = text.split_once(' ')?;
                let name = if *background { "dirty_background" } else { "dirty" };
                format!("sysctl -w vm.{name}_{kind}={number}")
            }
            Self::KernelFile { path } => format!("echo {text} > {path}"),
            Self::Channels { link } => format!("ethtool -L {link} {}", without_zeroes(text)),
            Self::Rings { link } => format!("ethtool -G {link} {text}"),
            Self::PrivateFlag { link, flag } => format!("ethtool --set-priv-flags {link} {flag} {text}"),
            Self::LinkBytes { link, size } => {
                let word = match size {
                    LinkBytes::Mtu => "mtu",
                    LinkBytes::GsoMax => "gso_max_size",
                    LinkBytes::GroMax => "gro_max_size",
                    LinkBytes::GsoIpv4Max => "gso_ipv4_max_size",
                    LinkBytes::GroIpv4Max => "gro_ipv4_max_size",
                };
                format!("ip link set dev {link} {word} {text}")
            }
            Self::Feature { link, feature } => format!("ethtool -K {link} {feature} {text}"),
            Self::Pause { link, field } => format!("ethtool -A {link} {} {text}", field.word()),
            Self::Coalesce { link, field } => format!("ethtool -C {link} {} {text}", field.word()),
            Self::FlowHash { link, flow } => format!("ethtool -N {link} rx-flow-hash {flow} {text}"),
            Self::RssTable { link } => {
                let queues = text.split_whitespace().filter_map(|queue| queue.parse::<u32>().ok()).max()? + 1;
                format!("ethtool -X {link} equal {queues}")
            }
            Self::Qdisc { link } => qdisc_command(link, text)?,
            Self::LinkFile { link, file } => format!("echo {text} > /sys/class/net/{link}/{file}"),
            // The number of the interrupt is not part of the setting.
            Self::IrqAffinity { .. } | Self::OwnedFile { .. } => return None,
        })
    }
}

/// Leaves out zeros: ethtool refuses to set a kind of channel that the driver lacks, even to 0.
fn without_zeroes(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let pairs = words.chunks(2).filter(|pair| pair.get(1) != Some(&"0"));
    pairs.map(|pair| pair.join(" ")).collect::<Vec<_>>().join(" ")
}

fn qdisc_command(link: &str, tree: &str) -> Option<String> {
    let tree: QdiscTree = serde_json::from_str(tree).ok()?;
    let commands: Vec<String> = tree
        .0
        .iter()
        .map(|entry| {
            let place = if entry.parent == "root" { "root".to_owned() } else { format!("parent {}", entry.parent) };
            let handle = if entry.handle.is_empty() { String::new() } else { format!(" handle {}", entry.handle) };
            let rate = entry.max_rate_bits_per_second().map(|rate| format!(" maxrate {rate}bit")).unwrap_or_default();
            format!("tc qdisc replace dev {link} {place}{handle} {}{rate}", entry.kind)
        })
        .collect();
    (!commands.is_empty()).then(|| commands.join(" && "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::QdiscEntry;

    #[test]
    fn commands_are_what_an_admin_would_type() {
        let link = || "ens1".to_owned();
        let command = |setting: Setting, value: &str| setting.command(&Value::new(value)).unwrap();
        assert_eq!(
            command(Setting::sysctl("net.ipv4.tcp_rmem"), "4096 87380 33554432"),
            "sysctl -w net.ipv4.tcp_rmem='4096 87380 33554432'"
        );
        assert_eq!(command(Setting::Channels { link: link() }, "rx 0 tx 0 combined 16"), "ethtool -L ens1 combined 16");
        assert_eq!(command(Setting::mtu("ens1"), "9000"), "ip link set dev ens1 mtu 9000");
        let tree = QdiscTree(vec![QdiscEntry::fq("root", Some(2_000_000_000))]);
        assert_eq!(
            command(Setting::Qdisc { link: link() }, &serde_json::to_string(&tree).unwrap()),
            "tc qdisc replace dev ens1 root fq maxrate 2000000000bit"
        );
        assert_eq!(
            command(Setting::DirtyLimit { background: true }, "bytes 1"),
            "sysctl -w vm.dirty_background_bytes=1"
        );
    }
}
