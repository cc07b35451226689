//! GridFTP of the Grid Community Toolkit: one file in four streams, or many files, pipelined.

use std::path::Path;
use std::time::Duration;

use super::certificates::Certificates;
use super::installed::need;
use crate::field::{self, Field, RECEIVER, THERE};

/// What GridFTP encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Nothing.
    Plain,
    /// Control and data (`-dcpriv`).
    EncryptedData,
}

/// A GridFTP server on the receiving side.
#[derive(Debug)]
pub struct GridFtp<'a> {
    field: &'a Field,
    security: Security,
    certificates: Certificates,
    _server: field::Server,
}

impl<'a> GridFtp<'a> {
    /// Starts the server.
    pub fn start(field: &'a Field, security: Security) -> anyhow::Result<Self> {
        need(&["globus-gridftp-server", "globus-url-copy", "openssl"])?;
        let certificates = Certificates::make(&field.path("certificates"))?;
        let interfaces = ["-control-interface", THERE, "-data-interface", THERE];
        let (mut server, port) = match security {
            Security::Plain => {
                let anonymous = [
                    "--reuid=nobody",
                    "--regid=nogroup",
                    "--clear-groups",
                    "globus-gridftp-server",
                    "-aa",
                    "-anonymous-user",
                    "nobody",
                    "-p",
                    "2811",
                ];
                (field.command(RECEIVER, "setpriv", &[anonymous.as_slice(), &interfaces].concat()), 2811)
            }
            Security::EncryptedData => {
                let ours = ["-p", "2812", "-allow-root"];
                (field.command(RECEIVER, "globus-gridftp-server", &[ours.as_slice(), &interfaces].concat()), 2812)
            }
        };
        let at = |name: &str| certificates.path(name);
        server
            .env("X509_CERT_DIR", at("ca"))
            .env("X509_USER_CERT", at("host.pem"))
            .env("X509_USER_KEY", at("host.key"));
        server.env("GRIDMAP", at("gridmap"));
        let server = field.serve(server, port)?;
        Ok(Self { field, security, certificates, _server: server })
    }

    /// Stores a file, in four streams.
    pub fn put(&self, source: &Path, destination: &str) -> anyhow::Result<Duration> {
        self.copy(&["-fast", "-p", "4"], &source.display().to_string(), destination)
    }

    /// Stores a directory's contents in another, with pipelined commands and eight files at once.
    pub fn put_all(&self, source: &Path, target: &Path) -> anyhow::Result<Duration> {
        let (from, to) = (format!("{}/", source.display()), format!("{}/", target.display()));
        self.copy(&["-r", "-cd", "-pp", "-fast", "-cc", "8"], &from, &to)
    }

    fn copy(&self, options: &[&str], source: &str, destination: &str) -> anyhow::Result<Duration> {
        let from = format!("file://{source}");
        let (url, security): (String, &[&str]) = match self.security {
            Security::Plain => (format!("ftp://{THERE}:2811{destination}"), &[]),
            Security::EncryptedData => (format!("gsiftp://{THERE}:2812{destination}"), &["-dcpriv"]),
        };
        let (ca, proxy) = (self.certificates.path("ca"), self.certificates.path("proxy.pem"));
        let variables = [("X509_CERT_DIR", ca.display().to_string()), ("X509_USER_PROXY", proxy.display().to_string())];
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Ok(self.field.run_with("globus-url-copy", &[security, options, &[&from, &url]].concat(), &variables)?.1)
    }
}
