//! Hosts between which TCP passes but UDP does not: within seconds the user reads from where to
//! where nothing arrives, and what opens the way, and that does open it.
//!
//! Before, three transfers named three random ports, no option and no firewall command; and users
//! who fetched read their own host's address as the partner's.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use culvert_tests::lab::Lab;
use culvert_tests::node::{Pair, RunningNode};
use culvert_tests::program::{command, culvert, is_installed};

/// The latest that anything is said in a transfer; a loaded host may add to it.
const NOTICE_WITHIN: Duration = Duration::from_secs(5);
/// What a loaded host adds.
const LOAD: Duration = Duration::from_secs(20);

/// Two namespaces of which one, or both, refuse unsolicited UDP, as firewalls do.
struct FirewalledHosts {
    lab: Lab,
    pair: Pair,
    source: PathBuf,
}

impl FirewalledHosts {
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

    /// Makes a side accept no UDP.
    fn close(&self, side: usize) {
        self.drop_at(side, "meta l4proto udp drop");
    }

    fn drop_at(&self, side: usize, rule: &str) {
        self.refuse(side, "input", rule);
    }

    fn refuse(&self, side: usize, hook: &str, rule: &str) {
        let rules = format!(
            "add table inet filter; \
             add chain inet filter {hook} {{ type filter hook {hook} priority 0; policy accept; }}; \
             add rule inet filter {hook} {rule}"
        );
        self.lab.tool(side, "nft", &[&rules]);
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

    /// A stand-in for ssh to the second side.
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

    /// A transfer requested on the first side, over ssh or with the second's node.
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

/// What a refused transfer said.
struct Told {
    /// What it said first.
    first: String,
    /// After how long.
    within: Duration,
    /// The rest of standard error.
    rest: String,
    /// Standard output.
    document: String,
    code: i32,
}

/// Runs a transfer that is refused.
fn told(mut transfer: Command) -> Told {
    let began = Instant::now();
    let mut child = transfer.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    loop {
        first.clear();
        errors.read_line(&mut first).unwrap();
        // Which node carries it out is said before anything is known.
        if !first.contains("runs this as transfer") {
            break;
        }
    }
    let within = began.elapsed();
    let (mut rest, mut document) = (String::new(), String::new());
    errors.read_to_string(&mut rest).unwrap();
    child.stdout.take().unwrap().read_to_string(&mut document).unwrap();
    let code = child.wait().unwrap().code().unwrap();
    Told { first, within, rest, document, code }
}

/// The nftables commands in a text, as `nft` takes them.
fn rules(text: &str) -> Vec<&str> {
    text.split("nftables: nft ").skip(1).filter_map(|rest| rest.split(';').next()).collect()
}

/// The option for ports that a text suggests, and its value, if the ports were random.
fn options(text: &str) -> Vec<&str> {
    let advised = text.split("use other ports: add ").skip(1);
    advised.flat_map(|rest| rest.split([' ', ';', ',', '\n']).take(2)).collect()
}

/// Which datagrams are dropped by a host that accepts none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dropped {
    Data,
    Answers,
}

/// The host that receives the data, or the answers, accepts no UDP: reads what is said, does what
/// it says, and sees it work.
fn assert_told_and_mended(verb: &str, is_over_ssh: bool, dropped: Dropped) {
    let Some(walled) = FirewalledHosts::new() else { return };
    let _node = (!is_over_ssh).then(|| walled.node(&["--ports", "7273"]));
    let receiver = usize::from(verb == "send");
    let closed = if dropped == Dropped::Data { receiver } else { 1 - receiver };
    walled.close(closed);
    let Told { first, within, rest, code, .. } = told(walled.transfer(verb, is_over_ssh, &[]));
    eprintln!("{verb}, over ssh {is_over_ssh}, {dropped:?}, after {within:?}:\n{first}{rest}");
    assert!(within < NOTICE_WITHIN + LOAD, "said after {within:?}: {first}");
    assert_eq!(code, 5, "the partner cannot be reached: {first}{rest}");
    let (from, to) = if closed == 1 { ("10.96.0.1", "10.96.0.2") } else { ("10.96.0.2", "10.96.0.1") };
    for part in [
        &format!("({from})"),
        &format!("({to})"),
        "udp dport 7273 accept",
        &format!("ip saddr {from}"),
        &format!("for {from} on "),
        "port port=7273 protocol=udp accept",
        "ports",
    ] {
        assert!(first.contains(part), "'{part}' is not in: {first}");
    }
    // A sender hears the receiver or does not; a receiver knows which of the two it is.
    let (first_at, second_at) = (first.find(&format!("({from})")), first.find(&format!("({to})")));
    let is_certain = dropped == Dropped::Data || verb == "get";
    assert_eq!(first_at < second_at, is_certain, "the wrong way round: {first}");
    assert_eq!(rules(&first).len(), if is_certain { 1 } else { 2 }, "{first}");
    // The error by itself says what failed, and what opens the way is said only once.
    assert!(rest.contains(&format!("({from})")) && rest.contains(&format!("({to})")), "{rest}");
    assert!(rest.contains("does not get through") && rest.contains("see above"), "{rest}");
    assert!(!rest.contains("nft") && !rest.contains("firewall-cmd"), "said twice: {first}{rest}");
    // Doing what it says is enough.
    for rule in rules(&first) {
        let side = usize::from(rule.contains("saddr 10.96.0.1"));
        if side == closed {
            walled.lab.tool(side, "nft", &[rule]);
        }
    }
    let output = walled.transfer(verb, is_over_ssh, &options(&first)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn closed_ports_of_a_far_end_are_told_and_how_to_open_them() {
    assert_told_and_mended("send", true, Dropped::Data);
}

#[test]
fn closed_ports_of_who_fetches_over_ssh_are_told_and_how_to_open_them() {
    assert_told_and_mended("get", true, Dropped::Data);
}

#[test]
fn closed_ports_of_a_node_are_told_and_how_to_open_them() {
    assert_told_and_mended("send", false, Dropped::Data);
}

#[test]
fn closed_ports_of_who_fetches_from_a_node_are_told_and_how_to_open_them() {
    assert_told_and_mended("get", false, Dropped::Data);
}

/// Regression: users who fetched were told after six seconds, and to open the way that was open.
#[test]
fn a_far_end_that_gets_no_answers_is_told_of_in_time() {
    assert_told_and_mended("get", true, Dropped::Answers);
}

#[test]
fn a_node_that_gets_no_answers_is_told_of_in_time() {
    assert_told_and_mended("get", false, Dropped::Answers);
}

#[test]
fn who_sends_over_ssh_and_gets_no_answers_is_told_how_to_open_their_way_too() {
    assert_told_and_mended("send", true, Dropped::Answers);
}

#[test]
fn who_sends_to_a_node_and_gets_no_answers_is_told_how_to_open_their_way_too() {
    assert_told_and_mended("send", false, Dropped::Answers);
}

/// Regression: the same cause ended with 1 over ssh and with 5 between nodes.
#[test]
fn a_closed_tcp_port_ends_with_5_over_ssh_and_between_nodes() {
    let Some(walled) = FirewalledHosts::new() else { return };
    let _node = walled.node(&[]);
    walled.drop_at(1, "tcp flags syn reject with tcp reset");
    for is_over_ssh in [true, false] {
        let ran = told(walled.transfer("send", is_over_ssh, &["--json"]));
        assert_eq!(ran.code, 5, "{}{}", ran.first, ran.rest);
        let document: serde_json::Value = serde_json::from_str(&ran.document).unwrap();
        assert_eq!(document["error"]["code"], "temporary", "{document}");
        assert!(ran.first.contains("10.96.0.2"), "{}", ran.first);
    }
}

/// Regression: the advised rule opened a port that the next transfer did not use; and users who
/// fetched were to open their own host's input, which was open.
#[test]
fn what_a_senders_own_host_refuses_is_told_with_what_opens_it() {
    //= W-61
    //# Since version 8, a sender whose own host refuses to send its first datagrams (`EPERM`: a
    //# rule of the host's output chain) says so with `RefusedHere`, at most once, after `PlanEnd`.
    //# The receiver, which cannot see the reason why nothing arrives, then tells its user which
    //# host's firewall to open.
    for (verb, sender) in [("send", 0), ("get", 1)] {
        let Some(walled) = FirewalledHosts::new() else { return };
        walled.refuse(sender, "output", "meta l4proto udp drop");
        let Told { first, within, rest, code, .. } = told(walled.transfer(verb, true, &[]));
        eprintln!("{verb}, after {within:?}:\n{first}{rest}");
        assert!(code == 5 && within < NOTICE_WITHIN + LOAD, "{first}{rest}");
        let to = if sender == 0 { "10.96.0.2" } else { "10.96.0.1" };
        for part in ["is blocked by a firewall on", "itself", &format!("output ip daddr {to} udp dport 7273 accept")] {
            assert!(first.contains(part), "'{part}' is not in: {first}");
        }
        assert!(!format!("{first}{rest}").contains("input"), "{first}{rest}");
        assert_eq!(options(&first).len(), 2, "{first}");
        rules(&first).into_iter().for_each(|rule| walled.lab.tool(sender, "nft", &[rule]));
        let mended = walled.transfer(verb, true, &options(&first)).output().unwrap();
        assert!(mended.status.success(), "{}", String::from_utf8_lossy(&mended.stderr));
    }
}

/// Regression: nothing was said for ten seconds, and then to look for a node, which there is not
/// over ssh.
#[test]
fn a_far_ends_closed_tcp_port_is_told_in_time_with_what_opens_it() {
    let Some(walled) = FirewalledHosts::new() else { return };
    walled.drop_at(1, "meta l4proto tcp drop");
    let Told { first, within, rest, code, .. } = told(walled.transfer("send", true, &[]));
    eprintln!("after {within:?}:\n{first}{rest}");
    assert!(first.starts_with("culvert: TCP from ") && first.contains("has not been answered for 3 s"), "{first}");
    assert!(code == 5 && !rest.contains("nft") && rest.contains("for 10 s"), "{first}{rest}");
    assert!(!first.contains("node running") && !rest.contains("node running"), "{first}{rest}");
    rules(&first).into_iter().for_each(|rule| walled.lab.tool(1, "nft", &[rule]));
    let output = walled.transfer("send", true, &options(&first)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A port that was chosen is opened, and no other one.
    let chosen = told(walled.transfer("send", true, &["--remote-ports", "7300"]));
    assert!(chosen.first.contains("tcp dport 7300 accept") && !chosen.first.contains("--remote-ports"));
}

/// If no notice is shown, the error has all of it; a document always does.
#[test]
fn an_error_has_what_was_not_said_before() {
    let Some(walled) = FirewalledHosts::new() else { return };
    walled.close(1);
    let quiet = told(walled.transfer("send", true, &["--quiet"]));
    assert_eq!((quiet.code, rules(&quiet.first).len()), (5, 1), "{}", quiet.first);
    let json = told(walled.transfer("send", true, &["--json"]));
    let document: serde_json::Value = serde_json::from_str(&json.document).unwrap();
    let error = &document["error"];
    assert_eq!((&error["code"], &error["exit_code"]), (&"temporary".into(), &5.into()), "{document}");
    assert_eq!(rules(error["text"].as_str().unwrap()).len(), 1, "{document}");
}

/// Regression: for fifteen seconds there was "waiting before the next attempt" and nothing else.
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
    let Told { first, rest, code, .. } = told(sending);
    let all = format!("{first}{rest}");
    assert_eq!(code, 5, "{all}");
    assert!(first.contains("refused") && first.contains(&port.to_string()) && first.contains("retrying"), "{all}");
    assert_eq!(all.matches("retrying").count(), 1, "the same reason is said once: {all}");
}
