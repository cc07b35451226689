//! The environment of the measurements: the lab, its cores, and temporary directories.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use culvert_tests::lab::Lab;

/// The receiving side's address.
pub const THERE: &str = "10.96.0.2";
/// The sending side and its core.
pub const SENDER: usize = 0;
/// The receiving side and its core.
pub const RECEIVER: usize = 1;

/// The lab and a directory for this contest.
#[derive(Debug)]
pub struct Field {
    /// The namespaces.
    pub lab: Lab,
    directory: tempfile::TempDir,
    _hosts: HostsFiles,
}

/// Names for the lab's addresses: some peers' servers do not start if their address has no name.
/// `ip netns exec` mounts these files as the namespaces' `/etc/hosts`.
#[derive(Debug)]
struct HostsFiles([PathBuf; 2]);

impl HostsFiles {
    fn make(namespaces: &[String; 2]) -> anyhow::Result<Self> {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let directories = namespaces.each_ref().map(|name| Path::new("/etc/netns").join(name));
        let files = Self(directories);
        for directory in &files.0 {
            std::fs::create_dir_all(directory)?;
            let names = format!("127.0.0.1 localhost\n10.96.0.1 here.bench\n{THERE} there.bench {}\n", host.trim());
            std::fs::write(directory.join("hosts"), names)?;
        }
        Ok(files)
    }
}

impl Drop for HostsFiles {
    fn drop(&mut self) {
        for directory in &self.0 {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

impl Field {
    /// A field whose directory lies below `parent`.
    pub fn new(mtu: u32, parent: &Path) -> anyhow::Result<Self> {
        let lab = Lab::new(mtu).context("there is no lab")?;
        let directory = tempfile::Builder::new().prefix("culvert-bench-").tempdir_in(parent)?;
        // Servers of peers run as other users.
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let hosts = HostsFiles::make(lab.names())?;
        let field = Self { lab, directory, _hosts: hosts };
        for side in [SENDER, RECEIVER] {
            // Peers are measured with CUBIC, the usual default. If the kernel does not permit it in
            // namespaces, they run with what is available.
            let _ = field
                .command(side, "sysctl", &["-qw", "net.ipv4.tcp_congestion_control=cubic"])
                .stderr(Stdio::null())
                .status();
        }
        Ok(field)
    }

    /// TCP's congestion control in the lab.
    pub fn congestion_control(&self) -> String {
        let output = self.command(SENDER, "sysctl", &["-n", "net.ipv4.tcp_congestion_control"]).output();
        output.map_or_else(|_| "?".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A path in the field's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A program on a side, pinned to the side's core.
    pub fn command(&self, side: usize, program: &str, arguments: &[&str]) -> Command {
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", &side.to_string(), program]).args(arguments);
        self.lab.inside(side, &pinned)
    }

    /// Runs a program on the sending side; returns its standard output and how long it took.
    pub fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<(String, Duration)> {
        self.run_with(program, arguments, &[])
    }

    /// As [`Field::run`], with environment variables.
    pub fn run_with(
        &self,
        program: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> anyhow::Result<(String, Duration)> {
        let mut command = self.command(SENDER, program, arguments);
        command.envs(variables.iter().copied()).stdin(Stdio::null());
        let began = Instant::now();
        let output = command.output().with_context(|| format!("{program} does not start"))?;
        let took = began.elapsed();
        if !output.status.success() {
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let said = err.lines().last().or_else(|| out.lines().last()).unwrap_or("without a word");
            bail!("{program} failed ({}): {said}", output.status);
        }
        Ok((String::from_utf8_lossy(&output.stdout).into_owned(), took))
    }

    /// Waits until a UDP port of the receiving side is free: a data plane ends a moment after its
    /// node was killed. The wait is bounded; if the port stays in use the next step reports it.
    pub fn wait_for_free_port(&self, port: u16) {
        for _ in 0..100 {
            let bound = self.command(RECEIVER, "ss", &["-Huan", &format!("sport = :{port}")]).output();
            if bound.is_ok_and(|bound| bound.stdout.is_empty()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts a server on the receiving side and waits until it listens on a TCP port.
    pub fn serve(&self, mut command: Command, port: u16) -> anyhow::Result<Server> {
        let name = format!("{command:?}");
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context(name.clone())?;
        let mut server = Server(child);
        let began = Instant::now();
        loop {
            let listening = self.command(RECEIVER, "ss", &["-Htln", &format!("sport = :{port}")]).output()?;
            if !listening.stdout.is_empty() {
                return Ok(server);
            }
            if let Some(status) = server.0.try_wait()? {
                bail!("the server ended ({status}): {name}");
            }
            if began.elapsed() > Duration::from_secs(15) {
                bail!("the server does not listen on port {port}: {name}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A server that is stopped when it is dropped.
#[derive(Debug)]
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Permits CUBIC in the peers' namespaces as long as this lives: kernels with another default
/// permit a namespace only what the host's list contains.
#[derive(Debug)]
pub struct CubicAllowed(Option<String>);

const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

impl CubicAllowed {
    /// Adds CUBIC to the list if it is not there.
    pub fn new() -> Self {
        let before = std::fs::read_to_string(ALLOWED).unwrap_or_default();
        if before.split_whitespace().any(|name| name == "cubic")
            || std::fs::write(ALLOWED, format!("{} cubic", before.trim())).is_err()
        {
            return Self(None);
        }
        Self(Some(before))
    }
}

impl Drop for CubicAllowed {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = std::fs::write(ALLOWED, before);
        }
    }
}

/// Gigabits per second.
pub fn gigabits(bytes: u64, took: Duration) -> f64 {
    bytes as f64 * 8.0 / took.as_secs_f64() / 1e9
}

/// Writes `bytes` incompressible bytes.
pub fn write_random(path: &Path, bytes: u64) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut source = blake3::Hasher::new().update(b"culvert benches").finalize_xof();
    let mut block = vec![0; 4 << 20];
    let mut file = std::fs::File::create(path)?;
    let mut left = bytes as usize;
    while left > 0 {
        let part = left.min(block.len());
        source.fill(&mut block[..part]);
        file.write_all(&block[..part])?;
        left -= part;
    }
    Ok(())
}
