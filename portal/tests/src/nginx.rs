//! nginx, as an installation has it in front of the portal: it ends TLS, tells the portal who asks,
//! and redirects plain HTTP.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::ports::{Port, wait_for};
use crate::process::{Process, folder, need, or_skip};
use crate::tls::Authority;

const PATIENCE: Duration = Duration::from_secs(30);
/// What `packaging/` ships.
const SHIPPED: &str = include_str!("../../../packaging/nginx/culvert-portal.conf");

/// How nginx is configured.
#[derive(Debug, Clone)]
pub struct NginxOptions {
    /// Where the portal listens: one address, or several of which each answers some requests.
    pub upstreams: Vec<SocketAddr>,
    /// Paths whose answers are not buffered.
    pub event_streams: Vec<String>,
    /// The status with which plain HTTP is redirected: 301, 302, 307 or 308.
    pub redirect_status: u16,
    /// The largest body in bytes; nginx answers 413 to others. 0 means that there is no limit.
    pub body_bytes_max: u64,
    /// Names of the certificate beyond `localhost`, `127.0.0.1` and `::1`.
    pub names: Vec<String>,
    /// What else stands in `location /`.
    pub additional: String,
}

impl NginxOptions {
    /// In front of one portal.
    #[must_use]
    pub fn new(upstream: SocketAddr) -> Self {
        Self {
            upstreams: vec![upstream],
            event_streams: vec!["/api/v1/events".to_owned()],
            redirect_status: 308,
            body_bytes_max: 0,
            names: Vec::new(),
            additional: String::new(),
        }
    }
}

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    secure: Port,
    plain: Port,
    authority: PathBuf,
    _process: Process,
    folder: TempDir,
}

impl Nginx {
    /// Starts it, or prints why the test is skipped.
    ///
    /// # Panics
    /// If it does not start although it is installed.
    #[must_use]
    pub fn start(options: &NginxOptions) -> Option<Self> {
        let names = ["localhost", "127.0.0.1", "::1"].into_iter().chain(options.names.iter().map(String::as_str));
        let names: Vec<&str> = names.collect();
        Self::start_with(&names, |secure, plain, certificate, key| servers(options, secure, plain, certificate, key))
    }

    fn start_with(names: &[&str], servers: impl FnOnce(&Port, &Port, &Path, &Path) -> String) -> Option<Self> {
        let program = or_skip(need("nginx"))?;
        let folder = folder();
        // Its workers are somebody else if root starts it.
        open_to_all(folder.path());
        let (secure, plain) = (Port::reserve(), Port::reserve());
        let [certificate, key] = Authority::shared().issue(names).write(folder.path());
        let authority = Authority::shared().write(folder.path());
        let servers = servers(&secure, &plain, &certificate, &key);
        let configuration = folder.path().join("nginx.conf");
        fs::write(&configuration, configuration_with(folder.path(), &servers)).expect("a configuration can be written");
        let mut command = Command::new(program);
        command
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(configuration)
            .arg("-e")
            .arg(folder.path().join("error.log"));
        let process = Process::spawn("nginx", command, &folder);
        wait_for(&process, secure.address(), PATIENCE);
        wait_for(&process, plain.address(), PATIENCE);
        Some(Self { secure, plain, authority, _process: process, folder })
    }

    /// Starts one with the shipped configuration in front of portals, with this test's addresses
    /// and certificate in it; or prints why the test is skipped. Its name is `localhost`.
    ///
    /// # Panics
    /// If it does not start although it is installed.
    #[must_use]
    pub fn start_shipped(portals: &[SocketAddr]) -> Option<Self> {
        Self::start_with(&["localhost", "127.0.0.1"], |secure, plain, certificate, key| {
            let upstreams: Vec<String> = portals.iter().map(|address| format!("server {address};")).collect();
            let (secure_address, plain_address) = (secure.address(), plain.address());
            let here = [
                ("server 127.0.0.1:7280;", upstreams.join("\n    ")),
                ("    listen [::]:80;\n", String::new()),
                ("    listen [::]:443 ssl http2;\n", String::new()),
                ("listen 80;", format!("listen {plain_address};")),
                ("listen 443 ssl http2;", format!("listen {secure_address} ssl http2;")),
                (
                    "https://portal.example.org$request_uri",
                    format!("https://localhost:{}$request_uri", secure.number()),
                ),
                ("server_name portal.example.org", "server_name localhost".to_owned()),
                ("/etc/ssl/certs/portal.example.org.pem", certificate.display().to_string()),
                ("/etc/ssl/private/portal.example.org.key", key.display().to_string()),
            ];
            here.into_iter().fold(SHIPPED.to_owned(), |text, (there, here)| {
                assert!(text.contains(there), "the shipped configuration has no '{there}'");
                text.replace(there, &here)
            })
        })
    }

    /// Its address for browsers, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.secure.number())
    }

    /// The address that redirects there.
    #[must_use]
    pub fn plain_url(&self) -> String {
        format!("http://localhost:{}", self.plain.number())
    }

    /// Where it takes connections with TLS.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.secure.address()
    }

    /// The file with the certificate of the authority that its own comes from:
    /// [`Authority::shared`].
    #[must_use]
    pub fn authority_file(&self) -> &Path {
        &self.authority
    }

    /// What it has logged as errors so far.
    #[must_use]
    pub fn error_log(&self) -> String {
        fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }

    /// The requests that it has answered so far, one a line: address, request, status, upstream.
    #[must_use]
    pub fn access_log(&self) -> String {
        fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }
}

fn configuration_with(folder: &Path, servers: &str) -> String {
    let folder = folder.display();
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: String = kinds.iter().map(|kind| format!("    {kind}_temp_path {folder}/{kind};\n")).collect();
    format!(
        r#"daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 512; }}
http {{
    log_format short '$remote_addr "$request" $status $upstream_addr';
    access_log {folder}/access.log short;
{temporary}{servers}}}
"#
    )
}

fn servers(options: &NginxOptions, secure: &Port, plain: &Port, certificate: &Path, key: &Path) -> String {
    let upstreams: String = options.upstreams.iter().fold(String::new(), |mut lines, address| {
        let _ = writeln!(lines, "        server {address} fail_timeout=1s;");
        lines
    });
    let streams: String = options.event_streams.iter().fold(String::new(), |mut locations, path| {
        let _ = write!(
            locations,
            "        location {path} {{
            proxy_pass http://portal;
            proxy_buffering off;
            proxy_read_timeout 1h;
        }}
"
        );
        locations
    });
    let (certificate, key) = (certificate.display(), key.display());
    let NginxOptions { redirect_status, body_bytes_max, additional, .. } = options;
    let (secure_address, plain_address) = (secure.address(), plain.address());
    let secure_number = secure.number();
    // X-Forwarded-For is overwritten: appended to, it would begin with what the client says. Host
    // is what the browser says, or the portal takes its requests for another site's.
    format!(
        "    upstream portal {{
{upstreams}        keepalive 8;
    }}
    server {{
        listen {secure_address} ssl http2;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        client_max_body_size {body_bytes_max};
        proxy_http_version 1.1;
        proxy_set_header Connection \"\";
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
{streams}        location / {{
            proxy_pass http://portal;
            {additional}
        }}
    }}
    server {{
        listen {plain_address};
        return {redirect_status} https://$host:{secure_number}$request_uri;
    }}
"
    )
}

fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("a folder can be opened to all");
}
