//! Two hosts with a router between them, in network namespaces that the test creates and removes.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::lab::missing;
use crate::node::{Pair, RunningNode};
use crate::program::{Ran, command, run};

/// Two hosts and a router between them, in namespaces: `10.97.1.1` and `fd97:1::1` on the near
/// side, `10.97.2.2` and `fd97:2::2` on the far one. The near links have MTU 9000, the far ones
/// 1500.
#[derive(Debug)]
pub struct Routed {
    names: [String; 3],
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("the program runs");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Routed {
    /// Makes the namespaces, or prints why the test is skipped.
    ///
    /// # Panics
    /// If they cannot be made although it should be possible.
    #[must_use]
    pub fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if let Some(why) = missing() {
            eprintln!("skipped: {why}");
            return None;
        }
        let unique = format!("{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let names = ["n", "r", "f"].map(|side| format!("cvpath{side}{unique}"));
        let this = Self { names };
        let [near, router, far] = &this.names;
        for name in &this.names {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        for (host, subnet, last, mtu, link) in [(near, "1", "1", "9000", "left"), (far, "2", "2", "1500", "right")] {
            ip(&["-n", router, "link", "add", link, "type", "veth", "peer", "name", "up0", "netns", host]);
            for (name, device, last) in [(host, "up0", last), (router, link, "9")] {
                ip(&["-n", name, "addr", "add", &format!("10.97.{subnet}.{last}/24"), "dev", device]);
                ip(&["-n", name, "-6", "addr", "add", &format!("fd97:{subnet}::{last}/64"), "dev", device, "nodad"]);
                ip(&["-n", name, "link", "set", device, "mtu", mtu, "up"]);
            }
            ip(&["-n", host, "route", "add", "default", "via", &format!("10.97.{subnet}.9")]);
            ip(&["-n", host, "-6", "route", "add", "default", "via", &format!("fd97:{subnet}::9")]);
        }
        this.tool(
            1,
            "sysctl",
            &[
                "-qw",
                "net.ipv4.ip_forward=1",
                "net.ipv6.conf.all.forwarding=1",
                "net.ipv4.icmp_ratelimit=0",
                "net.ipv6.icmp.ratelimit=0",
            ],
        );
        Some(this)
    }

    /// Makes a command run in a namespace: the near host's (0), the router's (1) or the far host's
    /// (2).
    #[must_use]
    pub fn inside(&self, side: usize, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.names[side]]).arg(command.get_program()).args(command.get_args());
        inside
    }

    /// Runs a program in a namespace.
    ///
    /// # Panics
    /// If it fails.
    pub fn tool(&self, side: usize, program: &str, arguments: &[&str]) {
        let status = self.inside(side, Command::new(program).args(arguments)).status().expect("the program runs");
        assert!(status.success(), "{program} {arguments:?}");
    }

    /// Starts a node on the far host, and makes it known to the near one under `address`.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(&self, address: &str) -> (Pair, RunningNode) {
        let pair = Pair::new();
        let listen = ["node", "--listen", "[::]:7272", "--metrics", "off"];
        let node = RunningNode::start(&pair.there, &mut self.inside(2, &command(&pair.there, listen)));
        pair.meet(node.port);
        run(&pair.here, ["profile", "edit", "second", "--address", &format!("{address}:7272")]).exits(0);
        (pair, node)
    }

    /// Checks the path from the near host.
    ///
    /// # Panics
    /// If the program cannot be run.
    #[must_use]
    pub fn check(&self, pair: &Pair, options: &[&str]) -> Ran {
        self.inside(0, command(&pair.here, ["path", "check", "second"]).args(options))
            .output()
            .expect("the program runs")
            .into()
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}
