//! Grades a check's results: each finding has a grade, the reason, and a remedy.
//!
//! The thresholds are those of data transfer nodes: loss that nobody notices on the web ruins a TCP
//! flow over 80 ms.

use culvert_model::units::show_rate;
use culvert_perfsonar::probe::mtu::MtuLimit;
use culvert_perfsonar::probe::ramp::{Confidence, RampLimit};
use culvert_protocol::counted::{agree, counted};
use serde::Serialize;

use crate::check::{Direction, PathCheck, Side};
use crate::records::PathRecord;

/// The loss ratio from which a direction is bad.
pub const LOSS_BAD: f64 = 1e-4;
/// The loss ratio from which a direction gets a warning.
pub const LOSS_WARN: f64 = 1e-5;
/// The MTU of jumbo frames.
pub const MTU_JUMBO: u32 = 9_000;
/// The MTU of Ethernet.
const MTU_ETHERNET: u32 = 1_500;
/// The reordering ratio from which TCP suffers.
const REORDERING_WARN: f64 = 1e-3;
/// See [`REORDERING_WARN`].
const REORDERING_BAD: f64 = 1e-2;

/// The grade of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// As it should be.
    Good,
    /// Worth knowing, but needs no action.
    Note,
    /// Reduces the rate of transfers.
    Warn,
    /// Ruins transfers.
    Bad,
}

/// A graded statement about the path.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Its subject: `loss`, `mtu`, `rtt`, `reordering`, `duplication`, `rate`, `clock`.
    pub what: &'static str,
    /// The direction; none for both.
    pub direction: Option<Side>,
    /// The grade.
    pub grade: Grade,
    /// The result and its meaning.
    pub text: String,
    /// What an admin can do about it; empty if nothing is to be done.
    pub remedy: String,
}

/// All findings of a check. `history` are earlier records of the sending direction.
#[must_use]
pub fn findings(check: &PathCheck, history: &[PathRecord]) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(finding) = rtt(check, history) {
        found.push(finding);
    }
    for side in Side::ALL {
        let direction = check.side(side);
        found.extend(
            [loss(check, direction), reordering(direction), duplication(direction), mtu(direction), rate(direction)]
                .into_iter()
                .flatten()
                .map(|finding| Finding { direction: Some(side), ..finding }),
        );
    }
    if check.rtt.is_some() && check.one_way_error_us.is_none() {
        found.push(finding(
            "clock",
            Grade::Note,
            "one-way delays are relative to the minimum, because the clocks of the two hosts are not both synchronized"
                .to_owned(),
            "run chrony or another NTP or PTP client on both hosts",
        ));
    }
    found
}

/// A ratio for people: percent, or a power of ten.
#[must_use]
pub fn part(part: f64) -> String {
    if part == 0.0 {
        "0 %".to_owned()
    } else if part >= 0.001 {
        format!("{:.2} %", part * 100.0)
    } else {
        format!("{part:.1e}")
    }
}

/// Microseconds as milliseconds.
#[must_use]
pub fn ms(us: f64) -> String {
    format!("{:.3} ms", us / 1e3)
}

fn finding(what: &'static str, grade: Grade, text: String, remedy: &str) -> Finding {
    Finding { what, direction: None, grade, text, remedy: remedy.to_owned() }
}

/// Reno's rate over a path that loses packets at random (Mathis et al. 1997), in bits per second.
fn mathis(mss_bytes: f64, rtt_us: f64, loss: f64) -> u64 {
    (mss_bytes * 8.0 / (rtt_us / 1e6) * 1.22 / loss.sqrt()) as u64
}

fn loss(check: &PathCheck, direction: &Direction) -> Option<Finding> {
    let delivery = direction.delivery.filter(|delivery| delivery.sent > 0)?;
    let loss = delivery.loss();
    if delivery.lost() == 0 {
        let resolution = delivery.loss_resolution();
        let text = format!("no loss in {}, so it is below {}", counted(delivery.sent, "packet"), part(resolution));
        let remedy = if resolution > LOSS_WARN {
            "a longer check (--seconds) can detect rarer loss: measuring a loss rate of 10⁻⁵ takes 300,000 packets"
        } else {
            ""
        };
        return Some(finding("loss", if resolution > LOSS_WARN { Grade::Note } else { Grade::Good }, text, remedy));
    }
    let mss = direction.mtu.map_or(1_448.0, |mtu| f64::from(mtu.bytes) - 52.0);
    let means = check.rtt.filter(|rtt| rtt.p50_us > 0.0).map_or(String::new(), |rtt| {
        format!("; a single classic TCP flow gets at most {} at this loss", show_rate(mathis(mss, rtt.p50_us, loss)))
    });
    let grade = match loss {
        loss if loss >= LOSS_BAD => Grade::Bad,
        loss if loss >= LOSS_WARN => Grade::Warn,
        _ => Grade::Note,
    };
    let text = format!("{} of {} lost ({}){means}", delivery.lost(), counted(delivery.sent, "packet"), part(loss));
    Some(finding(
        "loss",
        grade,
        text,
        "look for errors and drops on the interfaces of the route below: dirty fiber, duplex mismatches, policers, small buffers",
    ))
}

fn reordering(direction: &Direction) -> Option<Finding> {
    let delivery = direction.delivery?;
    let reordering = delivery.reordering();
    let grade = match reordering {
        reordering if reordering >= REORDERING_BAD => Grade::Bad,
        reordering if reordering >= REORDERING_WARN => Grade::Warn,
        reordering if reordering > 0.0 => Grade::Note,
        _ => return None,
    };
    let text = {
        let were = agree(delivery.reordered, "was", "were");
        let received = counted(delivery.received, "packet");
        format!("{} of {received} {were} reordered ({})", delivery.reordered, part(reordering))
    };
    Some(finding("reordering", grade, text, "look for links that balance load per packet instead of per flow"))
}

fn duplication(direction: &Direction) -> Option<Finding> {
    let delivery = direction.delivery.filter(|delivery| delivery.duplicates > 0)?;
    let text =
        format!("{} arrived more than once ({})", counted(delivery.duplicates, "packet"), part(delivery.duplication()));
    Some(finding("duplication", Grade::Warn, text, "look for port mirroring and loops on the route below"))
}

fn mtu(direction: &Direction) -> Option<Finding> {
    let mtu = direction.mtu?;
    let jumbo = "enable jumbo frames (MTU 9000) on both hosts and on every switch and router between them";
    let claimed = mtu.claimed_bytes.map_or_else(String::new, |claimed| {
        format!("; ICMP claimed {claimed} bytes, which is impossible or contradicted by the probes")
    });
    Some(match (mtu.limit, mtu.bytes) {
        (MtuLimit::BlackHole, bytes) => finding(
            "mtu",
            Grade::Bad,
            format!(
                "packets above {bytes} bytes are dropped silently although the interface carries {}: a black hole for TCP{claimed}",
                mtu.interface_bytes
            ),
            "let routers send ICMP packet-too-big, and use one MTU on all links of a network",
        ),
        (_, bytes) if bytes < MTU_ETHERNET => finding(
            "mtu",
            Grade::Bad,
            format!("packets up to {bytes} bytes pass, fewer than Ethernet's 1500{claimed}"),
            "look for tunnels on the path",
        ),
        (limit, bytes) if bytes < MTU_JUMBO => {
            let who = if limit == MtuLimit::PacketTooBig {
                "a router on the path limits it"
            } else {
                "the interface limits it"
            };
            finding("mtu", Grade::Warn, format!("packets up to {bytes} bytes pass; {who}{claimed}"), jumbo)
        }
        (_, bytes) => finding("mtu", Grade::Good, format!("packets up to {bytes} bytes pass{claimed}"), ""),
    })
}

fn rtt(check: &PathCheck, history: &[PathRecord]) -> Option<Finding> {
    let rtt = check.rtt?;
    let floor = history.iter().filter_map(|record| record.rtt_min_us).fold(rtt.min_us, f64::min);
    // Less than this may be the delay of a host's scheduler rather than a queue.
    let allowed = (floor * 0.1).max(1_000.0);
    if rtt.min_us - floor > allowed {
        let text = format!(
            "the minimum round-trip time is {}, but was {} before: the route has become longer",
            ms(rtt.min_us),
            ms(floor)
        );
        return Some(finding("rtt", Grade::Warn, text, "compare the route with earlier ones: culvert path history"));
    }
    if rtt.p50_us - floor > allowed {
        let text = format!(
            "the median round-trip time is {}, {} above the path's minimum: there is a standing queue on the path",
            ms(rtt.p50_us),
            ms(rtt.p50_us - floor)
        );
        return Some(finding("rtt", Grade::Warn, text, "look for a congested link on the route below"));
    }
    let text = format!(
        "the minimum round-trip time is {}; 95 % are at most {} above it",
        ms(rtt.min_us),
        ms((rtt.p95_us - rtt.min_us).max(0.0))
    );
    Some(finding("rtt", Grade::Good, text, ""))
}

fn rate(direction: &Direction) -> Option<Finding> {
    let rate = direction.rate?;
    let confidence = match rate.confidence {
        Confidence::High => "high",
        Confidence::Medium => "medium",
        Confidence::Low => "low",
    };
    let upper = rate.upper_bits_per_second.map_or(String::new(), |upper| format!(", below {}", show_rate(upper)));
    let text = format!(
        "{} available{upper} (confidence {confidence}, {})",
        show_rate(rate.bits_per_second),
        counted(rate.trains, "train")
    );
    Some(match rate.limit {
        RampLimit::Path => finding("rate", Grade::Good, text, ""),
        RampLimit::Sender => finding(
            "rate",
            Grade::Note,
            format!("at least {text}; the sending host could not probe any faster"),
            "'culvert bench net' measures what the hosts can do",
        ),
        RampLimit::Cap => finding(
            "rate",
            Grade::Note,
            format!("at least {text}; no higher rate was permitted"),
            "raise --rate, if the partner's table [path] permits it",
        ),
        RampLimit::Time => finding(
            "rate",
            Grade::Note,
            format!("at least {text}; there was no time to probe further"),
            "raise --limit",
        ),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use culvert_perfsonar::clock::ClockQuality;
    use culvert_perfsonar::probe::mtu::PathMtu;
    use culvert_perfsonar::statistics::{DelaySummary, Delivery};

    pub(crate) fn check() -> PathCheck {
        let direction = Direction {
            delivery: Some(Delivery { sent: 1_000_000, received: 1_000_000, duplicates: 0, reordered: 0 }),
            mtu: Some(PathMtu {
                bytes: 9_000,
                interface_bytes: 9_000,
                limit: MtuLimit::Interface,
                claimed_bytes: None,
            }),
            ..Direction::default()
        };
        PathCheck {
            partner: "lab".into(),
            address: "192.0.2.2".into(),
            at_unix_ms: 1_800_000_000_000,
            seconds: 5.0,
            complete: true,
            problems: Vec::new(),
            transfers_meanwhile: 0,
            rtt: Some(DelaySummary {
                count: 9,
                min_us: 80_000.0,
                p50_us: 80_100.0,
                p95_us: 80_200.0,
                p99_us: 80_300.0,
                max_us: 90_000.0,
                mean_us: 80_100.0,
                stddev_us: 10.0,
                jitter_us: 5.0,
            }),
            rtt_histogram_ms: std::collections::BTreeMap::new(),
            clock: ClockQuality { synchronized: true, error_us: 10 },
            one_way_error_us: Some(20),
            rejected: 0,
            send: direction.clone(),
            receive: direction,
        }
    }

    fn grade(check: &PathCheck, what: &str) -> Vec<Grade> {
        findings(check, &[])
            .into_iter()
            .filter(|finding| finding.what == what && finding.direction != Some(Side::Receive))
            .map(|finding| finding.grade)
            .collect()
    }

    #[test]
    fn a_clean_path_is_good() {
        assert!(
            findings(&check(), &[]).iter().all(|finding| finding.grade == Grade::Good),
            "{:?}",
            findings(&check(), &[])
        );
    }

    #[test]
    fn loss_is_graded_as_transfers_feel_it() {
        for (lost, expected) in
            [(1, Grade::Note), (10, Grade::Warn), (99, Grade::Warn), (100, Grade::Bad), (500_000, Grade::Bad)]
        {
            let mut check = check();
            check.send.delivery.as_mut().unwrap().received -= lost;
            assert_eq!(grade(&check, "loss"), [expected], "{lost} of a million");
        }
        let mut check = check();
        check.send.delivery.as_mut().unwrap().received -= 10;
        let text = findings(&check, &[]).into_iter().find(|finding| finding.what == "loss").unwrap().text;
        // The reference's arithmetic: 345 Mb/s at 9000 bytes, 80 ms and 1e-5.
        assert!(text.contains("34") && text.contains("Mb/s"), "{text}");
        check.send.delivery = Some(Delivery { sent: 100, received: 100, duplicates: 0, reordered: 0 });
        assert_eq!(grade(&check, "loss"), [Grade::Note]);
    }

    #[test]
    fn small_and_black_mtus_are_told() {
        let with = |bytes, limit| {
            let mut check = check();
            check.send.mtu = Some(PathMtu { bytes, interface_bytes: 9_000, limit, claimed_bytes: None });
            grade(&check, "mtu")
        };
        let mut claimed = check();
        claimed.send.mtu = claimed.send.mtu.map(|mtu| PathMtu { claimed_bytes: Some(552), ..mtu });
        let finding = mtu(&claimed.send).unwrap();
        assert!(finding.grade == Grade::Good && finding.text.contains("ICMP claimed 552"), "{finding:?}");
        assert_eq!(with(8_999, MtuLimit::PacketTooBig), [Grade::Warn]);
        assert_eq!(with(1_500, MtuLimit::BlackHole), [Grade::Bad]);
        assert_eq!(with(1_400, MtuLimit::PacketTooBig), [Grade::Bad]);
    }

    #[test]
    fn queues_and_detours_stand_out_against_history() {
        let mut queued = check();
        queued.rtt.as_mut().unwrap().p50_us = 95_000.0;
        assert_eq!(grade(&queued, "rtt"), [Grade::Warn]);
        let record = crate::records::tests::record(1, 1);
        let found = findings(&check(), &[record]);
        let rtt = found.iter().find(|finding| finding.what == "rtt").unwrap();
        assert!(rtt.grade == Grade::Warn && rtt.text.contains("longer"), "{rtt:?}");
    }

    #[test]
    fn reordering_duplication_and_clocks_are_told() {
        let mut check = check();
        *check.send.delivery.as_mut().unwrap() =
            Delivery { sent: 1_000, received: 1_000, duplicates: 1, reordered: 20 };
        check.one_way_error_us = None;
        assert_eq!((grade(&check, "reordering"), grade(&check, "duplication")), (vec![Grade::Bad], vec![Grade::Warn]));
        assert_eq!(grade(&check, "clock"), [Grade::Note]);
    }
}
