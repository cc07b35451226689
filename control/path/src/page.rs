//! A check's results as text for a terminal.

use culvert_model::units::{show_bytes, show_rate};
use culvert_protocol::path::Route;

use crate::check::{Direction, PathCheck, Side};
use crate::grades::{Finding, Grade, ms, part};

/// The page.
#[must_use]
pub fn page(check: &PathCheck, findings: &[Finding]) -> String {
    let mut lines = vec![
        format!("Path to {} ({}), checked for {:.1} s", check.partner, check.address, check.seconds),
        String::new(),
    ];
    lines.push(format!("  {:22}{:>24}{:>24}", "", "to the partner", "from the partner"));
    let mut row = |what: &str, show: &dyn Fn(&Direction) -> String| {
        let (send, receive) = (show(&check.send), show(&check.receive));
        lines.push(format!("  {what:22}{send:>24}{receive:>24}"));
    };
    let none = || "not measured".to_owned();
    row("loss", &|direction| {
        direction.delivery.map_or_else(none, |delivery| match delivery.lost() {
            0 => format!("below {}", part(delivery.loss_resolution())),
            _ => part(delivery.loss()),
        })
    });
    row("reordered", &|direction| direction.delivery.map_or_else(none, |delivery| part_or_none(delivery.reordering())));
    row("duplicated", &|direction| {
        direction.delivery.map_or_else(none, |delivery| part_or_none(delivery.duplication()))
    });
    let delay = if check.one_way_error_us.is_some() { "one-way delay, median" } else { "delay above minimum" };
    row(delay, &|direction| direction.delay.map_or_else(none, |delay| ms(delay.p50_us)));
    row("  95th percentile", &|direction| direction.delay.map_or_else(none, |delay| ms(delay.p95_us)));
    row("largest packet", &|direction| direction.mtu.map_or_else(none, |mtu| format!("{} bytes", mtu.bytes)));
    row("available rate", &|direction| direction.rate.map_or_else(none, |rate| show_rate(rate.bits_per_second)));
    if check.send.buffer_bytes.or(check.receive.buffer_bytes).is_some() {
        row("bottleneck's buffer", &|direction| direction.buffer_bytes.map_or_else(none, show_bytes));
    }
    if let Some(rtt) = check.rtt {
        lines.push(String::new());
        lines.push(format!(
            "  round trip  min {}, median {}, p95 {}, p99 {}, max {}; jitter {}",
            ms(rtt.min_us),
            ms(rtt.p50_us),
            ms(rtt.p95_us),
            ms(rtt.p99_us),
            ms(rtt.max_us),
            ms(rtt.jitter_us)
        ));
        lines.push(match check.one_way_error_us {
            Some(error) => format!("  clocks      synchronized; one-way delays are accurate to {}", ms(error as f64)),
            None => "  clocks      not both synchronized; one-way delays show changes, not absolute values".to_owned(),
        });
    }
    lines.push(String::new());
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.grade));
    for finding in sorted {
        let mark = match finding.grade {
            Grade::Good => "good",
            Grade::Note => "note",
            Grade::Warn => "WARN",
            Grade::Bad => "BAD ",
        };
        let direction = match finding.direction {
            Some(Side::Send) => " to the partner",
            Some(Side::Receive) => " from the partner",
            None => "",
        };
        lines.push(format!("  {mark}  {}{direction}: {}", finding.what, finding.text));
        if !finding.remedy.is_empty() && finding.grade > Grade::Good {
            lines.push(format!("        {}", finding.remedy));
        }
    }
    for (what, direction) in [("route to the partner", &check.send), ("route from the partner", &check.receive)] {
        for (kind, route) in [("UDP", &direction.route_udp), ("ICMP", &direction.route_icmp)] {
            if let Some(route) = route {
                lines.push(String::new());
                lines.extend(route_lines(&format!("{what} ({kind})"), route));
            }
        }
    }
    if check.transfers_meanwhile > 0 {
        lines.push(String::new());
        lines.push(format!(
            "  {} of this node's transfers ran at the same time and took bandwidth",
            check.transfers_meanwhile
        ));
    }
    for problem in &check.problems {
        lines.push(format!("  not measured: {problem}"));
    }
    if !check.complete {
        lines.push("  this is a PARTIAL result".to_owned());
    }
    lines.join("\n")
}

fn part_or_none(value: f64) -> String {
    if value == 0.0 { "none".to_owned() } else { part(value) }
}

fn route_lines(what: &str, route: &Route) -> Vec<String> {
    let mut lines = vec![format!("  {what}{}", if route.reached { "" } else { ", destination not reached" })];
    for hop in &route.hops {
        let address = hop.address.map_or("no answer".to_owned(), |address| address.to_string());
        let rtt = hop.rtt_us.map_or(String::new(), ms);
        let mtu = hop.mtu.map_or(String::new(), |mtu| format!("  claims MTU {mtu}"));
        lines.push(format!("  {:4}  {address:40} {rtt:>12}{mtu}", hop.ttl));
    }
    lines
}

#[cfg(test)]
mod tests {
    use culvert_protocol::path::Hop;

    use super::*;
    use crate::grades::findings;
    use crate::grades::tests::check;

    #[test]
    fn the_page_shows_all_findings_and_what_is_missing() {
        let mut check = check();
        check.send.route_udp = Some(Route {
            reached: true,
            hops: vec![Hop {
                ttl: 1,
                address: Some("192.0.2.1".parse().unwrap()),
                rtt_us: Some(500.0),
                icmp: None,
                mtu: None,
            }],
        });
        check.send.delivery.as_mut().unwrap().received -= 200;
        check.problems.push("the time is up".to_owned());
        check.complete = false;
        let page = page(&check, &findings(&check, &[]));
        for part in [
            "192.0.2.1",
            "min 80.000 ms",
            "9000 bytes",
            "BAD   loss to the partner: 200 of 1,000,000",
            "not measured: the time is up",
            "PARTIAL",
            "accurate to 0.020 ms",
        ] {
            assert!(page.contains(part), "'{part}' is not in:\n{page}");
        }
    }
}
