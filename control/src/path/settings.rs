//! The tables `[path]`, `[responder]`, `[archive]` and `[psconfig]` of the configuration file. All but `[path]` are off unless they are
//! there.

use std::net::SocketAddr;
use std::path::PathBuf;

use culvert_perfsonar::responder::ResponderConfig;
use culvert_perfsonar::sources::Network;
use serde::Deserialize;

use crate::units::parse_rate;

/// The highest rate of a check's probes unless another is set.
pub const RATE_DEFAULT: u64 = 10_000_000_000;
/// The longest check that is answered unless another is set.
pub const SECONDS_DEFAULT: u32 = 600;
/// How long a record is believed unless another time is set.
pub const FRESH_HOURS_DEFAULT: u32 = 24;

/// Everything about paths.
#[derive(Clone, Debug, Default)]
pub struct PathSettings {
    /// Path checks and records.
    pub path: PathTable,
    /// Answers to STAMP and TWAMP; none for none.
    pub responder: Option<ResponderTable>,
    /// Where results are published; none for nowhere.
    pub archive: Option<ArchiveTable>,
    /// The pSConfig template; none for none.
    pub psconfig: Option<PsconfigTable>,
}

/// `[path]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathTable {
    /// Whether partners' checks are answered; yes unless set.
    pub answer: Option<bool>,
    /// Partners whose checks are not answered.
    #[serde(default)]
    pub refuse: Vec<String>,
    /// The highest rate of probes, both ways.
    pub rate: Option<Rate>,
    /// The longest check that is answered.
    pub seconds: Option<u32>,
    /// The UDP port of probes; the control connection's number unless set.
    pub port: Option<u16>,
    /// How long a record is believed.
    pub fresh_hours: Option<u32>,
}

/// A rate as people write it.
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
    /// The highest rate of probes.
    #[must_use]
    pub fn rate_bits_per_second_max(&self) -> u64 {
        self.rate.map_or(RATE_DEFAULT, |rate| rate.0)
    }

    /// The longest check.
    #[must_use]
    pub fn seconds_max(&self) -> u32 {
        self.seconds.unwrap_or(SECONDS_DEFAULT)
    }

    /// How long a record is believed, in milliseconds.
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
    /// Who may measure; everybody unless set.
    #[serde(default)]
    pub allow: Vec<Network>,
    /// Sessions at once.
    pub sessions: Option<usize>,
    /// Packets of one source in a second.
    pub packets_per_second: Option<u32>,
    /// First and last UDP port of TWAMP-Test.
    pub test_ports: Option<(u16, u16)>,
    /// A file with the secret of authenticated STAMP.
    pub stamp_key_file: Option<PathBuf>,
}

impl ResponderTable {
    /// As the responder takes it.
    ///
    /// # Errors
    /// In words: a key file that cannot be read.
    pub fn config(&self) -> Result<ResponderConfig, String> {
        let defaults = ResponderConfig::default();
        let stamp_key = match &self.stamp_key_file {
            Some(path) => Some(read_secret(path)?),
            None => None,
        };
        Ok(ResponderConfig {
            allow: self.allow.clone(),
            sessions: self.sessions.unwrap_or(defaults.sessions),
            packets_per_second: self.packets_per_second.unwrap_or(defaults.packets_per_second),
            test_ports: self.test_ports.or(defaults.test_ports),
            stamp_key,
        })
    }
}

/// A secret from a file, without the line's end.
///
/// # Errors
/// In words.
pub fn read_secret(path: &std::path::Path) -> Result<Vec<u8>, String> {
    let secret =
        std::fs::read(path).map_err(|error| format!("the secret in {} cannot be read: {error}", path.display()))?;
    let end = secret.iter().rposition(|byte| !byte.is_ascii_whitespace()).map_or(0, |last| last + 1);
    if end == 0 { Err(format!("the secret in {} is empty", path.display())) } else { Ok(secret[..end].to_vec()) }
}

/// `[archive]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveTable {
    /// Where documents are put: `https://HOST/logstash`.
    pub url: String,
    /// The user of basic authentication.
    pub user: Option<String>,
    /// A file with that user's password.
    pub password_file: Option<PathBuf>,
    /// `ca`, `pin` or `insecure`.
    pub trust: Option<String>,
    /// A file of CA certificates in PEM; the host's own unless set.
    pub ca_file: Option<PathBuf>,
    /// What this node calls itself there (`x-ps-observer`); its name unless set.
    pub observer: Option<String>,
    /// Documents that may wait.
    pub spool_documents: Option<usize>,
    /// Bytes that may wait.
    pub spool_bytes: Option<u64>,
}

/// `[psconfig]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PsconfigTable {
    /// Address and TCP port where the template is served.
    pub listen: SocketAddr,
    /// How others reach this host.
    pub address: String,
    /// perfSONAR hosts that shall measure to this one.
    #[serde(default)]
    pub hosts: Vec<String>,
}
