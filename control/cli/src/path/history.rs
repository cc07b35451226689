//! `culvert path history`.

use culvert_model::exit_code::ExitCode;
use culvert_model::units::show_rate;
use culvert_path::check::Side;
use culvert_path::grades::{ms, part};
use culvert_path::records::{self, PathRecord};
use culvert_protocol::counted::counted;
use culvert_state::StateDirectory;
use serde::Serialize;

use crate::exit::CommandError;
use crate::path::args::HistoryArgs;
use crate::report::{print_json_line, say};

#[derive(Serialize)]
struct Line<'a> {
    partner: &'a str,
    direction: Side,
    #[serde(flatten)]
    record: &'a PathRecord,
}

/// Shows records, the newest first.
///
/// # Errors
/// [`CommandError`].
pub fn run(state: &StateDirectory, args: &HistoryArgs) -> Result<ExitCode, CommandError> {
    let mut known = records::partners(state);
    if let Some(partner) = &args.partner {
        known.retain(|(name, _)| name == partner);
    }
    known.sort();
    if known.is_empty() {
        let what = args.partner.as_ref().map_or("any partner".to_owned(), |partner| format!("'{partner}'"));
        return Err(CommandError::new(
            ExitCode::NotFound,
            format!("there are no records of the path to {what}: 'culvert path check PARTNER' measures it"),
        ));
    }
    for (partner, side) in &known {
        let records = records::read(state, partner, *side)?;
        let newest = records.iter().rev().take(args.limit);
        if args.json {
            for record in newest {
                print_json_line(&Line { partner, direction: *side, record })?;
            }
            continue;
        }
        say(&format!("{partner}, {}", if *side == Side::Send { "to the partner" } else { "from the partner" }))?;
        say(&format!(
            "  {:20} {:10} {:>12} {:>10} {:>8} {:>14}  route",
            "when (UTC)", "from", "round trip", "loss", "MTU", "rate"
        ))?;
        let mut route: Option<&str> = None;
        for record in newest {
            say(&line(record, route))?;
            route = record.route.as_deref().or(route);
        }
    }
    Ok(ExitCode::Done)
}

fn line(record: &PathRecord, newer_route: Option<&str>) -> String {
    let none = || "-".to_owned();
    let when = jiff::Timestamp::from_millisecond(record.at_unix_ms.cast_signed())
        .map_or_else(|_| none(), |at| at.strftime("%Y-%m-%d %H:%M:%S").to_string());
    let route = record.route.as_deref().map_or_else(none, |route| {
        let changed = newer_route.is_some_and(|newer| newer != route);
        format!(
            "{} {route}{}",
            counted(record.hops.unwrap_or(0), "hop"),
            if changed { " (changed after this)" } else { "" }
        )
    });
    format!(
        "  {when:20} {:10} {:>12} {:>10} {:>8} {:>14}  {route}",
        record.source.word(),
        record.rtt_min_us.map_or_else(none, ms),
        record.loss.map_or_else(none, |loss| if loss == 0.0 { "none".to_owned() } else { part(loss) }),
        record.mtu_bytes.map_or_else(none, |mtu| mtu.to_string()),
        record.rate_bits_per_second.map_or_else(none, show_rate),
    )
}
