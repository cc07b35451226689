//! `culvert path stamp` and `culvert path twamp`: measurements to STAMP and TWAMP reflectors.

use std::time::Duration;

use culvert_model::address::split_host_port;
use culvert_model::exit_code::ExitCode;
use culvert_path::grades::{ms, part};
use culvert_path::settings::read_secret;
use culvert_perfsonar::stamp::sender::SenderConfig;
use culvert_perfsonar::stamp::{Authentication, SessionResult};
use culvert_perfsonar::tester::{Measurement, MeasurementError, measure, measure_twamp};
use culvert_protocol::counted::counted;

use crate::exit::CommandError;
use crate::path::args::TwoWayArgs;
use crate::report::{print_json, say};

/// The default port of STAMP and TWAMP.
const PORT: u16 = 862;

/// The protocol of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// STAMP, which TWAMP-Light reflectors answer too.
    Stamp,
    /// TWAMP with its control connection.
    Twamp,
}

/// Runs the measurement.
///
/// # Errors
/// [`CommandError`].
pub async fn run(protocol: Protocol, args: &TwoWayArgs) -> Result<ExitCode, CommandError> {
    let bare = args.host.trim_matches(['[', ']']);
    let (host, port) = match split_host_port(&args.host) {
        // An IPv6 address without brackets contains colons but no port.
        Some(found) if args.host.matches(':').count() == 1 || args.host.starts_with('[') => found,
        _ => (bare, PORT),
    };
    let looked_up = tokio::net::lookup_host((host, port)).await;
    let to = looked_up.ok().and_then(|mut found| found.next());
    let to =
        to.ok_or_else(|| CommandError::new(ExitCode::NotFound, format!("'{host}' has no address: check the name")))?;
    let how = Measurement {
        packets: args.packets,
        interval: Duration::from_secs_f64(args.interval),
        dscp: args.dscp,
        ..Measurement::default()
    };
    let measured = match protocol {
        Protocol::Stamp => {
            let authentication = match &args.key_file {
                Some(file) => Authentication::with_secret(&read_secret(file).map_err(CommandError::usage)?),
                None => Authentication::Open,
            };
            let config = SenderConfig { authentication, packet_bytes: args.size.into(), ..SenderConfig::stamp(1) };
            measure(to, config, &how).await
        }
        Protocol::Twamp => measure_twamp(to, u32::from(args.size) - 14, &how).await,
    };
    let result = measured.map_err(|error| {
        let code =
            if matches!(error, MeasurementError::Control { .. }) { ExitCode::Failed } else { ExitCode::Temporary };
        CommandError::new(code, error)
    })?;
    if args.json {
        print_json(&result)?;
    } else {
        say(&text(&to.to_string(), &result))?;
    }
    for (rejection, count) in &result.rejected {
        say_aside!("culvert: ignored {}: {rejection}", counted(*count, "answer"));
    }
    if result.round_trip.received == 0 {
        return Err(CommandError::failed(format!(
            "none of the {} was answered by {to}: is a reflector running there, and is its UDP port open?",
            counted(result.round_trip.sent, "packet")
        )));
    }
    Ok(ExitCode::Done)
}

fn text(to: &str, result: &SessionResult) -> String {
    let mut lines = vec![format!(
        "{} to {to}, {} answered, {} lost ({}), {} reordered, {}",
        counted(result.round_trip.sent, "packet"),
        result.round_trip.received,
        result.round_trip.lost(),
        part(result.round_trip.loss()),
        result.round_trip.reordered,
        counted(result.round_trip.duplicates, "copy")
    )];
    if let (Some(forward), Some(reverse)) = (result.forward, result.reverse) {
        lines.push(format!("  lost on the way there {}, on the way back {}", forward.lost(), reverse.lost()));
    } else {
        lines.push("  the reflector does not number its answers, so loss cannot be split by direction".to_owned());
    }
    let clocks = result
        .one_way_error_us
        .map_or("relative to the minimum, because the clocks are not both synchronized".to_owned(), |error| {
            format!("accurate to {}", ms(error as f64))
        });
    for (what, delay) in [("round trip", result.rtt), ("there", result.forward_delay), ("back", result.reverse_delay)] {
        if let Some(delay) = delay {
            let note = if what == "round trip" { String::new() } else { format!(" ({clocks})") };
            lines.push(format!(
                "  {what:10}  min {}, median {}, p95 {}, max {}{note}",
                ms(delay.min_us),
                ms(delay.p50_us),
                ms(delay.p95_us),
                ms(delay.max_us)
            ));
        }
    }
    lines.join("\n")
}
