//! Hosts between which TCP passes and UDP does not: the user reads within seconds from where to where nothing comes, and
//! what opens the way, and that does open it.
//!
//! Before, three transfers named three ports that had come by chance, no option and no firewall's command; and who fetched
//! read its own host's address as the partner's.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use culvert_tests::lab::Lab;
use culvert_tests::node::{Pair, RunningNode};
use culvert_tests::program::{command, culvert, is_installed};

/// What is said comes after this time of a transfer at the latest; a loaded host may add to it.
const NOTICE_WITHIN: Duration = Duration::from_secs(5);
/// What a loaded host adds.
const LOAD: Duration = Duration::from_secs(20);

/// Two namespaces of which one, or both, refuse UDP that nobody asked for, as firewalls do.
struct Walled {
    lab: Lab,
    pair: Pair,
    source: PathBuf,
}

impl Walled {
    fn new() -> Option<Self> {
        if !is_installed("nft") {
            eprintln!("skipped: nft (nftables) is not installed");
            return None;
        }
        let lab = Lab::new(1_500)?;
        let pair = Pair::new();
        let source = pair.shared.join("source");
        fs::write(&source, "content").unwrap();
        Some(Self { lab, pair, source })
    }

    /// A side takes no UDP.
    fn close(&self, side: usize) {
        let rules = "add table inet filter; \
                     add chain inet filter input { type filter hook input priority 0; policy accept; }; \
                     add rule inet filter input meta l4proto udp drop";
        self.lab.tool(side, "nft", &[rules]);
    }

    fn node(&self, options: &[&str]) -> RunningNode {
        let mut starting = command(&self.pair.there, ["node", "--listen", "10.96.0.2:7272", "--metrics", "off"]);
        starting.args(["--cores", "0"]).args(options);
        let node = RunningNode::start(&self.pair.there, &mut self.lab.inside(1, &starting));
        self.pair.meet(node.port);
        let edit = ["profile", "edit", "second", "--address", "10.96.0.2:7272"];
        culvert_tests::program::run(&self.pair.here, edit).exits(0);
        node
    }

    /// What stands in for ssh to the second side.
    fn ssh(&self) -> PathBuf {
        let script = self.pair.path("ssh");
        let text = format!(
            "#!/bin/sh\n\
             for word in \"$@\"; do [ \"$word\" = -G ] && {{ echo 'hostname 10.96.0.2'; exit 0; }}; done\n\
             while [ \"$1\" != -- ]; do shift; done\n\
             shift 2\n\
             export CULVERT_STATE='{}' SSH_CONNECTION='10.96.0.1 1 10.96.0.2 22'\n\
             exec ip netns exec {} sh -c \"$*\"\n",
            self.pair.path("far").display(),
            self.lab.names()[1]
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        script
    }

    /// A transfer asked for on the first side, over ssh or with the second's node.
    fn transfer(&self, verb: &str, is_over_ssh: bool, options: &[&str]) -> Command {
        let host = if is_over_ssh { "u@10.96.0.2" } else { "second" };
        let mut asking = command(&self.pair.here, [verb, "--retries", "0", "--cores", "0"]);
        if is_over_ssh {
            asking.arg("--ssh").arg(self.ssh()).arg("--remote-program").arg(culvert()).args(["--remote-cores", "0"]);
        }
        asking.args(options);
        let remote = |path: &Path| format!("{host}:{}", path.display());
        match verb {
            "send" => asking.arg(&self.source).arg(remote(&self.pair.shared.join("in/"))),
            _ => asking.arg(remote(&self.source)).arg(self.pair.path("fetched")),
        };
        self.lab.inside(0, &asking)
    }
}

/// Runs a transfer that is refused; what it says first and when, all that it says, and its exit code.
fn told(mut transfer: Command) -> (String, Duration, String, i32) {
    let began = Instant::now();
    let mut child = transfer.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    errors.read_line(&mut first).unwrap();
    let within = began.elapsed();
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    let code = child.wait().unwrap().code().unwrap();
    (first.clone(), within, first + &rest, code)
}

/// Closes what receives, reads what is said, does what it says, and sees it work.
fn assert_told_and_mended(verb: &str, is_over_ssh: bool) {
    let Some(walled) = Walled::new() else { return };
    let _node = (!is_over_ssh).then(|| walled.node(&[]));
    let (receiver, from, to) =
        if verb == "send" { (1, "10.96.0.1", "10.96.0.2") } else { (0, "10.96.0.2", "10.96.0.1") };
    walled.close(receiver);
    let (first, within, all, code) = told(walled.transfer(verb, is_over_ssh, &[]));
    assert!(within < NOTICE_WITHIN + LOAD, "said after {within:?}: {first}");
    assert_eq!(code, 1, "{all}");
    let option = if verb == "send" && is_over_ssh { "--remote-ports" } else { "--ports" };
    for told in [&first, &all] {
        for part in [
            &format!("({from})"),
            &format!("({to})"),
            "udp dport 7273 accept",
            &format!("ip saddr {from}"),
            "port port=7273 protocol=udp accept",
            option,
        ] {
            assert!(told.contains(part), "'{part}' is not in: {told}");
        }
        let (first_at, second_at) = (told.find(&format!("({from})")), told.find(&format!("({to})")));
        assert!(first_at < second_at, "the wrong way round: {told}");
    }
    // What it says is done, and is enough.
    let rule = all.split("nftables: nft ").nth(1).and_then(|rest| rest.split(';').next()).unwrap();
    walled.lab.tool(receiver, "nft", &[rule]);
    let options: &[&str] = if option == "--ports" && verb == "send" { &[] } else { &[option, "7273"] };
    let output = walled.transfer(verb, is_over_ssh, options).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn closed_ports_of_a_far_end_are_told_and_how_to_open_them() {
    assert_told_and_mended("send", true);
}

#[test]
fn closed_ports_of_who_fetches_over_ssh_are_told_and_how_to_open_them() {
    assert_told_and_mended("get", true);
}

#[test]
fn closed_ports_of_a_node_are_told_and_how_to_open_them() {
    assert_told_and_mended("send", false);
}

#[test]
fn closed_ports_of_who_fetches_from_a_node_are_told_and_how_to_open_them() {
    assert_told_and_mended("get", false);
}

/// For fifteen seconds there was "waiting before another try" and nothing else.
#[test]
fn what_a_try_ended_with_is_said_before_the_next() {
    let pair = Pair::new();
    let node = pair.start();
    let port = node.port;
    node.kill();
    fs::write(pair.path("file"), "content").unwrap();
    let destination = format!("second:{}", pair.shared.join("in").display());
    let mut sending = command(&pair.here, ["send", "--retries", "2"]);
    sending.arg(pair.path("file")).arg(destination);
    let (first, _, all, code) = told(sending);
    assert_eq!(code, 5, "{all}");
    assert!(first.contains("refused") && first.contains(&port.to_string()) && first.contains("tried again"), "{all}");
    assert_eq!(all.matches("tried again").count(), 1, "the same reason is said once: {all}");
}
