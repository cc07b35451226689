//! ICMP can at most slow a flow down: forged errors of every kind, towards both ends, in both
//! families, before and during transfers.
//!
//! ```text
//! cargo xtask test icmp -- --nocapture            prints the goodput with and without
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use culvert_tests::middlebox::{MiddlePair, Middlebox, Rule, honest};
use culvert_tests::packets::{IcmpError, Packet, imagined};
use culvert_tests::program::{Ran, command};
use culvert_tests::random::Random;
use serde_json::Value;

/// The rate of every transfer: far below what the path and this host can do, so that only the
/// attack can make one slower; and so low that a transfer takes long compared with the start of its
/// processes, which other work on the host delays.
const RATE: &str = "40M";
const BYTES: usize = 6 << 20;
/// Rounds with and without an attack, alternating. The number is fixed: adding rounds until the
/// ratio is right would eventually find it right.
const ROUNDS: usize = 5;
/// Goodput under attack, as a fraction of that without.
const GOODPUT_MIN: f64 = 0.9;
/// A node's UDP port, which everybody knows.
const NODE_PORT: u16 = 7_273;
/// One in this many packets of the path is answered with an error.
const PACKETS_PER_ERROR: u64 = 3;

/// One transfer in each direction.
struct Moved {
    segment_bytes: [u64; 2],
    goodput: [f64; 2],
    resent: [f64; 2],
}

struct Scene {
    ends: MiddlePair,
    source: PathBuf,
    is_v6: bool,
    number: usize,
}

impl Scene {
    fn new(is_v6: bool) -> Option<Self> {
        let ends = MiddlePair::start(is_v6)?;
        let source = ends.pair.shared.join("source");
        fs::write(&source, Random::new(7).bytes(BYTES)).unwrap();
        Some(Self { ends, source, is_v6, number: 0 })
    }

    fn transfer(&mut self) -> Moved {
        self.number += 1;
        let number = self.number;
        let moved = ["send", "get"].map(|verb| {
            let to = match verb {
                "send" => self.ends.pair.shared.join(format!("sent{number}")),
                _ => self.ends.pair.path(&format!("fetched{number}")),
            };
            let ran = self.ends.moved(verb, &self.source, &to, &["--rate", RATE]).exits(0);
            assert!(same(&self.source, &to), "{verb}: not what was sent");
            fs::remove_file(to).unwrap();
            ran.json()
        });
        let of = |name: &str| moved.each_ref().map(|result: &Value| result[name].as_f64().unwrap());
        Moved {
            segment_bytes: of("segment_bytes").map(|bytes| bytes as u64),
            goodput: of("goodput_bps"),
            resent: of("loss"),
        }
    }

    /// Sends both ends everything that somebody who has seen nothing can claim: about the node's
    /// port, about guessed ports, about an echo.
    fn tell_everything_blindly(&self) {
        for error in IcmpError::table(self.is_v6) {
            for victim in 0..2 {
                let address = |side, port| Middlebox::address(side, self.is_v6, port);
                for (ours, theirs) in [(NODE_PORT, NODE_PORT), (NODE_PORT, 9), (0, 0)] {
                    let quoted = imagined(address(victim, ours), address(1 - victim, theirs));
                    // As the partner, and as an unrelated router.
                    for from in [address(1 - victim, 0).ip(), address(8, 0).ip()] {
                        self.ends.middlebox.inject(victim, error.about(&quoted, from));
                    }
                }
            }
        }
        self.ends.middlebox.flush();
    }

    fn route_of(&self, side: usize) -> String {
        let partner = Middlebox::address(1 - side, self.is_v6, 0).ip().to_string();
        self.ends.middlebox.tool(side, "ip", &["route", "get", &partner])
    }
}

fn same(one: &Path, other: &Path) -> bool {
    fs::read(one).unwrap() == fs::read(other).unwrap()
}

/// Answers the transfer's own packets, UDP and TCP in both directions, with one error after
/// another, and passes them on.
fn quoting(is_v6: bool, told: Arc<AtomicU64>) -> Rule {
    let table = IcmpError::table(is_v6);
    let mut seen = 0;
    Box::new(move |side, packet: Packet, bytes, fate| {
        fate.pass(side, bytes);
        if !packet.is_udp() && !packet.is_tcp() {
            return;
        }
        seen += 1;
        // Whoever sees the first packet of a connection can refuse it; a reset would do so, too.
        let is_syn = packet.is_tcp() && bytes[packet.transport + 13] & 0x02 != 0;
        if seen % PACKETS_PER_ERROR == 0 && !is_syn && packet.from.is_ipv6() == is_v6 {
            let error = table[(told.fetch_add(1, Ordering::Relaxed) % table.len() as u64) as usize];
            fate.now.push((side, error.about(bytes, packet.to.ip())));
        }
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Transfers under attack perform as others do.
fn compare(scene: &mut Scene, name: &str, attack: &dyn Fn(&Scene), relief: &dyn Fn(&Scene)) {
    let data_plane = scene.ends.node.data_plane();
    let (mut calm, mut attacked) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        relief(scene);
        calm.push(scene.transfer());
        attack(scene);
        attacked.push(scene.transfer());
    }
    relief(scene);
    let ratios = [0, 1].map(|at| goodput(&attacked, at) / goodput(&calm, at));
    assert_eq!(scene.ends.node.data_plane(), data_plane, "{name}: the data plane was restarted");
    let family = if scene.is_v6 { "IPv6" } else { "IPv4" };
    for (at, verb) in ["send", "get"].into_iter().enumerate() {
        let resent = median(attacked.iter().map(|moved| moved.resent[at]).collect());
        eprintln!(
            "{family} {name} {verb}: {:.1} Mb/s without, {:.1} with: {:.3}; {:.2} % sent again, segments of {} bytes",
            goodput(&calm, at) / 1e6,
            goodput(&attacked, at) / 1e6,
            ratios[at],
            resent * 100.0,
            attacked[0].segment_bytes[at],
        );
        for moved in &attacked {
            assert_eq!(moved.segment_bytes[at], calm[0].segment_bytes[at], "{family} {name} {verb}");
        }
        assert!(ratios[at] >= GOODPUT_MIN, "{family} {name} {verb}: {:.3} of the goodput", ratios[at]);
        assert!(resent <= 0.01, "{family} {name} {verb}: {resent} of the segments were sent again");
    }
}

fn goodput(moved: &[Moved], at: usize) -> f64 {
    median(moved.iter().map(|moved| moved.goodput[at]).collect())
}

fn blind(is_v6: bool) {
    let Some(mut scene) = Scene::new(is_v6) else { return };
    let attack = |scene: &Scene| {
        scene.tell_everything_blindly();
        // The attack is effective: both kernels believe it.
        for side in 0..2 {
            let route = scene.route_of(side);
            // Below the smallest MTU that it believes, the kernel "locks" the MTU.
            assert!(route.contains(if is_v6 { "mtu 1280" } else { "mtu lock 552" }), "side {side}: {route}");
        }
    };
    let relief = |scene: &Scene| {
        for (side, family) in [(0, "-4"), (1, "-4"), (0, "-6"), (1, "-6")] {
            let _ = scene.ends.middlebox.tool(side, "ip", &[family, "route", "flush", "cache"]);
        }
    };
    compare(&mut scene, "blind, before", &attack, &relief);
}

#[test]
fn what_strangers_say_of_the_path_before_a_transfer_changes_nothing() {
    //= W-12
    //# Information from ICMP is ignored: both the kernel's cached path MTU and socket errors.
    blind(false);
    blind(true);
}

/// A host whose admin lets the kernel believe any MTU.
#[test]
fn the_least_mtu_that_a_kernel_can_be_made_to_believe_changes_nothing() {
    let Some(mut scene) = Scene::new(false) else { return };
    for side in 0..2 {
        let set = ["-c", "echo 128 > /proc/sys/net/ipv4/route/min_pmtu"];
        let _ = scene.ends.middlebox.tool(side, "sh", &set);
    }
    let attack = |scene: &Scene| {
        scene.tell_everything_blindly();
        assert!(scene.route_of(0).contains("mtu lock 128"), "{}", scene.route_of(0));
    };
    let relief = |scene: &Scene| {
        for side in 0..2 {
            let _ = scene.ends.middlebox.tool(side, "ip", &["route", "flush", "cache"]);
        }
    };
    compare(&mut scene, "blind, MTU 128", &attack, &relief);
}

#[test]
fn what_is_said_of_the_transfers_own_packets_changes_nothing() {
    //= W-12
    //# Information from ICMP is ignored: both the kernel's cached path MTU and socket errors.
    for is_v6 in [false, true] {
        let Some(mut scene) = Scene::new(is_v6) else { return };
        let told = Arc::new(AtomicU64::new(0));
        let attack = |scene: &Scene| scene.ends.middlebox.set_rule(quoting(is_v6, told.clone()));
        let relief = |scene: &Scene| {
            scene.ends.middlebox.set_rule(honest());
            for side in 0..2 {
                let family = if is_v6 { "-6" } else { "-4" };
                let _ = scene.ends.middlebox.tool(side, "ip", &[family, "route", "flush", "cache"]);
            }
        };
        compare(&mut scene, "quoting, during", &attack, &relief);
        let told = told.load(Ordering::Relaxed);
        assert!(told > 1_000, "only {told} errors were sent");
    }
}

/// A path check reports what it hears and is not misled by it.
#[test]
fn what_is_said_of_a_path_checks_probes_changes_no_result() {
    for is_v6 in [false, true] {
        let Some(scene) = Scene::new(is_v6) else { return };
        let told = Arc::new(AtomicU64::new(0));
        scene.ends.middlebox.set_rule(quoting(is_v6, told.clone()));
        let arguments =
            ["path", "check", "second", "--seconds", "0.5", "--packets-per-second", "400", "--rate", "20M", "--json"];
        let mut checking = scene.ends.middlebox.inside(0, &command(&scene.ends.pair.here, arguments));
        let found = Ran::from(checking.output().unwrap()).exits(0).json();
        assert!(told.load(Ordering::Relaxed) > 100, "only {told:?} errors were sent");
        for side in ["send", "receive"] {
            let direction = &found[side];
            assert_eq!(
                (direction["mtu"]["bytes"].as_u64(), direction["mtu"]["limit"].as_str()),
                (Some(1_500), Some("interface")),
                "{found}"
            );
            assert_eq!(direction["delivery"]["received"], direction["delivery"]["sent"], "{found}");
        }
        assert_eq!(found["complete"], true, "{found}");
    }
}
