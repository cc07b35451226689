//! Which interface AF_XDP uses without being told: the one that leads to the partner, and never the
//! one of the caller's ssh connection.

use std::process::{Command, Stdio};

use culvert_tests::lab::Lab;
use culvert_tests::node::wait_for;
use culvert_tests::program::Ran;
use culvert_tests::sides::Sides;

/// Two links between the sides, with the node on the first one. Also returns the first side's name
/// for the second link.
fn two_links() -> Option<(Sides, String)> {
    let lab = Lab::new(1_500)?;
    let [second, _] = lab.add_link();
    let theirs = lab.link(1).to_owned();
    Some((Sides::over(lab, "10.96.0.2", &["--cores", "0", "--interface", &theirs]), second))
}

/// An ssh connection from somebody on the second side to the first one, over a given network.
fn ssh(network: &str) -> String {
    format!("{network}.2 50000 {network}.1 22")
}

/// A program of the first side's caller, who connected over ssh or did not.
fn over_ssh(mut sending: Command, ssh: Option<&str>) -> Command {
    match ssh {
        Some(ssh) => sending.env("SSH_CONNECTION", ssh),
        None => sending.env_remove("SSH_CONNECTION"),
    };
    sending
}

#[test]
fn of_two_interfaces_the_one_that_leads_to_the_partner_is_taken() {
    let Some((sides, second)) = two_links() else { return };
    let source = sides.large_source(24 << 20);
    for ssh in [None, Some(ssh("10.98.0"))] {
        let sending = sides.sending(&source, &["--rate", "100M", "--overwrite", "always"]);
        let mut sending = over_ssh(sending, ssh.as_deref());
        let child = sending.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("a program on the interface", || sides.link(0).contains("prog/xdp").then_some(()));
        let mut shown = Command::new("ip");
        shown.args(["-d", "link", "show", "dev", &second]);
        let shown = sides.lab.inside(0, &shown).output().unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains(&second) && !shown.contains("prog/xdp"), "{shown}");
        let ran: Ran = child.wait_with_output().unwrap().into();
        assert_eq!(ran.exits(0).json()["datapath"], "af_xdp", "ssh: {ssh:?}");
    }
}

#[test]
fn the_interface_of_the_ssh_connection_must_be_named() {
    let Some((sides, _)) = two_links() else { return };
    let source = sides.source();
    let ours = sides.lab.link(0).to_owned();
    let ssh = ssh("10.96.0");
    let ran = Ran::from(over_ssh(sides.sending(&source, &[]), Some(&ssh)).output().unwrap()).exits(0);
    let said = format!("{ours}, which leads to 10.96.0.2, carries this ssh connection: name one with --interface");
    assert!(ran.err.contains(&said) && ran.err.contains("UDP sockets are used"), "{said}: {ran:?}");
    assert_eq!(ran.json()["datapath"], "udp", "{ran:?}");

    let again = ["--overwrite", "always", "--interface", &ours];
    let ran = Ran::from(over_ssh(sides.sending(&source, &again), Some(&ssh)).output().unwrap()).exits(0);
    assert_eq!(ran.json()["datapath"], "af_xdp", "{ran:?}");
}

#[test]
fn without_a_partner_the_only_interface_beside_the_ssh_connections_is_taken() {
    let Some(lab) = Lab::new(1_500) else { return };
    let [_, second] = lab.add_link();
    let first = lab.link(1).to_owned();
    let environment = [("SSH_CONNECTION", "10.98.0.1 50000 10.98.0.2 22".into())];
    let sides = Sides::with_environment(lab, "10.96.0.2", &["--cores", "0"], &environment);
    assert!(sides.link(1).contains("prog/xdp"), "{first} beside {second}: {}", sides.link(1));
    drop(sides);

    // Two candidates: it says so and does without.
    let Some(lab) = Lab::new(1_500) else { return };
    let [_, second] = lab.add_link();
    let sides = Sides::over(lab, "10.96.0.2", &["--cores", "0"]);
    let plane = &sides.status()["dataplane"];
    assert_eq!(plane["datapath"], "udp", "{plane}");
    let why = plane["refusals"][0].as_str().unwrap_or_default();
    assert!(why.contains("several are up") && why.contains(&second) && why.contains("--interface"), "{plane}");
}
