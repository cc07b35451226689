//! The tables `[path]`, `[responder]`, `[archive]` and `[psconfig]` of the configuration file. What
//! the last three configure is off unless the table is present.

use std::net::SocketAddr;
use std::path::PathBuf;

use culvert_model::units::parse_rate;
use culvert_perfsonar::responder::ResponderConfig;
use culvert_perfsonar::sources::{Network, Permitted};
use culvert_system::regular_file::{self, Links};
use serde::Deserialize;

/// Default of `[path] rate`, in bits per second.
pub const RATE_DEFAULT: u64 = 10_000_000_000;
/// Default of `[path] seconds`.
pub const SECONDS_DEFAULT: u32 = 600;
/// Default of `[archive] spool_documents`.
pub const SPOOL_DOCUMENTS_DEFAULT: usize = 10_000;
/// Default of `[archive] spool_bytes`.
pub const SPOOL_BYTES_DEFAULT: u64 = 256 << 20;
/// Default of `[path] fresh_hours`.
pub const FRESH_HOURS_DEFAULT: u32 = 24;

/// All tables about paths.
#[derive(Clone, Debug, Default)]
pub struct PathSettings {
    /// Path checks and records.
    pub path: PathTable,
    /// The STAMP and TWAMP responder; none if it is off.
    pub responder: Option<ResponderTable>,
    /// The archive to which results are published; none if nothing is published.
    pub archive: Option<ArchiveTable>,
    /// The pSConfig template; none if none is served.
    pub psconfig: Option<PsconfigTable>,
}

impl PathSettings {
    /// Every setting as name and text, and whether the file sets it, for `culvert config show`.
    /// Files with secrets are named, never read.
    #[must_use]
    pub fn table(&self) -> Vec<(String, String, bool)> {
        let mut rows = Rows { table: "path", rows: Vec::new() };
        let path = &self.path;
        rows.with_default("answer", path.answer.as_ref(), &true);
        rows.list("refuse", &path.refuse, "nobody");
        rows.add("rate", culvert_model::units::show_rate(path.rate_bits_per_second_max()), path.rate.is_some());
        rows.with_default("seconds", path.seconds.as_ref(), &SECONDS_DEFAULT);
        rows.or("port", path.port.as_ref(), "as listen");
        rows.with_default("fresh_hours", path.fresh_hours.as_ref(), &FRESH_HOURS_DEFAULT);
        rows.table = "responder";
        match &self.responder {
            None => rows.off(),
            Some(responder) => responder.show(&mut rows),
        }
        rows.table = "archive";
        match &self.archive {
            None => rows.off(),
            Some(archive) => archive.show(&mut rows),
        }
        rows.table = "psconfig";
        match &self.psconfig {
            None => rows.off(),
            Some(psconfig) => {
                rows.add("listen", psconfig.listen.to_string(), true);
                rows.add("address", psconfig.address.clone(), true);
                rows.list("hosts", &psconfig.hosts, "none");
            }
        }
        rows.rows
    }
}

/// Collects rows for `culvert config show`.
struct Rows {
    table: &'static str,
    rows: Vec<(String, String, bool)>,
}

impl Rows {
    fn add(&mut self, name: &str, value: String, is_set: bool) {
        self.rows.push((format!("{}.{name}", self.table), value, is_set));
    }

    /// The table is missing, so what it configures is off.
    fn off(&mut self) {
        self.rows.push((self.table.to_owned(), "off".to_owned(), false));
    }

    fn or<T: ToString>(&mut self, name: &str, value: Option<&T>, without: &str) {
        self.add(name, value.map_or_else(|| without.to_owned(), ToString::to_string), value.is_some());
    }

    fn with_default<T: ToString>(&mut self, name: &str, value: Option<&T>, default: &T) {
        self.add(name, value.unwrap_or(default).to_string(), value.is_some());
    }

    fn list<T: ToString>(&mut self, name: &str, values: &[T], without: &str) {
        let shown = values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        self.add(name, if values.is_empty() { without.to_owned() } else { shown }, !values.is_empty());
    }

    fn file(&mut self, name: &str, path: Option<&PathBuf>) {
        self.add(name, path.map_or_else(|| "none".to_owned(), |path| path.display().to_string()), path.is_some());
    }
}

/// `[path]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathTable {
    /// Whether partners' checks are answered; yes by default.
    pub answer: Option<bool>,
    /// Partners whose checks are not answered.
    #[serde(default)]
    pub refuse: Vec<String>,
    /// The highest rate of probes, in both directions.
    pub rate: Option<Rate>,
    /// The longest check that is answered.
    pub seconds: Option<u32>,
    /// The UDP port of probes; by default the number of the control connection's TCP port.
    pub port: Option<u16>,
    /// How long transfers rely on a record.
    pub fresh_hours: Option<u32>,
}

/// A rate in bits per second, written like `10G`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate(pub u64);

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse_rate(&text).map(Self)
    }
}

impl PathTable {
    /// The highest rate of probes, in bits per second.
    #[must_use]
    pub fn rate_bits_per_second_max(&self) -> u64 {
        self.rate.map_or(RATE_DEFAULT, |rate| rate.0)
    }

    /// The longest check, in seconds.
    #[must_use]
    pub fn seconds_max(&self) -> u32 {
        self.seconds.unwrap_or(SECONDS_DEFAULT)
    }

    /// How long transfers rely on a record, in milliseconds.
    #[must_use]
    pub fn fresh_ms(&self) -> u64 {
        u64::from(self.fresh_hours.unwrap_or(FRESH_HOURS_DEFAULT)) * 3_600_000
    }
}

/// `[responder]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResponderTable {
    /// Address and UDP port of STAMP and TWAMP-Light.
    pub stamp: Option<SocketAddr>,
    /// Address and TCP port of TWAMP-Control.
    pub twamp: Option<SocketAddr>,
    /// Networks that may measure in addition to partners and the hosts of `[psconfig]`.
    #[serde(default)]
    pub allow: Vec<Network>,
    /// The most sessions at once.
    pub sessions: Option<usize>,
    /// The most packets answered to one host in a second.
    pub packets_per_second: Option<u32>,
    /// First and last UDP port of TWAMP-Test.
    pub test_ports: Option<(u16, u16)>,
    /// A file with the secret of authenticated STAMP.
    pub stamp_key_file: Option<PathBuf>,
}

impl ResponderTable {
    fn show(&self, rows: &mut Rows) {
        let defaults = ResponderConfig::default();
        rows.or("stamp", self.stamp.as_ref(), "off");
        rows.or("twamp", self.twamp.as_ref(), "off");
        rows.list("allow", &self.allow, "partners only");
        rows.with_default("sessions", self.sessions.as_ref(), &defaults.sessions);
        rows.with_default("packets_per_second", self.packets_per_second.as_ref(), &defaults.packets_per_second);
        let ports = self.test_ports.or(defaults.test_ports);
        let ports = ports.map_or_else(|| "any".to_owned(), |(first, last)| format!("{first}-{last}"));
        rows.add("test_ports", ports, self.test_ports.is_some());
        rows.file("stamp_key_file", self.stamp_key_file.as_ref());
    }

    /// The responder's configuration. `probes` is the UDP port where this node answers path checks.
    ///
    /// # Errors
    /// In words: a key file that cannot be read.
    pub fn config(&self, probes: u16) -> Result<ResponderConfig, String> {
        let defaults = ResponderConfig::default();
        let stamp_key = match &self.stamp_key_file {
            Some(path) => Some(read_secret(path)?),
            None => None,
        };
        Ok(ResponderConfig {
            permitted: Permitted::networks(self.allow.clone()),
            reflector_ports: [self.stamp, self.twamp]
                .into_iter()
                .flatten()
                .map(|at| at.port())
                .chain([probes])
                .collect(),
            sessions: self.sessions.unwrap_or(defaults.sessions),
            packets_per_second: self.packets_per_second.unwrap_or(defaults.packets_per_second),
            test_ports: self.test_ports.or(defaults.test_ports),
            stamp_key,
        })
    }
}

/// The longest secret.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Reads a secret from a file, without trailing white space.
///
/// # Errors
/// In words.
pub fn read_secret(path: &std::path::Path) -> Result<Vec<u8>, String> {
    let secret = regular_file::read(path, SECRET_BYTES_MAX, Links::Followed)
        .map_err(|error| format!("the secret in {} cannot be read: {error}", path.display()))?;
    let end = secret.iter().rposition(|byte| !byte.is_ascii_whitespace()).map_or(0, |last| last + 1);
    if end == 0 { Err(format!("the secret in {} is empty", path.display())) } else { Ok(secret[..end].to_vec()) }
}

/// `[archive]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveTable {
    /// The URL that documents are put to: `https://HOST/logstash`.
    pub url: String,
    /// The user of basic authentication.
    pub user: Option<String>,
    /// A file with that user's password.
    pub password_file: Option<PathBuf>,
    /// `ca`, `pin` or `insecure`.
    pub trust: Option<String>,
    /// A file of CA certificates in PEM; by default the host's own.
    pub ca_file: Option<PathBuf>,
    /// This node's name there (`x-ps-observer`); by default its own name.
    pub observer: Option<String>,
    /// The most documents that wait.
    pub spool_documents: Option<usize>,
    /// The most bytes of documents that wait.
    pub spool_bytes: Option<u64>,
}

impl ArchiveTable {
    /// The most documents that wait.
    #[must_use]
    pub fn spool_documents_max(&self) -> usize {
        self.spool_documents.unwrap_or(SPOOL_DOCUMENTS_DEFAULT)
    }

    /// The most bytes of documents that wait.
    #[must_use]
    pub fn spool_bytes_max(&self) -> u64 {
        self.spool_bytes.unwrap_or(SPOOL_BYTES_DEFAULT)
    }

    fn show(&self, rows: &mut Rows) {
        rows.add("url", self.url.clone(), true);
        rows.or("user", self.user.as_ref(), "none");
        rows.file("password_file", self.password_file.as_ref());
        rows.or("trust", self.trust.as_ref(), "ca");
        rows.file("ca_file", self.ca_file.as_ref());
        rows.or("observer", self.observer.as_ref(), "as name");
        rows.add("spool_documents", self.spool_documents_max().to_string(), self.spool_documents.is_some());
        rows.add("spool_bytes", self.spool_bytes_max().to_string(), self.spool_bytes.is_some());
    }
}

/// `[psconfig]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PsconfigTable {
    /// Address and TCP port where the template is served.
    pub listen: SocketAddr,
    /// The address under which other hosts reach this one.
    pub address: String,
    /// perfSONAR hosts that are to measure to this one.
    #[serde(default)]
    pub hosts: Vec<String>,
}
