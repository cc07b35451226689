//! Something on the path between two network namespaces that sees every packet: it passes packets
//! on, changes, copies, delays or drops them, and makes up others. This is what a NAT does, and
//! what an attacker on the path can do.
//!
//! Each namespace has a TUN device whose other end is the middlebox. `10.97.0.1` and `fd97::1` are
//! on the first side, `.2` and `::2` on the second; whatever else is sent to `10.97.0.0/16` or
//! `fd97::/64` arrives here too.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::lab::inside_namespace;
use crate::node::{Pair, RunningNode};
use crate::packets::Packet;
use crate::program::{Ran, command, run};
use crate::wan::{missing, tun};

/// How many packets of one side are passed on before the other side's are looked at.
const BATCH: usize = 64;
/// How long a descriptor's packets are waited for, so that delayed packets leave on time.
const NAP: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// What becomes of a packet.
#[derive(Debug, Default)]
pub struct Fate {
    /// Packets that leave now, and towards which side.
    pub now: Vec<(usize, Vec<u8>)>,
    /// Packets that leave later.
    pub later: Vec<(Duration, usize, Vec<u8>)>,
}

impl Fate {
    /// Passes the packet on.
    pub fn pass(&mut self, from_side: usize, bytes: &[u8]) {
        self.now.push((1 - from_side, bytes.to_vec()));
    }
}

/// Decides what becomes of each packet, given the side it comes from, its headers and its bytes.
pub type Rule = Box<dyn FnMut(usize, Packet, &[u8], &mut Fate) + Send>;

/// Passes everything on.
#[must_use]
pub fn honest() -> Rule {
    Box::new(|side, _, bytes, fate| fate.pass(side, bytes))
}

#[derive(Debug, Default)]
struct Shared {
    ends: AtomicBool,
    injected: Mutex<Vec<(usize, Vec<u8>)>>,
}

/// The namespaces and what is between them.
pub struct Middlebox {
    sides: [String; 2],
    shared: Arc<Shared>,
    rule: Arc<Mutex<Rule>>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Middlebox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Middlebox").field("sides", &self.sides).finish_non_exhaustive()
    }
}

impl Middlebox {
    /// Makes the namespaces, or prints why the test is skipped. Everything passes until a rule is
    /// set.
    ///
    /// # Panics
    /// If something cannot be made although it should be possible.
    #[must_use]
    pub fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if let Some(why) = missing() {
            eprintln!("skipped: {why}");
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let sides = ["a", "b"].map(|side| format!("cvmid{side}{}x{number}", std::process::id()));
        let (shared, rule) = (Arc::new(Shared::default()), Arc::new(Mutex::new(honest())));
        let mut middlebox = Self { sides, shared: shared.clone(), rule: rule.clone(), thread: None };
        let devices: Vec<OwnedFd> = (1..=2).map(|last| middlebox.make_side(last)).collect();
        let Ok(devices) = <[OwnedFd; 2]>::try_from(devices) else { unreachable!("there are two sides") };
        middlebox.thread = Some(std::thread::spawn(move || forward(&devices, &shared, &rule)));
        Some(middlebox)
    }

    fn make_side(&self, last: usize) -> OwnedFd {
        let side = &self.sides[last - 1];
        ip(&["netns", "add", side]);
        ip(&["-n", side, "link", "set", "lo", "up"]);
        let device = tun::create(side, "wan").expect("a device can be made");
        ip(&["-n", side, "link", "set", "wan", "mtu", "1500", "txqueuelen", "10000", "up"]);
        ip(&["-n", side, "addr", "add", &format!("10.97.0.{last}/16"), "dev", "wan"]);
        ip(&["-n", side, "-6", "addr", "add", &format!("fd97::{last}/64"), "dev", "wan", "nodad"]);
        device
    }

    /// Changes what becomes of packets from now on.
    ///
    /// # Panics
    /// If the previous rule has panicked.
    pub fn set_rule(&self, rule: Rule) {
        *self.rule.lock().expect("rules do not panic") = rule;
    }

    /// Delivers a packet to a side.
    ///
    /// # Panics
    /// If the middlebox's thread has panicked.
    pub fn inject(&self, side: usize, packet: Vec<u8>) {
        self.shared.injected.lock().expect("the middlebox does not panic").push((side, packet));
    }

    /// Waits until everything that was injected has left.
    pub fn flush(&self) {
        crate::node::wait_for("injected packets to leave", || {
            self.shared.injected.lock().ok().filter(|injected| injected.is_empty()).map(drop)
        });
    }

    /// Makes a command run in a side: 0 or 1.
    #[must_use]
    pub fn inside(&self, side: usize, command: &Command) -> Command {
        inside_namespace(&self.sides[side], command)
    }

    /// Runs `ip` or another tool in a side, and returns its output.
    ///
    /// # Panics
    /// If it cannot be started, or fails.
    #[must_use]
    pub fn tool(&self, side: usize, program: &str, arguments: &[&str]) -> String {
        let output = self.inside(side, Command::new(program).args(arguments)).output().expect("the tool runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// The address of a side.
    #[must_use]
    pub fn address(side: usize, is_v6: bool, port: u16) -> SocketAddr {
        let last = side + 1;
        let text = if is_v6 { format!("[fd97::{last}]:{port}") } else { format!("10.97.0.{last}:{port}") };
        text.parse().expect("an address")
    }
}

impl Drop for Middlebox {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for side in &self.sides {
            let _ = Command::new("ip").args(["netns", "del", side]).output();
        }
    }
}

/// Two partners at the ends of a middlebox, the second with a node.
#[derive(Debug)]
pub struct MiddlePair {
    /// The second's node. It ends before its namespace does.
    pub node: RunningNode,
    /// What is between them.
    pub middlebox: Middlebox,
    /// Their state.
    pub pair: Pair,
}

impl MiddlePair {
    /// Starts the node, and gives the first its address in a family; or prints why the test is
    /// skipped.
    ///
    /// # Panics
    /// If the node does not start.
    #[must_use]
    pub fn start(is_v6: bool) -> Option<Self> {
        let middlebox = Middlebox::new()?;
        let pair = Pair::new();
        let arguments = ["node", "--listen", "[::]:7272", "--metrics", "off", "--cores", "0"];
        let node = RunningNode::start(&pair.there, &mut middlebox.inside(1, &command(&pair.there, arguments)));
        pair.meet(node.port);
        let address = Middlebox::address(1, is_v6, 7_272).to_string();
        run(&pair.here, ["profile", "edit", "second", "--address", &address]).exits(0);
        Some(Self { node, middlebox, pair })
    }

    /// A command that sends `source` to the second, or fetches it from there: `verb` is `send` or
    /// `get`.
    #[must_use]
    pub fn moving(&self, verb: &str, from: &std::path::Path, to: &std::path::Path, options: &[&str]) -> Command {
        let mut moving = command(&self.pair.here, [verb, "--json", "--cores", "1", "--retries", "0"]);
        moving.args(options);
        let there = |path: &std::path::Path| format!("second:{}", path.display());
        if verb == "send" {
            moving.arg(from).arg(there(to))
        } else {
            moving.arg(there(from)).arg(to)
        };
        self.middlebox.inside(0, &moving)
    }

    /// Runs [`MiddlePair::moving`].
    ///
    /// # Panics
    /// If the program does not start.
    #[must_use]
    pub fn moved(&self, verb: &str, from: &std::path::Path, to: &std::path::Path, options: &[&str]) -> Ran {
        self.moving(verb, from, to, options).output().expect("the program starts").into()
    }
}

fn forward(devices: &[OwnedFd; 2], shared: &Shared, rule: &Mutex<Rule>) {
    let mut late: Vec<(Instant, usize, Vec<u8>)> = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    while !shared.ends.load(Ordering::Relaxed) {
        let (mut fate, mut count) = (Fate::default(), 0);
        for (side, device) in devices.iter().enumerate() {
            for _ in 0..BATCH {
                let Ok(bytes) = rustix::io::read(device, &mut buffer) else { break };
                count += 1;
                // What belongs to neither family is the kernel's own business.
                let Some(packet) = Packet::parse(&buffer[..bytes]) else { continue };
                (rule.lock().expect("rules do not panic"))(side, packet, &buffer[..bytes], &mut fate);
            }
        }
        let injected = shared.injected.lock().map(|mut injected| std::mem::take(&mut *injected)).unwrap_or_default();
        let now = Instant::now();
        late.extend(fate.later.into_iter().map(|(wait, side, bytes)| (now + wait, side, bytes)));
        let (due, kept): (Vec<_>, Vec<_>) = late.into_iter().partition(|&(at, ..)| at <= now);
        late = kept;
        for (side, bytes) in
            injected.into_iter().chain(due.into_iter().map(|(_, side, bytes)| (side, bytes))).chain(fate.now)
        {
            // What a device does not accept is lost, as on any path.
            let _ = rustix::io::write(&devices[side], &bytes);
        }
        if count == 0 {
            let mut fds = devices.each_ref().map(|device| PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN));
            let _ = poll(&mut fds, Some(&NAP));
        }
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
