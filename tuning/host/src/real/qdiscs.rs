//! Queueing disciplines: a link's tree is read and restored as a whole.
//!
//! A default one cannot be created by name: the kernel creates it when the root is removed, of the
//! kind that `net.core.default_qdisc` names at that moment. That sysctl is therefore set to the
//! former kind while the root is removed, and then restored.

use super::{HostError, RealHost, malformed, netlink_error};
use crate::netlink::{QdiscEntry, QdiscTree};
use crate::setting::{Setting, Value};

/// Kinds whose complete configuration is in one message each, so that they can be restored. Others
/// have classes and filters (htb, hfsc, prio) or further state, and are never replaced.
const RESTORABLE: [&str; 10] =
    ["noqueue", "pfifo_fast", "pfifo", "bfifo", "mq", "fq", "fq_codel", "codel", "sfq", "tbf"];
/// The sysctl that selects the kind of a default one.
const DEFAULT_QDISC: &str = "/proc/sys/net/core/default_qdisc";

impl RealHost {
    pub(super) fn read_qdisc(&mut self, setting: &Setting, link: &str) -> Result<Value, HostError> {
        let index = self.index(setting, link)?;
        let tree = self.netlink(setting)?.qdiscs(index).map_err(|error| netlink_error(setting, None, &error))?;
        if let Some(entry) = tree.0.iter().find(|entry| !RESTORABLE.contains(&entry.kind.as_str())) {
            return Err(HostError::Unsupported {
                setting: setting.to_string(),
                reason: format!("{} at {} could not be restored; remove it by hand first", entry.kind, entry.parent),
            });
        }
        Ok(Value::new(serde_json::to_string(&tree).expect("a tree has a JSON form")))
    }

    pub(super) fn write_qdisc(&mut self, setting: &Setting, link: &str, value: &Value) -> Result<(), HostError> {
        let tree: QdiscTree =
            serde_json::from_str(value.text()).map_err(|_| malformed(setting, value, "the JSON of a tree"))?;
        let index = self.index(setting, link)?;
        let fail = |error| netlink_error(setting, Some(value), &error);
        if tree.0.first().is_none_or(QdiscEntry::is_default) {
            return self.write_default_qdisc(setting, index, &tree, value);
        }
        let hang = |host: &mut Self| -> Result<(), HostError> {
            for entry in tree.0.iter().filter(|entry| !entry.is_default()) {
                host.netlink(setting)?.replace_qdisc(index, entry).map_err(fail)?;
            }
            Ok(())
        };
        // A change in place keeps the queued packets. If it would leave other options set, or is
        // refused, the discipline is replaced.
        let changed = hang(self);
        let found = self.read_qdisc(setting, link)?;
        if changed.is_ok() && setting.same(value, &found) {
            return Ok(());
        }
        self.netlink(setting)?.delete_root_qdisc(index).map_err(fail)?;
        hang(self)
    }

    fn write_default_qdisc(
        &mut self,
        setting: &Setting,
        index: u32,
        tree: &QdiscTree,
        value: &Value,
    ) -> Result<(), HostError> {
        // The leaves of a default mq are of the default kind; a link without a queue has none.
        let leaf = tree.0.iter().find(|entry| !matches!(entry.kind.as_str(), "mq" | "noqueue"));
        let now = self.files.text(DEFAULT_QDISC);
        let other = leaf.filter(|leaf| now.as_ref().is_some_and(|now| *now != leaf.kind));
        if let Some(leaf) = other {
            let write = self.files.write(DEFAULT_QDISC, &leaf.kind);
            write.map_err(|error| super::file_error(setting, Some(value), &error))?;
        }
        let removed = self.netlink(setting)?.delete_root_qdisc(index);
        if let (Some(_), Some(now)) = (other, now) {
            let write = self.files.write(DEFAULT_QDISC, &now);
            write.map_err(|error| super::file_error(setting, Some(value), &error))?;
        }
        removed.map_err(|error| netlink_error(setting, Some(value), &error))
    }
}
