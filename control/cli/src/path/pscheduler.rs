//! `culvert path pscheduler`.

use std::time::Duration;

use culvert_engine::clock::unix_ms;
use culvert_model::exit_code::ExitCode;
use culvert_model::units::show_rate;
use culvert_node::settings::Settings;
use culvert_path::check::Side;
use culvert_path::grades::{ms, part};
use culvert_path::publish::{keep_pin, pins};
use culvert_path::records::{self, PathRecord, RecordSource};
use culvert_perfsonar::http::{Client as HttpClient, Trust};
use culvert_perfsonar::pscheduler::{Client, Outcome, SchedulerError, TestKind, TestRequest};
use culvert_protocol::counted::counted;
use culvert_protocol::foreign_text::foreign_text;
use culvert_state::StateDirectory;
use serde::Serialize;

use crate::args::GlobalArgs;
use crate::exit::{CommandError, of_http};
use crate::path::args::PschedulerArgs;
use crate::report::{print_json, say};

/// How long an HTTP request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct Shown<'a> {
    host: &'a str,
    test: TestKind,
    dest: &'a str,
    task: &'a str,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

/// Runs `culvert path pscheduler`.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: &GlobalArgs, settings: &Settings, args: PschedulerArgs) -> Result<ExitCode, CommandError> {
    let state = StateDirectory::open(&settings.state.value)?;
    let key = args.host.trim_start_matches("https://").trim_end_matches('/').to_owned();
    let trust =
        Trust::of_word(&args.trust, args.ca_file.clone(), pins(&state)?.remove(&key)).map_err(CommandError::usage)?;
    if args.trust == "insecure" && !global.quiet {
        say_aside!(
            "culvert: warning: the certificate of {key} is not verified: anybody in between can change its answers"
        );
    }
    let http = HttpClient::new(&trust, REQUEST_TIMEOUT).map_err(|error| CommandError::new(ExitCode::BadHost, error))?;
    let client = Client::new(&args.host, http);
    let result = tokio::select! {
        result = run_test(global, settings, &state, &client, &args) => result,
        code = crate::interruption::interrupted() => return Err(CommandError::new(code, "interrupted")),
    };
    if args.trust == "pin"
        && result.is_ok()
        && let Some(pin) = keep_pin(&state, &key, client.http().seen_pin())?
    {
        say_aside!("culvert: the key of {key} is now pinned: {pin}");
    }
    result
}

fn failed(error: &SchedulerError) -> CommandError {
    let code = match error {
        SchedulerError::Http(error) => of_http(error),
        SchedulerError::Status { status, .. } if status.as_u16() == 403 => ExitCode::NotPermitted,
        SchedulerError::Status { status, .. } if status.is_server_error() => ExitCode::Temporary,
        SchedulerError::NeverEnds { .. } => ExitCode::TimedOut,
        _ => ExitCode::Failed,
    };
    CommandError::new(code, foreign_text(&error.to_string()))
}

async fn run_test(
    global: &GlobalArgs,
    settings: &Settings,
    state: &StateDirectory,
    client: &Client,
    args: &PschedulerArgs,
) -> Result<ExitCode, CommandError> {
    let Some(kind) = args.test else {
        let found = client.discover().await.map_err(|error| failed(&error))?;
        if args.json {
            print_json(&found)?;
        } else {
            say(&format!(
                "host   {} (API {})\ntests  {}\ntools  {}",
                found.hostname,
                found.api,
                found.tests.join(", "),
                found.tools.join(", ")
            ))?;
        }
        return Ok(ExitCode::Done);
    };
    let request = TestRequest {
        source: args.source.clone(),
        single_ended: !args.two_ended,
        seconds: args.seconds,
        streams: args.streams,
        packets: args.packets,
        tool: args.tool.clone(),
        ..TestRequest::new(kind, args.dest.clone().unwrap_or_else(|| settings.name.value.clone()))
    };
    let task = client.submit(&request).await.map_err(|error| failed(&error))?;
    let followed = client.follow(&task, Duration::from_secs(args.limit), |run| {
        if !global.quiet {
            say_aside!("culvert: {} on {}: {}", kind.word(), client.host(), foreign_text(&run.state));
        }
    });
    let run = tokio::select! {
        run = followed => run.map_err(|error| failed(&error))?,
        code = crate::interruption::interrupted() => {
            let _ = client.abort(&task).await;
            return Err(CommandError::new(code, "interrupted; the task was aborted"));
        }
    };
    let outcome = client.outcome(kind, &run).map_err(|error| failed(&error))?;
    if let Some(partner) = &args.partner {
        // The perfSONAR host sends to this host, so the result is for the receiving direction.
        records::add(state, partner, Side::Receive, record(kind, &outcome))?;
    }
    if args.json {
        print_json(&Shown { host: client.host(), test: kind, dest: &request.dest, task: &task, outcome: &outcome })?;
    } else {
        say(&text(kind, client.host(), &request.dest, &outcome))?;
    }
    Ok(ExitCode::Done)
}

fn record(kind: TestKind, outcome: &Outcome) -> PathRecord {
    let rtt = outcome.delay_us.filter(|_| kind == TestKind::Rtt);
    PathRecord {
        at_unix_ms: unix_ms(),
        source: RecordSource::Pscheduler,
        rtt_min_us: rtt.map(|[least, ..]| least),
        rtt_p50_us: rtt.map(|[_, mean, _]| mean),
        loss: outcome.delivery.map(|delivery| delivery.loss()),
        packets: outcome.delivery.map_or(0, |delivery| delivery.sent),
        reordering: outcome.delivery.map(|delivery| delivery.reordering()),
        duplication: outcome.delivery.map(|delivery| delivery.duplication()),
        mtu_bytes: outcome.mtu_bytes,
        rate_bits_per_second: outcome.rate_bits_per_second,
        confidence: None,
        hops: (!outcome.hops.is_empty()).then_some(outcome.hops.len() as u32),
        route: None,
        limited_by_path: false,
        transfers_meanwhile: 0,
    }
}

fn text(kind: TestKind, host: &str, dest: &str, outcome: &Outcome) -> String {
    let mut lines = vec![format!("{} from {host} to {dest}", kind.word())];
    if let Some(rate) = outcome.rate_bits_per_second {
        lines.push(format!("  rate         {}", show_rate(rate)));
    }
    if let Some(retransmits) = outcome.retransmits {
        lines.push(format!("  retransmits  {retransmits}"));
    }
    if let Some(delivery) = outcome.delivery {
        lines.push(format!(
            "  packets      {} sent, {} lost ({}), {} reordered, {}",
            delivery.sent,
            delivery.lost(),
            part(delivery.loss()),
            delivery.reordered,
            counted(delivery.duplicates, "copy")
        ));
    }
    if let Some([least, mean, greatest]) = outcome.delay_us {
        let what = if kind == TestKind::Rtt { "round trip " } else { "one way    " };
        lines.push(format!("  {what}  min {}, mean {}, max {}", ms(least), ms(mean), ms(greatest)));
    }
    if let Some(mtu) = outcome.mtu_bytes {
        lines.push(format!("  MTU          {mtu} bytes"));
    }
    for (number, hop) in outcome.hops.iter().enumerate() {
        lines.push(format!("  {:3}  {}", number + 1, hop.as_deref().unwrap_or("no answer")));
    }
    lines.join("\n")
}
