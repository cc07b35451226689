//! The tables `[path]`, `[responder]`, `[archive]` and `[psconfig]` of the configuration file: one
//! row for each setting. All tables but `[path]` are off unless they are there.
// Rows describe settings as users read them: `[psconfig]` is a table of the file, not an item.
#![allow(rustdoc::broken_intra_doc_links)]

mod section;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use culvert_model::permitted;
use culvert_model::units::{parse_rate, show_rate};
use culvert_perfsonar::http::{Trust, check_url};
use culvert_perfsonar::responder::ResponderConfig;
use culvert_perfsonar::sources::{Network, Permitted};
use culvert_system::regular_file::{self, Links};
use serde::Deserialize;

use crate::settings::section::{Shown, Wrong, any, file, if_set, list, or, required, section};

/// The highest rate of a check's probes unless another is set.
pub const RATE_DEFAULT: u64 = 10_000_000_000;
/// Default of `[path] seconds`.
pub const SECONDS_DEFAULT: u32 = 600;
/// The most documents that wait for the archive, unless another number is set.
pub const SPOOL_DOCUMENTS_DEFAULT: usize = 10_000;
/// The most bytes that wait for the archive, unless another number is set.
pub const SPOOL_BYTES_DEFAULT: u64 = 256 << 20;
/// How long transfers rely on a record unless another time is set.
pub const FRESH_HOURS_DEFAULT: u32 = 24;
/// The longest check that can be permitted: a day.
const SECONDS_MAX: u32 = 86_400;
/// More sessions than a host has ports are of no use.
const SESSIONS_MAX: usize = 65_535;
/// Names of more documents would take longer to list than to deliver.
const SPOOL_DOCUMENTS_MAX: usize = 1_000_000;
/// From the size of one document, with its histogram or route, to 1 PiB.
const SPOOL_BYTES: RangeInclusive<u64> = (64 << 10)..=(1 << 50);
/// No secret is longer.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// All tables about paths.
#[derive(Clone, Debug, Default)]
pub struct PathSettings {
    /// Path checks and records.
    pub path: PathTable,
    /// Answers to STAMP and TWAMP; `None` if off.
    pub responder: Option<ResponderTable>,
    /// Where results are published; `None` for nowhere.
    pub archive: Option<ArchiveTable>,
    /// The pSConfig template; `None` if not served.
    pub psconfig: Option<PsconfigTable>,
}

section! {
    /// Path checks requested by partners (docs/path.md).
    #[derive(Default)]
    PathTable = "path" {
        /// Whether partners' checks are answered
        answer: Option<bool> {
            example: true,
            default: "true",
            show: |answer| or(answer.as_ref(), &true),
            permitted: any,
        }
        /// Partners whose checks are not answered
        #[serde(default)]
        refuse: Vec<String> {
            example: ["lab-x"],
            default: "nobody",
            show: |partners| list(partners, "nobody"),
            permitted: |partners| partners.iter().try_for_each(|partner| permitted::name(partner)),
        }
        /// Highest rate of probes, in both directions
        rate: Option<Rate> {
            example: "10G",
            default: "10G",
            show: |rate| or(rate.as_ref(), &Rate(RATE_DEFAULT)),
            permitted: any,
        }
        /// Longest check that is answered, in seconds
        seconds: Option<u32> {
            example: 600,
            default: "600",
            show: |seconds| or(seconds.as_ref(), &SECONDS_DEFAULT),
            permitted: |seconds| if_set(seconds.as_ref(), |&seconds| permitted::number(seconds, 1..=SECONDS_MAX)),
        }
        /// UDP port of probes
        port: Option<u16> {
            example: 7272,
            default: "the number of the control connection's TCP port",
            show: |port| or(port.as_ref(), "as listen"),
            permitted: |port| if_set(port.as_ref(), |&port| permitted::number(port, 1..=u16::MAX)),
        }
        /// Hours for which transfers rely on a record; 0 for never
        fresh_hours: Option<u32> {
            example: 24,
            default: "24",
            show: |hours| or(hours.as_ref(), &FRESH_HOURS_DEFAULT),
            permitted: any,
        }
    }
}

section! {
    /// STAMP and TWAMP responders. Off unless this table exists. Partners may measure, and networks
    /// in "allow"; everybody may only with allow = ["0.0.0.0/0", "::/0"]. Ports below 1024 need a
    /// capability that the node's unit does not have.
    ResponderTable = "responder" {
        /// Address and UDP port of STAMP and TWAMP-Light
        stamp: Option<SocketAddr> {
            example: "[::]:8620",
            default: "off",
            show: |address| or(address.as_ref(), "off"),
            permitted: |address| if_set(address.as_ref(), reachable),
        }
        /// Address and TCP port of TWAMP-Control
        twamp: Option<SocketAddr> {
            example: "[::]:8620",
            default: "off",
            show: |address| or(address.as_ref(), "off"),
            permitted: |address| if_set(address.as_ref(), reachable),
        }
        /// Networks that may measure in addition to partners and the hosts of [psconfig]
        #[serde(default)]
        allow: Vec<Network> {
            example: ["192.0.2.0/24", "2001:db8::/32"],
            default: "partners only",
            show: |networks| list(networks, "partners only"),
            permitted: any,
        }
        /// TWAMP sessions, and STAMP sessions with a state of their own, at a time
        sessions: Option<usize> {
            example: 100,
            default: "100",
            show: |sessions| or(sessions.as_ref(), &ResponderConfig::default().sessions),
            permitted: |sessions| if_set(sessions.as_ref(), |&sessions| permitted::number(sessions, 1..=SESSIONS_MAX)),
        }
        /// Packets per second and host; a session gets a tenth of it
        packets_per_second: Option<u32> {
            example: 10000,
            default: "10000",
            show: |packets| or(packets.as_ref(), &ResponderConfig::default().packets_per_second),
            permitted: |packets| if_set(packets.as_ref(), |&packets| permitted::number(packets, 10..=u32::MAX)),
        }
        /// First and last UDP port of TWAMP sessions
        test_ports: Option<(u16, u16)> {
            example: [18760, 19960],
            default: "[18760, 19960]",
            show: |ports| {
                let used = ports.or(ResponderConfig::default().test_ports);
                (used.map_or_else(|| "any".to_owned(), |(first, last)| format!("{first}-{last}")), ports.is_some())
            },
            permitted: |ports| if_set(ports.as_ref(), port_range),
        }
        /// File with the secret of authenticated STAMP, which replaces unauthenticated STAMP
        stamp_key_file: Option<PathBuf> {
            example: "/etc/culvert/stamp.key",
            default: "none",
            show: |path| file(path.as_ref()),
            permitted: |path| if_set(path.as_ref(), |path| permitted::path(path)),
        }
    }
}

section! {
    /// A perfSONAR archive to publish results to. Off unless this table exists.
    ArchiveTable = "archive" {
        /// URL to which documents are sent
        url: String {
            example: "https://archive.example.org/logstash",
            default: "none; required",
            show: required,
            permitted: |url| archive_url(url),
        }
        /// User for basic authentication
        user: Option<String> {
            example: "perfsonar",
            default: "none",
            show: |user| or(user.as_ref(), "none"),
            permitted: |user| if_set(user.as_ref(), |user| login_user(user)),
        }
        /// File with the user's password
        password_file: Option<PathBuf> {
            example: "/etc/culvert/archive.password",
            default: "none",
            show: |path| file(path.as_ref()),
            permitted: |path| if_set(path.as_ref(), |path| permitted::path(path)),
        }
        /// How the archive's certificate is verified: ca, pin or insecure
        trust: Option<String> {
            example: "ca",
            default: "ca",
            show: |trust| or(trust.as_ref(), "ca"),
            permitted: |word| if_set(word.as_ref(), |word| Trust::of_word(word, None, None).map(drop)),
        }
        /// File with CA certificates in PEM format
        ca_file: Option<PathBuf> {
            example: "/etc/ssl/certs/ca-certificates.crt",
            default: "the host's CA certificates",
            show: |path| file(path.as_ref()),
            permitted: |path| if_set(path.as_ref(), |path| permitted::path(path)),
        }
        /// Name of this node in published documents (x-ps-observer)
        observer: Option<String> {
            example: "dtn1.example.org",
            default: "the node's name",
            show: |name| or(name.as_ref(), "as name"),
            permitted: |name| if_set(name.as_ref(), |name| permitted::name(name)),
        }
        /// Most documents that are queued while the archive is unreachable; the oldest are dropped
        spool_documents: Option<usize> {
            example: 10000,
            default: "10000",
            show: |documents| or(documents.as_ref(), &SPOOL_DOCUMENTS_DEFAULT),
            permitted: |documents| if_set(documents.as_ref(), |&documents| permitted::number(documents, 1..=SPOOL_DOCUMENTS_MAX)),
        }
        /// Most bytes that are queued while the archive is unreachable
        spool_bytes: Option<u64> {
            example: 268435456,
            default: "268435456",
            show: |bytes| or(bytes.as_ref(), &SPOOL_BYTES_DEFAULT),
            permitted: |bytes| if_set(bytes.as_ref(), |&bytes| permitted::number(bytes, SPOOL_BYTES)),
        }
    }
}

section! {
    /// A pSConfig template for perfSONAR hosts that measure to this node. Off unless this table
    /// exists.
    PsconfigTable = "psconfig" {
        /// Address and TCP port on which the template is served
        listen: SocketAddr {
            example: "0.0.0.0:8473",
            default: "none; required",
            show: required,
            permitted: reachable,
        }
        /// Name or address at which the hosts reach this one
        address: String {
            example: "dtn1.example.org",
            default: "none; required",
            show: required,
            permitted: |host| permitted::host(host),
        }
        /// perfSONAR hosts that measure to this one
        #[serde(default)]
        hosts: Vec<String> {
            example: ["ps1.example.org", "ps2.example.org"],
            default: "none",
            show: |hosts| list(hosts, "none"),
            permitted: |hosts| hosts.iter().try_for_each(|host| permitted::host(host)),
        }
    }
}

impl PathSettings {
    /// The first setting whose value means nothing, by its full name, with the reason and what is
    /// permitted.
    ///
    /// # Errors
    /// That setting.
    pub fn check(&self) -> Result<(), Wrong> {
        self.path.check()?;
        self.responder.as_ref().map_or(Ok(()), ResponderTable::check)?;
        self.archive.as_ref().map_or(Ok(()), ArchiveTable::check)?;
        self.archive.as_ref().map_or(Ok(()), ArchiveTable::check_together)?;
        self.psconfig.as_ref().map_or(Ok(()), PsconfigTable::check)
    }

    /// Every setting as name and text, and whether the file sets it, for `culvert config show`. A
    /// table that the file does not have is one line, except `[path]`.
    #[must_use]
    pub fn table(&self) -> Vec<(&'static str, String, bool)> {
        let or_off = |section: &'static str, shown: Option<Vec<(&'static str, Shown)>>| {
            shown.unwrap_or_else(|| vec![(section, ("off".to_owned(), false))])
        };
        let rows = [
            self.path.show(),
            or_off("responder", self.responder.as_ref().map(ResponderTable::show)),
            or_off("archive", self.archive.as_ref().map(ArchiveTable::show)),
            or_off("psconfig", self.psconfig.as_ref().map(PsconfigTable::show)),
        ];
        rows.into_iter().flatten().map(|(name, (value, is_set))| (name, value, is_set)).collect()
    }
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

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&show_rate(self.0))
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

impl ResponderTable {
    /// The responder's own configuration. `probes` is the UDP port where this node answers path
    /// checks.
    ///
    /// # Errors
    /// In words, if the key file cannot be read.
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

impl ArchiveTable {
    /// Finds settings that mean nothing without others.
    fn check_together(&self) -> Result<(), Wrong> {
        match (&self.user, &self.password_file) {
            (Some(_), None) => return Err(("archive.user", "it needs 'password_file' too".to_owned())),
            (None, Some(_)) => return Err(("archive.password_file", "it needs 'user' too".to_owned())),
            _ => {}
        }
        let is_of_ca = self.trust.as_deref().is_none_or(|trust| trust == "ca");
        if self.ca_file.is_some() && !is_of_ca {
            return Err(("archive.ca_file", "it is for trust = \"ca\" only: leave one of the two out".to_owned()));
        }
        Ok(())
    }

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
}

/// A secret from a file, without white space at its end.
///
/// # Errors
/// In words, if the file cannot be read or is empty.
pub fn read_secret(path: &std::path::Path) -> Result<Vec<u8>, String> {
    let secret = regular_file::read(path, SECRET_BYTES_MAX, Links::Followed)
        .map_err(|error| format!("the secret in {} cannot be read: {error}", path.display()))?;
    let end = secret.iter().rposition(|byte| !byte.is_ascii_whitespace()).map_or(0, |last| last + 1);
    if end == 0 { Err(format!("the secret in {} is empty", path.display())) } else { Ok(secret[..end].to_vec()) }
}

/// Refuses port 0: whoever measures must know the port.
fn reachable(address: &SocketAddr) -> Result<(), String> {
    permitted::local(address.ip())?;
    permitted::number(address.port(), 1..=u16::MAX).map_err(|reason| format!("port {reason}"))
}

fn port_range(&(first, last): &(u16, u16)) -> Result<(), String> {
    if first > last {
        return Err(format!("[{first}, {last}] has its first port above its last: write [{last}, {first}]"));
    }
    permitted::number(first, 1..=u16::MAX).map_err(|reason| format!("port {reason}"))
}

/// Checks the URL of an archive.
fn archive_url(url: &str) -> Result<(), String> {
    check_url(url).map_err(|error| error.to_string())?;
    if url.contains('@') {
        return Err("the login does not stand in the URL: write it as 'user' and 'password_file'".to_owned());
    }
    Ok(())
}

/// Checks a user of HTTP's basic authentication (RFC 7617, section 2).
fn login_user(user: &str) -> Result<(), String> {
    permitted::name(user)?;
    if user.contains(':') { Err(format!("a user such as '{user}' cannot have a colon")) } else { Ok(()) }
}
