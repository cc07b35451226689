//! AF_XDP and the kernel's tables: gateways and neighbours that change in the middle of a transfer
//! are learned, and the lanes continue through the rings.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use culvert_tests::lab::Lab;
use culvert_tests::node::PATIENCE;
use culvert_tests::program::{Ran, command};
use culvert_tests::sides::Sides;

/// Bytes to move: enough for several seconds at [`RATE`].
const BYTES: usize = 96 << 20;
const RATE: &str = "150M";
/// Packets in a row that leave through the rings alone before a route counts as learned.
const PACKETS: u64 = 300;

/// What differs between the families.
struct Family {
    flag: &'static str,
    /// The first side's address and prefix, behind its gateways.
    here: &'static str,
    /// The second side's.
    there: &'static str,
    host_prefix: &'static str,
    /// The second side's address on the link.
    next_there: &'static str,
    /// The addresses of the first side's gateways on the link.
    gateways: [&'static str; 2],
}

const FAMILIES: [Family; 2] = [
    Family {
        flag: "-4",
        here: "10.99.0.1",
        there: "10.97.0.1",
        host_prefix: "32",
        next_there: "10.96.0.2",
        gateways: ["10.96.0.11", "10.96.0.12"],
    },
    Family {
        flag: "-6",
        here: "fd99::1",
        there: "fd97::1",
        host_prefix: "128",
        next_there: "fd96::2",
        gateways: ["fd96::11", "fd96::12"],
    },
];

/// Two sides whose hosts' addresses are behind the link, with two gateways to the first one:
/// interfaces with their own addresses.
struct Routed {
    sides: Sides,
    family: &'static Family,
}

impl Routed {
    fn start(family: &'static Family) -> Option<Self> {
        let lab = Lab::new(1_500)?;
        let (ours, theirs) = (lab.link(0).to_owned(), lab.link(1).to_owned());
        // Only a gateway's own interface answers for its address.
        lab.tool(0, "sysctl", &["-q", "net.ipv4.conf.all.arp_ignore=1"]);
        for (name, address) in ["way0", "way1"].into_iter().zip(family.gateways) {
            let mut add = Command::new("ip");
            add.args(["link", "add", name, "link", &ours, "type", "macvlan", "mode", "bridge"]);
            if !lab.inside(0, &add).status().expect("ip runs").success() {
                eprintln!("skipped: this kernel has no macvlan");
                return None;
            }
            let with_prefix = format!("{address}/{}", family.host_prefix);
            let mut words = vec!["addr", "add", &with_prefix, "dev", name];
            words.extend((family.flag == "-6").then_some("nodad"));
            lab.tool(0, "ip", &words);
            lab.tool(0, "ip", &["link", "set", name, "up"]);
        }
        for (side, own) in [(0, family.here), (1, family.there)] {
            let with_prefix = format!("{own}/{}", family.host_prefix);
            let mut words = vec!["addr", "add", &with_prefix, "dev", "lo"];
            // On a busy host even an address of the loopback interface is tentative for a moment.
            words.extend((family.flag == "-6").then_some("nodad"));
            lab.tool(side, "ip", &words);
        }
        let way =
            [family.flag, "route", "add", family.there, "via", family.next_there, "dev", &ours, "src", family.here];
        lab.tool(0, "ip", &way);
        let way = [family.flag, "route", "add", family.here, "via", family.gateways[0], "dev", &theirs];
        lab.tool(1, "ip", &[&way[..], &["src", family.there]].concat());
        let address = if family.flag == "-6" { format!("[{}]", family.there) } else { family.there.to_owned() };
        let sides = Sides::over(lab, &address, &["--cores", "0", "--interface", &theirs]);
        Some(Self { sides, family })
    }

    /// Fetches a file over UDP sockets from the node, whose lane sends it through its rings.
    fn start_getting(&self) -> Child {
        let source = self.sides.large_source(BYTES);
        let stored = self.sides.pair.shared.join("large");
        fs::rename(source, &stored).unwrap();
        let mut getting = command(&self.sides.pair.here, ["get", "--json", "--datapath", "udp", "--cores", "1"]);
        getting.args(["--rate", RATE]).arg(format!("second:{}", stored.display())).arg(self.sides.pair.path("got"));
        self.sides.lab.inside(0, &getting).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn finish(&self, child: Child) {
        Ran::from(child.wait_with_output().unwrap()).exits(0);
        let (stored, got) = (self.sides.pair.shared.join("large"), self.sides.pair.path("got"));
        assert!(fs::read(stored).unwrap() == fs::read(got).unwrap());
    }

    /// Datagrams that the node's lane has sent through its rings and through the kernel.
    fn sent(&self) -> (u64, u64) {
        let status = self.sides.status();
        let lane = &status["dataplane"]["lanes"][0];
        (lane["ring_sent"].as_u64().unwrap(), lane["kernel_sent"].as_u64().unwrap())
    }

    /// Packets that a gateway of the first side has received.
    fn arrived(&self, gateway: usize) -> u64 {
        let path = format!("/sys/class/net/way{gateway}/statistics/rx_packets");
        // `ip netns exec` mounts the namespace's own /sys.
        let output = self.sides.lab.inside(0, Command::new("cat").arg(path)).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    }

    /// Waits until this many packets in a row leave through the rings alone and arrive at a
    /// gateway.
    fn sends_through_rings_to(&self, gateway: usize) {
        let began = Instant::now();
        let (mut rings_before, mut kernel_before) = self.sent();
        let mut arrived_before = self.arrived(gateway);
        loop {
            std::thread::sleep(Duration::from_millis(20));
            let (rings, kernel) = self.sent();
            let arrived = self.arrived(gateway);
            if kernel > kernel_before {
                (rings_before, kernel_before, arrived_before) = (rings, kernel, arrived);
            } else if rings >= rings_before + PACKETS && arrived >= arrived_before + PACKETS {
                return;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "gateway {gateway} got {} of {} sent through the rings since the kernel last sent one",
                arrived - arrived_before,
                rings - rings_before
            );
        }
    }

    fn ip(&self, side: usize, words: &[&str]) {
        self.sides.lab.tool(side, "ip", &[&[self.family.flag], words].concat());
    }
}

#[test]
fn a_gateway_that_changes_is_learned() {
    for family in &FAMILIES {
        let Some(routed) = Routed::start(family) else { return };
        let child = routed.start_getting();
        routed.sends_through_rings_to(0);
        let theirs = routed.sides.lab.link(1);
        let way = ["route", "replace", family.here, "via", family.gateways[1], "dev", theirs, "src", family.there];
        routed.ip(1, &way);
        routed.sends_through_rings_to(1);
        // And the first one is no longer needed.
        routed.ip(0, &["link", "set", "way0", "down"]);
        routed.finish(child);
    }
}

#[test]
fn a_neighbour_that_is_deleted_is_found_again_at_its_new_address() {
    for family in &FAMILIES {
        let Some(routed) = Routed::start(family) else { return };
        let child = routed.start_getting();
        routed.sends_through_rings_to(0);
        // The gateway is another machine from now on, and nobody announces it.
        routed.ip(0, &["link", "set", "way0", "address", "02:00:00:00:00:99"]);
        routed.ip(1, &["neigh", "del", family.gateways[0], "dev", routed.sides.lab.link(1)]);
        routed.sends_through_rings_to(0);
        routed.finish(child);
    }
}
