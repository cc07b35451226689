//! A host that is a map, with the behavior of real ones: drivers that lose interrupt and coalescing
//! settings when they reset, channels that appear and disappear, values that follow others, writes
//! that are refused or ignored, and crashes.
//!
//! Tests of this and other crates use it, and plans on saved facts, where it represents the host
//! from which the facts came.

use std::collections::{BTreeMap, BTreeSet};

use crate::access::{Host, HostError, Place};
use crate::collect::queue_of_name;
use crate::cpu_set::CpuSet;
use crate::netlink::{CoalesceField, LinkBytes, QdiscEntry, QdiscTree};
use crate::setting::{Setting, Value};

mod from_facts;

/// How a setting misbehaves when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The kernel refuses the value.
    Refused,
    /// The write succeeds and changes nothing.
    Ignored,
    /// The setting is read-only.
    ReadOnly,
}

/// The panic payload of a simulated crash, so that tests can distinguish it from other panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash;

/// A host that is a map.
#[derive(Clone, Debug)]
pub struct FakeHost {
    settings: BTreeMap<Setting, Value>,
    faults: BTreeMap<Setting, Fault>,
    place: Place,
    operations: usize,
    crash_at: Option<usize>,
    handles: u32,
    now_boot_ms: u64,
}

impl Default for FakeHost {
    fn default() -> Self {
        Self {
            settings: BTreeMap::new(),
            faults: BTreeMap::new(),
            place: Place { boot_id: "first".to_owned(), network_namespace: "initial".to_owned() },
            operations: 0,
            crash_at: None,
            handles: 0x8000,
            now_boot_ms: 1_000_000,
        }
    }
}

impl FakeHost {
    /// Sets a value without side effects or faults.
    pub fn put(&mut self, setting: Setting, value: impl Into<String>) {
        self.settings.insert(setting, Value::new(value));
    }

    /// Makes writes of a setting fail in this way.
    pub fn fail(&mut self, setting: Setting, fault: Fault) {
        self.faults.insert(setting, fault);
    }

    /// Removes all faults.
    pub fn heal(&mut self) {
        self.faults.clear();
        self.crash_at = None;
    }

    /// Crashes (panics with [`Crash`]) at the n-th read or write from now on, before it has an
    /// effect.
    pub fn crash_at(&mut self, operation: usize) {
        self.operations = 0;
        self.crash_at = Some(operation);
    }

    /// Reads and writes since the last [`FakeHost::crash_at`].
    #[must_use]
    pub fn operations(&self) -> usize {
        self.operations
    }

    /// Removes a link with all its settings.
    pub fn unplug(&mut self, link: &str) {
        self.settings.retain(|setting, _| setting.link() != Some(link));
    }

    /// Restarts the host: a new boot id.
    pub fn restart(&mut self) {
        self.place.boot_id.push_str(", next");
    }

    /// Advances the clock.
    pub fn wait(&mut self, milliseconds: u64) {
        self.now_boot_ms += milliseconds;
    }

    /// Moves to another network namespace.
    pub fn enter_namespace(&mut self, name: &str) {
        name.clone_into(&mut self.place.network_namespace);
    }

    /// All settings and their values.
    #[must_use]
    pub fn settings(&self) -> &BTreeMap<Setting, Value> {
        &self.settings
    }

    fn operation(&mut self) {
        if self.crash_at == Some(self.operations) {
            std::panic::panic_any(Crash);
        }
        self.operations += 1;
    }

    fn missing(setting: &Setting) -> HostError {
        HostError::Missing { setting: setting.to_string(), reason: "the fake host has none".to_owned() }
    }

    fn of_link(&self, link: &str) -> Vec<Setting> {
        self.settings.keys().filter(|setting| setting.link() == Some(link)).cloned().collect()
    }

    /// What a driver does to other settings when it restarts its queues.
    fn reset_queues(&mut self, link: &str) {
        for setting in self.of_link(link) {
            let fresh = match &setting {
                Setting::IrqAffinity { .. } => "0-1023",
                Setting::Coalesce { field: CoalesceField::RxUsecs | CoalesceField::TxUsecs, .. } => "50",
                Setting::LinkFile { file, .. } if file.ends_with("_cpus") => "00000000",
                _ => continue,
            };
            self.put(setting, fresh);
        }
    }

    fn channels_changed(&mut self, link: &str, before: &str, after: &str) {
        let count = |text: &str| text.rsplit(' ').next().and_then(|word| word.parse::<u32>().ok()).unwrap_or(1);
        let (before, after) = (count(before), count(after));
        let vectors: Vec<(Setting, String)> = self
            .of_link(link)
            .into_iter()
            .filter_map(|setting| match &setting {
                Setting::IrqAffinity { vector, .. } => {
                    let vector = vector.clone();
                    Some((setting, vector))
                }
                _ => None,
            })
            .collect();
        // The first vector of each series: `comp0@pci` where `comp1@pci` exists, but not a link's
        // name that ends in `0`.
        let name_of = |first: &str, queue: u32| {
            let (name, rest) = first.split_once('@').map_or((first, None), |(name, rest)| (name, Some(rest)));
            let name = format!("{}{queue}", name.strip_suffix('0')?);
            Some(rest.map_or(name.clone(), |rest| format!("{name}@{rest}")))
        };
        let exists = |name: &str| vectors.iter().any(|(_, vector)| vector == name);
        let firsts: Vec<&String> = vectors
            .iter()
            .map(|(_, vector)| vector)
            .filter(|vector| queue_of_name(vector) == Some(0) && name_of(vector, 1).is_some_and(|next| exists(&next)))
            .collect();
        for (setting, _) in
            vectors.iter().filter(|(_, vector)| queue_of_name(vector).is_some_and(|queue| queue >= after))
        {
            self.settings.remove(setting);
        }
        for vector in firsts.iter().flat_map(|first| (before..after).filter_map(|queue| name_of(first, queue))) {
            self.put(Setting::IrqAffinity { link: link.to_owned(), vector }, "0-1023");
        }
        let rss = Setting::RssTable { link: link.to_owned() };
        if let Some(table) = self.settings.get(&rss) {
            let buckets = u32::try_from(table.text().split_whitespace().count()).unwrap_or(0);
            let table = (0..buckets).map(|bucket| (bucket % after.max(1)).to_string()).collect::<Vec<_>>().join(" ");
            self.put(rss, table);
        }
        self.reset_queues(link);
    }

    fn feature_changed(&mut self, link: &str, feature: &str, on: bool) {
        // Segmentation needs scatter-gather; requested offloads return with it.
        if feature != "tx-scatter-gather" {
            return;
        }
        for name in ["tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-generic-segmentation"] {
            let setting = Setting::Feature { link: link.to_owned(), feature: name.to_owned() };
            let text = self.settings.get(&setting).map(|value| value.text().to_owned());
            match (text.as_deref(), on) {
                (Some("on"), false) => self.put(setting, "off requested on"),
                (Some("off requested on"), true) => self.put(setting, "on"),
                _ => {}
            }
        }
    }

    /// The tree that a link gets: a default root brings its leaves, and other entries get a handle
    /// if they have none.
    fn hang(&mut self, value: &Value) -> Value {
        let Ok(mut tree) = serde_json::from_str::<QdiscTree>(value.text()) else { return value.clone() };
        for entry in &mut tree.0 {
            if entry.kind == "fq" && entry.options.is_empty() {
                entry.options = fq_options(None);
            }
            if entry.handle.is_empty() {
                self.handles += 1;
                entry.handle = format!("{:x}:", self.handles);
            }
        }
        Value::new(to_json(&tree))
    }

    fn side_effects(&mut self, setting: &Setting, before: &Value, after: &Value) {
        match setting {
            Setting::Channels { link } => self.channels_changed(link, before.text(), after.text()),
            Setting::Rings { link } | Setting::PrivateFlag { link, .. } => self.reset_queues(link),
            Setting::LinkBytes { link, size: LinkBytes::Mtu } => {
                self.put(Setting::ipv6_mtu(link), after.text());
                self.reset_queues(link);
            }
            Setting::Feature { link, feature } => self.feature_changed(link, feature, after.text() == "on"),
            Setting::Coalesce { link, field: CoalesceField::AdaptiveRx } if after.text() == "1" => {
                let delay = Setting::Coalesce { link: link.clone(), field: CoalesceField::RxUsecs };
                if self.settings.contains_key(&delay) {
                    self.put(delay, "64");
                }
            }
            Setting::KernelFile { path } => {
                let preference = path
                    .strip_suffix("/scaling_governor")
                    .map(|policy| Setting::kernel_file(format!("{policy}/energy_performance_preference")));
                if let Some(preference) = preference.filter(|setting| self.settings.contains_key(setting)) {
                    // intel_pstate forces the preference with the governor, and does not restore
                    // it.
                    self.put(preference, "performance");
                }
            }
            _ => {}
        }
    }

    /// Why a real driver would refuse the value.
    fn refuses(&self, setting: &Setting, value: &Value) -> Option<&'static str> {
        if let Setting::KernelFile { path } = setting
            && let Some(policy) = path.strip_suffix("/energy_performance_preference")
        {
            let governor = self.settings.get(&Setting::kernel_file(format!("{policy}/scaling_governor")));
            if governor.is_some_and(|governor| governor.text() == "performance") && value.text() != "performance" {
                return Some("Device or resource busy");
            }
        }
        if let Setting::IrqAffinity { .. } = setting
            && value.text().parse::<CpuSet>().is_ok_and(|cpus| cpus.is_empty())
        {
            return Some("Invalid argument");
        }
        None
    }
}

/// fq always reports its rate; the largest number means no limit.
fn fq_options(max_rate_bits_per_second: Option<u64>) -> String {
    QdiscEntry::fq("", Some(max_rate_bits_per_second.unwrap_or(u64::from(u32::MAX) * 8))).options
}

fn to_json(tree: &QdiscTree) -> String {
    serde_json::to_string(tree).expect("a tree has a JSON form")
}

impl Host for FakeHost {
    fn read(&mut self, setting: &Setting) -> Result<Value, HostError> {
        self.operation();
        match self.settings.get(setting) {
            Some(value) => Ok(value.clone()),
            None if matches!(setting, Setting::OwnedFile { .. }) => Ok(Value(None)),
            None => Err(Self::missing(setting)),
        }
    }

    fn write(&mut self, setting: &Setting, value: &Value) -> Result<(), HostError> {
        self.operation();
        let refused = |reason: &str| HostError::Refused {
            setting: setting.to_string(),
            value: value.to_string(),
            reason: reason.to_owned(),
        };
        match self.faults.get(setting) {
            Some(Fault::Refused) => return Err(refused("Invalid argument")),
            Some(Fault::Ignored) => return Ok(()),
            Some(Fault::ReadOnly) => return self.may_write(setting),
            None => {}
        }
        if let Setting::OwnedFile { .. } = setting {
            match &value.0 {
                Some(_) => self.settings.insert(setting.clone(), value.clone()),
                None => self.settings.remove(setting),
            };
            return Ok(());
        }
        let before = self.settings.get(setting).cloned().ok_or_else(|| Self::missing(setting))?;
        if let Some(reason) = self.refuses(setting, value) {
            return Err(refused(reason));
        }
        let after = match setting {
            Setting::Qdisc { .. } => self.hang(value),
            // The active state follows from the requested one.
            Setting::Feature { .. } => Value::new(value.text().rsplit(' ').next().unwrap_or_default()),
            // The kernel writes masks in words of eight digits.
            Setting::LinkFile { file, .. } if file.ends_with("_cpus") => {
                let cpus = CpuSet::from_mask(value.text()).map_err(|_| refused("Invalid argument"))?;
                Value::new(cpus.to_mask())
            }
            _ => value.clone(),
        };
        self.settings.insert(setting.clone(), after.clone());
        self.side_effects(setting, &before, &after);
        Ok(())
    }

    fn may_write(&mut self, setting: &Setting) -> Result<(), HostError> {
        if self.faults.get(setting) == Some(&Fault::ReadOnly) {
            return Err(HostError::NotPermitted {
                setting: setting.to_string(),
                reason: "it is mounted read-only, as in containers".to_owned(),
            });
        }
        Ok(())
    }

    fn settings_of_link(&mut self, link: &str) -> Result<Vec<Setting>, HostError> {
        let settings: BTreeSet<Setting> = self.of_link(link).into_iter().collect();
        if settings.is_empty() {
            return Err(Self::missing(&Setting::mtu(link)));
        }
        Ok(settings.into_iter().collect())
    }

    fn place(&self) -> Place {
        self.place.clone()
    }

    fn now_boot_ms(&self) -> u64 {
        self.now_boot_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> FakeHost {
        let mut host = FakeHost::default();
        let link = || "a".to_owned();
        host.put(Setting::Channels { link: link() }, "rx 0 tx 0 combined 2");
        for queue in 0..2 {
            host.put(Setting::IrqAffinity { link: link(), vector: format!("comp{queue}@pci:1") }, queue.to_string());
        }
        host.put(Setting::RssTable { link: link() }, "0 1 0 1");
        host
    }

    #[test]
    fn channels_bring_and_take_interrupts() {
        let mut host = host();
        let channels = Setting::Channels { link: "a".to_owned() };
        host.write(&channels, &Value::new("rx 0 tx 0 combined 4")).unwrap();
        let third = Setting::IrqAffinity { link: "a".to_owned(), vector: "comp3@pci:1".to_owned() };
        assert_eq!(host.read(&third).unwrap().text(), "0-1023");
        assert_eq!(host.read(&Setting::RssTable { link: "a".to_owned() }).unwrap().text(), "0 1 2 3");
        host.write(&channels, &Value::new("rx 0 tx 0 combined 1")).unwrap();
        assert!(host.read(&third).unwrap_err().is_missing());
    }

    #[test]
    fn crashes_come_when_they_should() {
        let mut host = host();
        host.crash_at(1);
        let setting = Setting::RssTable { link: "a".to_owned() };
        host.read(&setting).unwrap();
        let crash = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| host.read(&setting)));
        assert_eq!(crash.unwrap_err().downcast_ref::<Crash>(), Some(&Crash));
    }
}
