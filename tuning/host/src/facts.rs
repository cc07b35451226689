//! Everything known about a host, in one document: the only input of the rules.
//!
//! [`crate::collect`] fills it from netlink, sysfs and procfs. It is saved and loaded as JSON, so
//! rules also run on the facts of another host. `null` means that a fact could not be read, never
//! that all is well; [`Facts::unreadable`] has the reason. Sizes are in bytes, rates in bits per
//! second, times in the unit that the name ends with.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use culvert_system::regular_file::{self, ReadError};
use serde::{Deserialize, Serialize};

pub mod host;
pub mod link;
pub mod storage;

pub use host::{
    Clock, Cpu, Datapath, FrequencyPolicy, HugepagePool, IdleState, Iommu, Limit, Limits, Memory, NumaNode, Service,
    Softnet, System, Virtualization,
};
pub use link::{
    Channels, Coalesce, Counters, Feature, Irq, Link, Napi, Pause, PcieLink, Qdisc, Queue, Rings, Rss, XdpFeatures,
};
pub use storage::{Block, Mount};

/// The version of the document that this program writes and reads.
pub const FACTS_VERSION: u32 = 1;

/// The largest document that is read: a host with a few thousand queues stays far below.
const FACTS_BYTES_MAX: u64 = 64 << 20;

/// Everything known about one host at one time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Facts {
    /// The version of this document.
    pub culvert_facts: u32,
    /// Where the facts come from.
    pub origin: Origin,
    /// Kernel, virtualization, privileges.
    pub system: System,
    /// Processors.
    pub cpu: Cpu,
    /// Memory nodes.
    pub numa: Vec<NumaNode>,
    /// Memory and hugepages.
    pub memory: Memory,
    /// The I/O memory management unit.
    pub iommu: Iommu,
    /// Sysctls by dotted name, their words separated by single blanks. A key that the kernel lacks
    /// is absent.
    pub sysctls: BTreeMap<String, String>,
    /// The assignments in the files of sysctl.d, in the order in which they are read at boot: the
    /// last one for a key wins.
    pub sysctl_files: Vec<SysctlFileEntry>,
    /// Network interfaces.
    pub links: Vec<Link>,
    /// Block devices.
    pub blocks: Vec<Block>,
    /// File systems that hold data.
    pub mounts: Vec<Mount>,
    /// Resource limits of the process that collected.
    pub limits: Limits,
    /// Services that change settings or keep the time, by process name.
    pub services: BTreeMap<String, Service>,
    /// The system clock.
    pub clock: Clock,
    /// Sums of `/proc/net/softnet_stat`.
    pub softnet: Softnet,
    /// Kernel features that the data plane uses.
    pub datapath: Datapath,
    /// Paths to partners that the site file names.
    pub paths: Vec<PathFact>,
    /// What could not be read, and why.
    pub unreadable: Vec<Unreadable>,
}

/// Where a facts document comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Origin {
    /// When the facts were collected, in seconds since 1970.
    pub collected_unix_s: u64,
    /// The program that collected them.
    pub collected_by: String,
    /// Public documents that the facts were constructed from, for a host from which nothing was
    /// collected.
    pub constructed_from: Vec<String>,
    /// Anything a reader should know.
    pub note: String,
}

/// One assignment in a file of sysctl.d.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SysctlFileEntry {
    /// The file.
    pub file: String,
    /// The dotted name.
    pub key: String,
    /// The value, its words separated by single blanks.
    pub value: String,
}

/// The path to one partner, as the kernel sees it or as a probe measured it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PathFact {
    /// The partner's name in the site file.
    pub partner: String,
    /// The destination address of the packets.
    pub address: String,
    /// The interface that they leave by.
    pub link: Option<String>,
    /// The MTU that the kernel uses for this destination (from the route, or learned from routers),
    /// in bytes.
    pub kernel_mtu_bytes: Option<u32>,
    /// The largest packet that was answered, in bytes.
    pub proven_mtu_bytes: Option<u32>,
    /// Round trip time in milliseconds.
    pub rtt_ms: Option<f64>,
    /// How the previous two were measured.
    pub method: Option<String>,
}

/// A fact that could not be read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Unreadable {
    /// The file, message or link.
    pub what: String,
    /// The reason.
    pub why: String,
}

/// Why a facts document is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// The file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// The reason.
        source: std::io::Error,
    },
    /// The file is larger than any facts document.
    #[error("{path}: it is larger than a facts document can be ({FACTS_BYTES_MAX} bytes): is it the right file?")]
    TooLarge {
        /// The file.
        path: String,
    },
    /// The file is not a facts document.
    #[error("{path}: it is not a facts document: {reason}; create one with `culvert tune facts --json`")]
    Shape {
        /// The file.
        path: String,
        /// What is wrong, with line and column.
        reason: String,
    },
    /// The document has a version that this program does not know.
    #[error("{path}: it is a facts document of version {found}, but this program reads version {FACTS_VERSION}")]
    Version {
        /// The file.
        path: String,
        /// Its version.
        found: u64,
    },
}

impl Facts {
    /// Reads a saved document.
    ///
    /// # Errors
    /// [`FactsError`], with the file and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self, FactsError> {
        let name = path.display().to_string();
        let file = |source| FactsError::File { path: name.clone(), source };
        let text = regular_file::read_named(path, FACTS_BYTES_MAX, |text| {
            // A closed standard error must not fail the load.
            let _ = writeln!(std::io::stderr(), "culvert: {text}");
        });
        let text = text.map_err(|error| match error {
            ReadError::TooLarge { .. } => FactsError::TooLarge { path: name.clone() },
            error => file(error.into()),
        })?;
        Self::from_json(&text, &name)
    }

    /// Reads a document from its text; `name` is for the error.
    ///
    /// # Errors
    /// [`FactsError::Shape`] or [`FactsError::Version`].
    pub fn from_json(text: &str, name: &str) -> Result<Self, FactsError> {
        let shape = |reason: String| FactsError::Shape { path: name.to_owned(), reason };
        let value: serde_json::Value = serde_json::from_str(text).map_err(|error| shape(error.to_string()))?;
        let found = value
            .get("culvert_facts")
            .and_then(serde_json::Value::as_u64)
            .ok_or_else(|| shape("the field culvert_facts with the version is missing".to_owned()))?;
        if found != u64::from(FACTS_VERSION) {
            return Err(FactsError::Version { path: name.to_owned(), found });
        }
        // Parsed from the text again, because this error has the line and column.
        serde_json::from_str(text).map_err(|error| shape(error.to_string()))
    }

    /// The document as indented JSON.
    ///
    /// # Panics
    /// Never: every field has a JSON form.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("every field has a JSON form")
    }

    /// The value of a sysctl.
    #[must_use]
    pub fn sysctl(&self, key: &str) -> Option<&str> {
        self.sysctls.get(key).map(String::as_str)
    }

    /// The value of a sysctl that is one number.
    #[must_use]
    pub fn sysctl_number(&self, key: &str) -> Option<i64> {
        self.sysctl(key)?.parse().ok()
    }

    /// The interface of this name.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// Whether a service with this process name runs.
    #[must_use]
    pub fn service_runs(&self, process: &str) -> bool {
        self.services.get(process).is_some_and(|service| service.running)
    }

    /// The CPUs of a memory node.
    #[must_use]
    pub fn node(&self, id: u32) -> Option<&NumaNode> {
        self.numa.iter().find(|node| node.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_survives_saving() {
        let facts = Facts { culvert_facts: FACTS_VERSION, ..Facts::default() };
        assert_eq!(Facts::from_json(&facts.to_json(), "here").unwrap(), facts);
    }

    #[test]
    fn what_is_no_facts_document_is_named() {
        let error = |text: &str| Facts::from_json(text, "x.json").unwrap_err().to_string();
        assert!(error("{").starts_with("x.json: it is not a facts document: EOF"), "{}", error("{"));
        assert!(error("{}").contains("culvert_facts"));
        assert!(error("{\"culvert_facts\": 9}").contains("version 9"));
        let unknown = error("{\"culvert_facts\": 1, \"cpus\": 3}");
        assert!(unknown.contains("unknown field `cpus`") && unknown.contains("line 1"), "{unknown}");
    }
}
