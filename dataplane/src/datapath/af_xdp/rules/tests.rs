//! Rules in a table that is played here, and the bytes of a rule beside those that a C compiler
//! makes of the kernel's own header.

use std::collections::BTreeMap;
use std::process::Command;

use super::spec::Spec;
use super::*;

/// A NIC of [`Fake::size`] rules.
#[derive(Debug)]
struct Fake {
    rules: BTreeMap<u32, Spec>,
    size: u32,
    chooses_locations: bool,
    is_on: bool,
    /// What reading the table says.
    unreadable: Option<i32>,
    /// What each change says.
    refuses: Option<i32>,
    /// Whether it forgets the queue of a rule.
    forgets: bool,
}

fn table() -> Fake {
    let rules = BTreeMap::new();
    Fake { rules, size: 8, chooses_locations: false, is_on: true, unreadable: None, refuses: None, forgets: false }
}

fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl RuleTable for Fake {
    fn state(&mut self) -> io::Result<TableState> {
        match self.unreadable {
            Some(errno) => Err(os(errno)),
            None => Ok(TableState {
                rules: self.rules.len() as u32,
                size: self.size,
                chooses_locations: self.chooses_locations,
                is_on: self.is_on,
            }),
        }
    }

    fn locations(&mut self, count: u32) -> io::Result<Vec<u32>> {
        if self.rules.len() > count as usize {
            return Err(os(libc::EMSGSIZE));
        }
        Ok(self.rules.keys().copied().collect())
    }

    fn get(&mut self, location: u32) -> io::Result<Spec> {
        self.rules.get(&location).copied().ok_or_else(|| os(libc::ENOENT))
    }

    fn insert(&mut self, spec: &Spec) -> io::Result<u32> {
        if let Some(errno) = self.refuses {
            return Err(os(errno));
        }
        let location = match spec.location() {
            ANY_LOCATION if self.chooses_locations => {
                (0..self.size).find(|location| !self.rules.contains_key(location)).ok_or_else(|| os(libc::ENOSPC))?
            }
            location if location < self.size => location,
            _ => return Err(os(libc::EINVAL)),
        };
        let rule = spec.rule().ok_or_else(|| os(libc::EINVAL))?;
        let queue = if self.forgets { 0 } else { rule.queue };
        self.rules.insert(location, Spec::of(Rule { queue, ..rule }, location));
        Ok(location)
    }

    fn delete(&mut self, location: u32) -> io::Result<()> {
        if let Some(errno) = self.refuses {
            return Err(os(errno));
        }
        self.rules.remove(&location).map(|_| ()).ok_or_else(|| os(libc::ENOENT))
    }
}

const fn rule(family: Family, port: u16, queue: u32) -> Rule {
    Rule { family, port, queue }
}

/// Two lanes with a port and a queue each.
fn wanted() -> Vec<Rule> {
    [(7_273, 0), (7_274, 1)]
        .into_iter()
        .flat_map(|(port, queue)| [Family::Udp4, Family::Udp6].map(|family| rule(family, port, queue)))
        .collect()
}

/// A rule of somebody else that matches more of a packet than its port.
fn foreign(port: u16, location: u32) -> Spec {
    let mut spec = Spec::of(rule(Family::Udp4, port, 5), location);
    // The mask of the source address.
    spec.0[76..80].fill(0xff);
    spec
}

fn in_table(table: &Fake) -> Vec<Rule> {
    table.rules.values().map(|spec| spec.rule().expect("a rule of ours")).collect()
}

#[test]
fn rules_are_set_told_and_removed() {
    for chooses_locations in [false, true] {
        let mut table = Fake { chooses_locations, ..table() };
        table.rules.insert(0, foreign(53, 0));
        let rules = set(&mut table, &wanted(), "nic0");
        assert!(rules.is_complete() && !Rules::none("why").is_complete() && !Rules::default().is_complete());
        assert_eq!(rules.set.iter().map(SetRule::rule).collect::<Vec<_>>(), wanted());
        for set in &rules.set {
            assert_eq!(table.rules[&set.location].rule(), Some(set.rule()));
        }
        assert_eq!(table.rules.len(), 5);
        assert_eq!(remove(&mut table, &rules.set), [""; 0]);
        assert_eq!(table.rules.keys().copied().collect::<Vec<_>>(), [0], "the other's rule stays");
    }
}

#[test]
fn what_a_killed_keeper_left_is_replaced() {
    let mut table = table();
    assert!(!are_left(&mut table, &wanted()));
    let left = set(&mut table, &wanted(), "nic0");
    assert_eq!(left.set.len(), 4);
    assert!(are_left(&mut table, &wanted()[3..]) && !are_left(&mut table, &[rule(Family::Udp4, 7_275, 0)]));
    // The next run has the lanes the other way around, and one more.
    let mut next: Vec<Rule> = wanted().into_iter().map(|rule| Rule { queue: 1 - rule.queue, ..rule }).collect();
    next.push(rule(Family::Udp4, 7_275, 2));
    let rules = set(&mut table, &next, "nic0");
    assert_eq!(rules.missing, [""; 0]);
    assert_eq!(rules.set.iter().map(SetRule::rule).collect::<Vec<_>>(), next);
    assert_eq!(table.rules.len(), 5, "none is doubled");
    assert_eq!(remove(&mut table, &rules.set), [""; 0]);
    assert!(table.rules.is_empty());
}

#[test]
fn a_rule_of_somebody_elses_stays_and_is_named() {
    let mut table = table();
    table.rules.insert(3, foreign(7_273, 3));
    let rules = set(&mut table, &wanted(), "nic0");
    assert_eq!(rules.set.len(), 3, "only udp4 of the one port has another's rule");
    assert!(matches!(&rules.missing[..], [why] if why.contains("7273") && why.contains("rule 3")), "{rules:?}");
    assert_eq!(table.rules[&3], foreign(7_273, 3));
}

#[test]
fn a_full_table_takes_what_fits_and_says_so_once() {
    for (chooses_locations, size) in [(false, 2), (true, 2), (false, 0)] {
        let mut table = Fake { chooses_locations, size, ..table() };
        let rules = set(&mut table, &wanted(), "nic0");
        assert_eq!(rules.set.len(), size as usize);
        assert!(matches!(&rules.missing[..], [why] if why.contains("full")), "{rules:?}");
        assert!(in_table(&table).iter().all(|rule| wanted()[..size as usize].contains(rule)), "{table:?}");
    }
}

#[test]
fn a_nic_without_rules_says_why() {
    for (table, words) in [
        (Fake { unreadable: Some(libc::EOPNOTSUPP), ..table() }, "no receive rules in its hardware"),
        (Fake { unreadable: Some(libc::ENODEV), ..table() }, "cannot be read"),
        (Fake { is_on: false, ..table() }, "ethtool -K nic0 ntuple on"),
        (Fake { refuses: Some(libc::EOPNOTSUPP), ..table() }, "refuses a receive rule for udp4"),
        (Fake { refuses: Some(libc::EBUSY), ..table() }, "is full"),
        (Fake { refuses: Some(libc::EPERM), ..table() }, "CAP_NET_ADMIN"),
        (Fake { forgets: true, ..table() }, "does not keep"),
    ] {
        let mut table = table;
        // A rule to queue 1, so that what forgets shows.
        let rules = set(&mut table, &wanted()[2..], "nic0");
        assert!(rules.set.is_empty() && table.rules.is_empty(), "{rules:?} {table:?}");
        assert!(rules.missing[0].contains(words), "{rules:?}");
    }
}

#[test]
fn a_rule_that_somebody_changed_since_is_left() {
    let mut table = table();
    let rules = set(&mut table, &wanted(), "nic0");
    let [changed, moved, gone, kept] = rules.set[..] else { panic!("{rules:?}") };
    table.rules.insert(changed.location, Spec::of(Rule { queue: 7, ..changed.rule() }, changed.location));
    table.rules.insert(moved.location, foreign(moved.port, moved.location));
    table.rules.remove(&gone.location);
    assert_eq!(remove(&mut table, &rules.set), [""; 0]);
    let left: Vec<u32> = table.rules.keys().copied().collect();
    assert!(left.contains(&changed.location) && left.contains(&moved.location), "{left:?}");
    assert!(!left.contains(&kept.location) && left.len() == 2, "{left:?}");
}

#[test]
fn a_rule_that_cannot_be_removed_is_said() {
    let mut table = table();
    let rules = set(&mut table, &wanted()[..1], "nic0");
    table.refuses = Some(libc::EIO);
    let left = remove(&mut table, &rules.set);
    assert!(matches!(&left[..], [why] if why.contains("7273") && why.contains("cannot be removed")), "{left:?}");
}

#[test]
fn a_form_is_told_from_others() {
    let ours = Spec::of(rule(Family::Udp6, 7_273, 9), 4);
    assert_eq!((ours.rule(), ours.location()), (Some(rule(Family::Udp6, 7_273, 9)), 4));
    assert!(ours.concerns(Family::Udp6, 7_273) && !ours.concerns(Family::Udp6, 7_274));
    assert!(!ours.concerns(Family::Udp4, 7_273), "another family");
    // Each bit of the flow type, the mask and the action beyond a queue makes it somebody else's.
    let of_type = (0..4).filter(|at| *at != 0).map(|at| (at, 1 << 5));
    let of_mask = (76..148).map(|at| (at, 1));
    let of_action = (156..160).map(|at| (at, 0x80));
    for (at, bit) in of_type.chain(of_mask).chain(of_action) {
        let mut other = ours;
        other.0[at] ^= bit;
        assert_eq!(other.rule(), None, "byte {at}");
    }
    // Part of the port's bits, and no bit.
    let mut half = ours;
    half.0[76 + 34] = 0;
    assert!(half.rule().is_none() && half.concerns(Family::Udp6, 7_273 & 0xff));
    half.0[76 + 35] = 0;
    assert!(
        !half.concerns(Family::Udp6, 7_273),
        "without a port it is about all packets, and the NIC's own order decides"
    );
    // A flag in the upper bits: a group of queues.
    let mut group = ours;
    group.0[..4].copy_from_slice(&(6u32 | 0x2000_0000).to_ne_bytes());
    assert!(group.rule().is_none() && group.concerns(Family::Udp6, 7_273));
}

/// What a C program prints that knows the kernel's header; `None`, and why, where it cannot be
/// made.
fn said_by_c(body: &str) -> Option<String> {
    let room = tempfile::tempdir().unwrap();
    let (source, program) = (room.path().join("rule.c"), room.path().join("rule"));
    let text = format!(
        "#include <arpa/inet.h>\n#include <stddef.h>\n#include <stdio.h>\n#include <string.h>\n#include <linux/ethtool.h>\nint main(void) {{ {body} }}\n"
    );
    std::fs::write(&source, text).unwrap();
    let compiled = match Command::new("cc").arg("-o").arg(&program).arg(&source).output() {
        Ok(compiled) => compiled,
        Err(error) => {
            eprintln!("skipped: no C compiler: {error}");
            return None;
        }
    };
    let said = String::from_utf8_lossy(&compiled.stderr).into_owned();
    if !compiled.status.success() && said.contains("ethtool.h") && said.contains("No such file") {
        eprintln!("skipped: the kernel's headers are not installed");
        return None;
    }
    assert!(compiled.status.success(), "{said}");
    Some(String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap())
}

#[test]
fn a_rules_bytes_are_those_of_the_kernels_header() {
    for (family, flow_type, field) in
        [(Family::Udp4, "UDP_V4_FLOW", "udp_ip4_spec"), (Family::Udp6, "UDP_V6_FLOW", "udp_ip6_spec")]
    {
        let Some(bytes) = said_by_c(&format!(
            "struct ethtool_rx_flow_spec spec; memset(&spec, 0, sizeof spec); spec.flow_type = {flow_type};
             spec.h_u.{field}.pdst = htons(7273); spec.m_u.{field}.pdst = 0xffff; spec.ring_cookie = 3; spec.location = 1023;
             for (size_t at = 0; at < sizeof spec; at++) printf(\"%02x\", ((unsigned char *)&spec)[at]);"
        )) else {
            return;
        };
        let ours: String = Spec::of(rule(family, 7_273, 3), 1_023).0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(ours, bytes, "{family:?}");
    }
}

#[test]
fn a_requests_layout_is_that_of_the_kernels_header() {
    let Some(said) = said_by_c(
        "printf(\"%zu %zu %zu %zu %zu %zu | %u %u %u %u %u %u %u\", sizeof(struct ethtool_rx_flow_spec),
            offsetof(struct ethtool_rxnfc, data), offsetof(struct ethtool_rxnfc, fs), offsetof(struct ethtool_rxnfc, rule_cnt),
            offsetof(struct ethtool_rxnfc, rule_locs), offsetof(struct ethtool_rx_flow_spec, location), ETHTOOL_GFLAGS,
            ETHTOOL_GRXCLSRLCNT, ETHTOOL_GRXCLSRULE, ETHTOOL_GRXCLSRLALL, ETHTOOL_SRXCLSRLDEL, ETHTOOL_SRXCLSRLINS, ETH_FLAG_NTUPLE);",
    ) else {
        return;
    };
    assert_eq!(said, crate::kernel_calls::layout());
}
