//! scp, rsync and tar over OpenSSH with its fastest cipher, and rclone over the same server's SFTP.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::installed::need;
use crate::field::{self, Field, RECEIVER, SENDER, THERE};

const CIPHER: &str = "aes128-gcm@openssh.com";

/// An ssh server on the receiving side.
#[derive(Debug)]
pub struct Ssh<'a> {
    field: &'a Field,
    config: String,
    _server: field::Server,
}

impl<'a> Ssh<'a> {
    /// Makes keys and starts the server.
    pub fn start(field: &'a Field) -> anyhow::Result<Self> {
        need(&["sshd", "ssh", "ssh-keygen"])?;
        let at = |name: &str| field.path(name).display().to_string();
        for key in ["ssh-host", "ssh-user"] {
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &at(key)]).status()?;
            ensure!(made.success(), "ssh-keygen failed");
        }
        let server = format!(
            "Port 2222\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nPermitRootLogin yes\nUsePAM no\nPidFile none\nSubsystem sftp internal-sftp\n",
            at("ssh-host"),
            at("ssh-user.pub"),
        );
        std::fs::write(at("sshd_config"), server)?;
        let client = format!(
            "Host *\nPort 2222\nUser root\nIdentityFile {}\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\nCiphers {CIPHER}\n",
            at("ssh-user"),
        );
        let config = at("ssh_config");
        std::fs::write(&config, client)?;
        let _ = std::fs::create_dir("/run/sshd");
        let sshd = field.command(RECEIVER, "/usr/sbin/sshd", &["-D", "-f", &at("sshd_config")]);
        Ok(Self { field, config, _server: field.serve(sshd, 2222)? })
    }

    /// Copies a file with scp's original protocol, which is its fastest.
    pub fn scp(&self, from: &str, to: &str) -> anyhow::Result<Duration> {
        need(&["scp"])?;
        Ok(self.field.run("scp", &["-O", "-q", "-F", &self.config, from, &format!("{THERE}:{to}")])?.1)
    }

    /// rsync with options and sources.
    pub fn rsync(&self, options_and_sources: &[&str], to: &str) -> anyhow::Result<Duration> {
        need(&["rsync"])?;
        let shell = format!("ssh -F {}", self.config);
        let destination = format!("{THERE}:{to}");
        Ok(self.field.run("rsync", &[&["-e", &shell], options_and_sources, &[destination.as_str()]].concat())?.1)
    }

    /// Copies a directory's contents with rclone over SFTP, eight files at once. Hash comparison is
    /// off: it would cost one command at the server per file.
    pub fn rclone(&self, source: &Path, target: &Path) -> anyhow::Result<Duration> {
        need(&["rclone"])?;
        let key = self.field.path("ssh-user").display().to_string();
        let remote = format!(
            ":sftp,host={THERE},port=2222,user=root,key_file={key},disable_hashcheck=true:{}",
            target.display()
        );
        let from = source.display().to_string();
        let options = ["--config", "", "-q", "--transfers", "8", "--checkers", "8", "--ignore-checksum"];
        Ok(self.field.run("rclone", &[&["copy"], options.as_slice(), &[&from, &remote]].concat())?.1)
    }

    /// `tar | ssh tar`.
    pub fn tar(&self, source: &Path, target: &Path) -> anyhow::Result<Duration> {
        let pipe = format!(
            "set -o pipefail; tar -C {} -cf - . | ssh -F {} {THERE} tar -C {} -xf -",
            source.display(),
            self.config,
            target.display()
        );
        let began = Instant::now();
        let status = self.field.command(SENDER, "bash", &["-c", &pipe]).status()?;
        ensure!(status.success(), "tar failed");
        Ok(began.elapsed())
    }
}
