//! The lab: two network namespaces joined by a veth pair, created and removed by the test that uses
//! them.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::program::{is_installed, is_root};

/// Two namespaces with a link between them: `10.96.0.1` and `fd96::1` on the first side, `.2` and
/// `::2` on the second.
#[derive(Debug)]
pub struct Lab {
    sides: [String; 2],
    links: [String; 2],
}

/// Why there can be no lab here, if there cannot.
#[must_use]
pub fn missing() -> Option<&'static str> {
    if !is_root() {
        return Some("network namespaces need root");
    }
    if !is_installed("ip") {
        return Some("ip (iproute2) is not installed");
    }
    None
}

impl Lab {
    /// Makes the lab, or prints why the test is skipped.
    ///
    /// # Panics
    /// If a namespace or link cannot be made although it should be possible.
    #[must_use]
    pub fn new(mtu: u32) -> Option<Self> {
        Self::with_queues(mtu, 1)
    }

    /// As [`Lab::new`], with this many receive and transmit queues at each end.
    ///
    /// # Panics
    /// As [`Lab::new`].
    #[must_use]
    pub fn with_queues(mtu: u32, queues: u32) -> Option<Self> {
        if let Some(why) = missing() {
            eprintln!("skipped: {why}");
            return None;
        }
        // Interface names have at most 15 characters.
        let links = ["cva", "cvb"].map(|side| format!("{side}{}", std::process::id()));
        Some(Self::join(links, mtu, |[a, b], [va, vb]| {
            let queues = queues.to_string();
            let each = ["numrxqueues", &queues, "numtxqueues", &queues];
            let words = [
                &["-n", a, "link", "add", va],
                &each[..],
                &["type", "veth", "peer", "name", vb, "netns", b],
                &each[..],
            ];
            ip(&words.concat());
        }))
    }

    /// Makes the lab from two connected interfaces, which go back to where they were when it is
    /// dropped.
    ///
    /// # Panics
    /// If a namespace cannot be made, or an interface cannot be moved.
    #[must_use]
    pub fn over(links: [&str; 2], mtu: u32) -> Self {
        Self::join(links.map(str::to_owned), mtu, |sides, links| {
            for (side, link) in sides.iter().zip(links) {
                ip(&["link", "set", link, "netns", side]);
            }
        })
    }

    fn join(links: [String; 2], mtu: u32, connect: impl FnOnce(&[String; 2], &[String; 2])) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let lab = Self { sides: ["a", "b"].map(|side| format!("cvt{side}{}x{number}", std::process::id())), links };
        for side in &lab.sides {
            ip(&["netns", "add", side]);
        }
        connect(&lab.sides, &lab.links);
        for ((side, link), last) in lab.sides.iter().zip(&lab.links).zip(["1", "2"]) {
            ip(&["-n", side, "link", "set", "lo", "up"]);
            ip(&["-n", side, "addr", "add", &format!("10.96.0.{last}/24"), "dev", link]);
            ip(&["-n", side, "-6", "addr", "add", &format!("fd96::{last}/64"), "dev", link, "nodad"]);
            ip(&["-n", side, "link", "set", link, "mtu", &mtu.to_string(), "up"]);
        }
        lab
    }

    /// The interface of a side.
    #[must_use]
    pub fn link(&self, side: usize) -> &str {
        &self.links[side]
    }

    /// The names of the two namespaces.
    #[must_use]
    pub const fn names(&self) -> &[String; 2] {
        &self.sides
    }

    /// Makes a command run in a side: 0 or 1.
    #[must_use]
    pub fn inside(&self, side: usize, command: &Command) -> Command {
        inside_namespace(&self.sides[side], command)
    }

    /// Joins the sides with a second link: `10.98.0.1` and `10.98.0.2`. Returns its interfaces.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn add_link(&self) -> [String; 2] {
        let [a, b] = &self.sides;
        let links = ["cwa", "cwb"].map(|side| format!("{side}{}", std::process::id()));
        ip(&["-n", a, "link", "add", &links[0], "type", "veth", "peer", "name", &links[1], "netns", b]);
        for ((side, link), last) in [a, b].into_iter().zip(&links).zip(["1", "2"]) {
            ip(&["-n", side, "addr", "add", &format!("10.98.0.{last}/24"), "dev", link]);
            ip(&["-n", side, "link", "set", link, "up"]);
        }
        links
    }

    /// Adds a VLAN to the link: `10.97.7.1` and `10.97.7.2`. False if the kernel has no VLANs.
    ///
    /// # Panics
    /// If it cannot be set up although the kernel has them.
    #[must_use]
    pub fn add_vlan(&self, tag: u16) -> bool {
        let tag = tag.to_string();
        for (side, last) in [(0, "1"), (1, "2")] {
            let mut add = Command::new("ip");
            add.args(["link", "add", "link", self.link(side), "name", "tagged", "type", "vlan", "id", &tag]);
            if !self.inside(side, &add).status().expect("ip runs").success() {
                return false;
            }
            self.tool(side, "ip", &["addr", "add", &format!("10.97.7.{last}/24"), "dev", "tagged"]);
            self.tool(side, "ip", &["link", "set", "tagged", "up"]);
        }
        true
    }

    /// Runs `ip` or another tool in a side.
    ///
    /// # Panics
    /// If it fails.
    pub fn tool(&self, side: usize, program: &str, arguments: &[&str]) {
        let status = self.inside(side, Command::new(program).args(arguments)).status().expect("the tool runs");
        assert!(status.success(), "{program} {arguments:?} failed");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for side in &self.sides {
            let _ = Command::new("ip").args(["netns", "del", side]).status();
        }
    }
}

/// Makes a command run in a namespace created by `ip netns`.
#[must_use]
pub fn inside_namespace(namespace: &str, command: &Command) -> Command {
    let mut inside = Command::new("ip");
    inside.args(["netns", "exec", namespace]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(name, value),
            None => inside.env_remove(name),
        };
    }
    inside
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
