//! The WAN emulator: a router between two network namespaces that delays, limits and impairs
//! packets.
//!
//! Kernels without `sch_netem` can neither delay nor lose packets, so this router does it in user
//! space. Each namespace gets a TUN device whose other end is the router; one thread for each
//! direction reads packets, passes them through an emulated link ([`link`]) and writes them to the
//! other side when they are due. A TUN device without offloads makes the kernel split super-packets
//! into real ones, so every packet on the path is handled singly, as by a router.
//!
//! ```text
//!  namespace a                router                namespace b
//!  10.97.0.1, fd97::1  ──tun──> link a→b ──tun──>  10.97.0.2, fd97::2
//!                      <──tun── link b→a <──tun──
//! ```

pub mod command;
mod config;
pub mod link;
pub mod router;
pub mod table;
pub(crate) mod tun;

use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::lab;
pub use config::WanConfig;
use link::{Counters, LinkConfig};
use router::Router;

/// Two namespaces with an emulated path between them: `10.97.0.1` and `fd97::1` on the first side,
/// `.2` and `::2` on the second. Dropping it removes them.
#[derive(Debug)]
pub struct Wan {
    sides: [String; 2],
    router: Option<Router>,
}

/// Why there can be no emulator here, if there cannot.
#[must_use]
pub fn missing() -> Option<&'static str> {
    lab::missing().or_else(|| (!std::path::Path::new("/dev/net/tun").exists()).then_some("there is no /dev/net/tun"))
}

impl Wan {
    /// Makes the namespaces and starts the router, or prints why the test is skipped.
    ///
    /// # Panics
    /// If something cannot be made although it should be possible.
    #[must_use]
    pub fn new(config: &WanConfig) -> Option<Self> {
        if let Some(why) = missing() {
            eprintln!("skipped: {why}");
            return None;
        }
        Some(Self::make(config).expect("the emulated path can be made"))
    }

    /// Makes the namespaces and starts the router.
    ///
    /// # Errors
    /// The operating system's, or what `ip` reports.
    pub fn make(config: &WanConfig) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| format!("cvwan{side}{}x{number}", std::process::id());
        let mut wan = Self { sides: [name("a"), name("b")], router: None };
        let mut devices = Vec::new();
        for (side, last) in wan.sides.iter().zip([1, 2]) {
            ip(&["netns", "add", side])?;
            ip(&["-n", side, "link", "set", "lo", "up"])?;
            devices.push(tun::create(side, "wan")?);
            // A router that is late for a moment must not lose packets that the emulated path would
            // not have lost.
            ip(&["-n", side, "link", "set", "wan", "mtu", &config.mtu.to_string(), "txqueuelen", "10000", "up"])?;
            let other = 3 - last;
            ip(&[
                "-n",
                side,
                "addr",
                "add",
                &format!("10.97.0.{last}"),
                "peer",
                &format!("10.97.0.{other}"),
                "dev",
                "wan",
            ])?;
            ip(&["-n", side, "-6", "addr", "add", &format!("fd97::{last}/64"), "dev", "wan", "nodad"])?;
            // On a long path TCP's default of a few megabytes would be the limit, not its
            // congestion control.
            for (sysctl, value) in [("tcp_rmem", "4096 262144 268435456"), ("tcp_wmem", "4096 262144 268435456")] {
                let path = format!("/proc/sys/net/ipv4/{sysctl}");
                run(Command::new("ip").args(["netns", "exec", side, "sh", "-c", &format!("echo {value} > {path}")]))?;
            }
        }
        let second = devices.pop().expect("two devices were made");
        let first = devices.pop().expect("two devices were made");
        wan.router = Some(Router::start(first, second, config)?);
        Ok(wan)
    }

    /// The name of a side's namespace: 0 or 1.
    #[must_use]
    pub fn namespace(&self, side: usize) -> &str {
        &self.sides[side]
    }

    /// The IPv4 address of a side.
    #[must_use]
    pub const fn address(side: usize) -> &'static str {
        ["10.97.0.1", "10.97.0.2"][side]
    }

    /// Makes a command run in a side: 0 or 1.
    #[must_use]
    pub fn inside(&self, side: usize, command: &Command) -> Command {
        lab::inside_namespace(&self.sides[side], command)
    }

    /// What happened to packets from the first side to the second (0), or back (1).
    #[must_use]
    pub fn counters(&self, direction: usize) -> Counters {
        self.router.as_ref().map(|router| router.counters(direction)).unwrap_or_default()
    }

    /// Changes the links from now on.
    pub fn set_links(&self, forward: LinkConfig, reverse: LinkConfig) {
        if let Some(router) = &self.router {
            router.set_links(forward, reverse);
        }
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        drop(self.router.take());
        for side in &self.sides {
            let _ = Command::new("ip").args(["netns", "del", side]).output();
        }
    }
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    run(Command::new("ip").args(arguments))
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
