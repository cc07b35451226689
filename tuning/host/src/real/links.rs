//! Parameters of links, by rtnetlink and ethtool.

use super::{HostError, RealHost, file_error, malformed, netlink_error, present};
use crate::collect::irq_vectors;
use crate::facts::{Coalesce, Pause};
use crate::kernel_calls;
use crate::netlink::{CoalesceField, LinkBytes, NetlinkError, PauseField};
use crate::setting::{Setting, Value};

/// Files of a link that tuning changes, besides those of its queues.
const LINK_FILES: [&str; 3] = ["napi_defer_hard_irqs", "gro_flush_timeout", "threaded"];
/// Sizes that `RTM_SETLINK` takes.
const SIZES: [LinkBytes; 5] =
    [LinkBytes::Mtu, LinkBytes::GsoMax, LinkBytes::GroMax, LinkBytes::GsoIpv4Max, LinkBytes::GroIpv4Max];
/// Flow types whose hash can be set.
const FLOWS: [&str; 2] = ["udp4", "udp6"];

fn coalesce_value(coalesce: &Coalesce, field: CoalesceField) -> Option<String> {
    let switch = |on: Option<bool>| on.map(|on| u32::from(on).to_string());
    let number = |number: Option<u32>| number.map(|number| number.to_string());
    match field {
        CoalesceField::RxUsecs => number(coalesce.rx_usecs),
        CoalesceField::RxFrames => number(coalesce.rx_frames),
        CoalesceField::TxUsecs => number(coalesce.tx_usecs),
        CoalesceField::TxFrames => number(coalesce.tx_frames),
        CoalesceField::AdaptiveRx => switch(coalesce.adaptive_rx),
        CoalesceField::AdaptiveTx => switch(coalesce.adaptive_tx),
    }
}

fn pause_value(pause: &Pause, field: PauseField) -> bool {
    match field {
        PauseField::Autoneg => pause.autoneg,
        PauseField::Rx => pause.rx,
        PauseField::Tx => pause.tx,
    }
}

/// Reads `rx 4 tx 4 combined 0`.
fn numbers(setting: &Setting, value: &Value, names: &[&str]) -> Result<Vec<u32>, HostError> {
    let wrong = || malformed(setting, value, &format!("{} with a number each", names.join(", ")));
    let words: Vec<&str> = value.text().split_whitespace().collect();
    if words.len() != names.len() * 2 {
        return Err(wrong());
    }
    let pairs = words.chunks(2).zip(names);
    pairs
        .map(|(pair, name)| if pair[0] == *name { pair[1].parse().map_err(|_| wrong()) } else { Err(wrong()) })
        .collect()
}

fn number(setting: &Setting, value: &Value) -> Result<u32, HostError> {
    value.text().trim().parse().map_err(|_| malformed(setting, value, "a number"))
}

fn switch(setting: &Setting, value: &Value) -> Result<bool, HostError> {
    match value.text() {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(malformed(setting, value, "on or off")),
    }
}

impl RealHost {
    pub(super) fn read_link(&mut self, setting: &Setting, link: &str) -> Result<Value, HostError> {
        let fail = |error: NetlinkError| netlink_error(setting, None, &error);
        let lacking = || HostError::Unsupported {
            setting: setting.to_string(),
            reason: "the driver has no such parameter".to_owned(),
        };
        // Distinguishes a missing link from a parameter that its driver lacks.
        self.index(setting, link)?;
        let netlink = self.netlink(setting)?;
        let text = match setting {
            Setting::LinkBytes { size, .. } => {
                let found = netlink.link(link).map_err(fail)?;
                found.and_then(|found| found.sizes.get(size).map(u32::to_string))
            }
            Setting::Rings { .. } => {
                netlink.rings(link).map_err(fail)?.map(|rings| format!("rx {} tx {}", rings.rx, rings.tx))
            }
            Setting::Channels { .. } => {
                let channels = netlink.channels(link).map_err(fail)?;
                channels.map(|found| format!("rx {} tx {} combined {}", found.rx, found.tx, found.combined))
            }
            Setting::PrivateFlag { flag, .. } => {
                let flags = netlink.private_flags(link).map_err(fail)?;
                flags.get(flag).map(|on| Value::switch(*on).text().to_owned())
            }
            Setting::Feature { feature, .. } => netlink.features(link).map_err(fail)?.get(feature).map(|state| {
                match (state.active, state.wanted) {
                    (true, true) => "on",
                    (true, false) => "on requested off",
                    (false, true) => "off requested on",
                    (false, false) => "off",
                }
                .to_owned()
            }),
            Setting::Pause { field, .. } => {
                let pause = netlink.pause(link).map_err(fail)?;
                pause.map(|pause| Value::switch(pause_value(&pause, *field)).text().to_owned())
            }
            Setting::Coalesce { field, .. } => {
                netlink.coalesce(link).map_err(fail)?.and_then(|found| coalesce_value(&found, *field))
            }
            Setting::RssTable { .. } => netlink
                .rss(link)
                .map_err(fail)?
                .map(|rss| rss.indirection.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")),
            Setting::FlowHash { flow, .. } => {
                Some(kernel_calls::flow_hash(link, flow).map_err(|error| file_error(setting, None, &error))?)
            }
            _ => None,
        };
        text.map(Value::new).ok_or_else(lacking)
    }

    pub(super) fn write_link(&mut self, setting: &Setting, link: &str, value: &Value) -> Result<(), HostError> {
        present(setting, value)?;
        let fail = |error: NetlinkError| netlink_error(setting, Some(value), &error);
        self.index(setting, link)?;
        let netlink = self.netlink(setting)?;
        match setting {
            Setting::LinkBytes { size, .. } => {
                netlink.set_link_bytes(link, *size, number(setting, value)?).map_err(fail)
            }
            Setting::Rings { .. } => {
                let sizes = numbers(setting, value, &["rx", "tx"])?;
                netlink.set_rings(link, sizes[0], sizes[1]).map_err(fail)
            }
            Setting::Channels { .. } => {
                let counts = numbers(setting, value, &["rx", "tx", "combined"])?;
                let limits = netlink.channels(link).map_err(fail)?.unwrap_or_default();
                netlink.set_channels(link, counts[0], counts[1], counts[2], &limits).map_err(fail)
            }
            Setting::PrivateFlag { flag, .. } => {
                netlink.set_private_flag(link, flag, switch(setting, value)?).map_err(fail)
            }
            Setting::Feature { feature, .. } => {
                // The requested state is restored; the active state follows from it.
                let requested = value.text().rsplit(' ').next().unwrap_or_default();
                let on = switch(setting, &Value::new(requested))?;
                netlink.set_feature(link, feature, on).map_err(fail)
            }
            Setting::Pause { field, .. } => netlink.set_pause(link, *field, switch(setting, value)?).map_err(fail),
            Setting::Coalesce { field, .. } => {
                netlink.set_coalesce(link, *field, number(setting, value)?).map_err(fail)
            }
            Setting::FlowHash { flow, .. } => kernel_calls::set_flow_hash(link, flow, value.text())
                .map_err(|error| file_error(setting, Some(value), &error)),
            Setting::RssTable { .. } => self.write_rss(setting, link, value),
            _ => Err(malformed(setting, value, "a parameter of a link")),
        }
    }

    /// A default table is restored by requesting the driver's default, so that the kernel keeps
    /// adapting it to the number of channels. Any other table is written as given.
    fn write_rss(&mut self, setting: &Setting, link: &str, value: &Value) -> Result<(), HostError> {
        let table: Result<Vec<u32>, _> = value.text().split_whitespace().map(str::parse).collect();
        let table = table.map_err(|_| malformed(setting, value, "queue numbers"))?;
        if kernel_calls::set_indirection(link, &[]).is_ok()
            && self.read_link(setting, link).is_ok_and(|found| setting.same(value, &found))
        {
            return Ok(());
        }
        kernel_calls::set_indirection(link, &table).map_err(|error| file_error(setting, Some(value), &error))
    }

    /// Every setting that a link has now.
    pub(super) fn list_link(&mut self, link: &str) -> Result<Vec<Setting>, HostError> {
        let asked = Setting::mtu(link);
        self.index(&asked, link)?;
        let name = || link.to_owned();
        let netlink = self.netlink(&asked)?;
        let fail = |error: NetlinkError| netlink_error(&asked, None, &error);
        let mut settings = Vec::new();
        if let Some(raw) = netlink.link(link).map_err(fail)? {
            let sizes = SIZES.iter().filter(|size| raw.sizes.contains_key(size));
            settings.extend(sizes.map(|size| Setting::LinkBytes { link: name(), size: *size }));
        }
        if netlink.channels(link).map_err(fail)?.is_some() {
            settings.push(Setting::Channels { link: name() });
        }
        if netlink.rings(link).map_err(fail)?.is_some() {
            settings.push(Setting::Rings { link: name() });
        }
        let flags = netlink.private_flags(link).map_err(fail)?;
        settings.extend(flags.into_keys().map(|flag| Setting::PrivateFlag { link: name(), flag }));
        let features = netlink.features(link).map_err(fail)?;
        let changeable = features.into_iter().filter(|(_, state)| state.changeable);
        settings.extend(changeable.map(|(feature, _)| Setting::Feature { link: name(), feature }));
        if netlink.pause(link).map_err(fail)?.is_some() {
            settings.extend(PauseField::ALL.map(|field| Setting::Pause { link: name(), field }));
        }
        if let Some(coalesce) = netlink.coalesce(link).map_err(fail)? {
            let fields = CoalesceField::ALL.into_iter().filter(|field| coalesce_value(&coalesce, *field).is_some());
            settings.extend(fields.map(|field| Setting::Coalesce { link: name(), field }));
        }
        // A device without RSS has a table of one entry, or none.
        if netlink.rss(link).map_err(fail)?.is_some_and(|rss| rss.indirection.len() > 1) {
            settings.push(Setting::RssTable { link: name() });
        }
        // A driver that reports no field has no hash to set.
        let flows =
            FLOWS.iter().filter(|flow| kernel_calls::flow_hash(link, flow).is_ok_and(|fields| !fields.is_empty()));
        settings.extend(flows.map(|flow| Setting::FlowHash { link: name(), flow: (*flow).to_owned() }));
        settings.push(Setting::Qdisc { link: name() });
        settings.extend(self.list_link_files(link));
        if self.files.exists(&format!("/proc/sys/net/ipv6/conf/{link}/mtu")) {
            settings.push(Setting::ipv6_mtu(link));
        }
        Ok(settings)
    }

    fn list_link_files(&mut self, link: &str) -> Vec<Setting> {
        let folder = format!("/sys/class/net/{link}");
        let queues = self.files.names(&format!("{folder}/queues"));
        let of_queues = queues
            .iter()
            .map(|queue| format!("queues/{queue}/{}", if queue.starts_with("rx-") { "rps_cpus" } else { "xps_cpus" }));
        let files = LINK_FILES.iter().map(|file| (*file).to_owned()).chain(of_queues);
        // `xps_cpus` of a link with one queue exists and cannot be read.
        let readable = files.filter(|file| self.files.read(&format!("{folder}/{file}")).is_ok());
        let mut settings: Vec<Setting> = readable.map(|file| Setting::link_file(link, file)).collect();
        let vectors = irq_vectors(&self.files, link).into_values();
        settings.extend(vectors.map(|vector| Setting::IrqAffinity { link: link.to_owned(), vector }));
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composite_values_are_read_or_refused() {
        let rings = Setting::Rings { link: "a".to_owned() };
        assert_eq!(numbers(&rings, &Value::new("rx 1024 tx 512"), &["rx", "tx"]), Ok(vec![1024, 512]));
        for wrong in ["rx 1024", "tx 1 rx 2", "rx x tx 1", "", "rx 1 tx 2 rx 3"] {
            assert!(numbers(&rings, &Value::new(wrong), &["rx", "tx"]).is_err(), "{wrong}");
        }
    }
}
