//! `culvert monitor`: the status, redrawn every second on the terminal's alternate screen.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use culvert_model::exit_code::ExitCode;
use culvert_model::units::show_rate;
use culvert_node::api::status::NodeStatus;
use culvert_node::settings::Settings;
use culvert_protocol::foreign_text::plain_lines;
use culvert_state::StateDirectory;

use crate::api_client::ApiClient;
use crate::args::{EngineArgs, GlobalArgs, StatusArgs};
use crate::exit::CommandError;
use crate::{report, status};

/// Time between two redraws.
const INTERVAL: Duration = Duration::from_secs(1);
/// Switches to the alternate screen and hides the cursor (ECMA-48, xterm's control sequences).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// Shows the cursor and switches back to the normal screen.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Moves the cursor to the upper left corner, and clears the screen below.
const HOME: &str = "\x1b[H\x1b[J";

/// Redraws the status until it is interrupted. Without a terminal, prints it once, or every second
/// as JSON Lines.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: GlobalArgs, args: StatusArgs) -> Result<ExitCode, CommandError> {
    if !std::io::stdout().is_terminal() && !args.json {
        return status::run(global, args).await;
    }
    let settings = Settings::resolve(&global.flags(&EngineArgs::default()))?;
    let state = StateDirectory::at(settings.state.value.clone());
    let api = ApiClient::need(&state).await?;
    let mut out = std::io::stdout();
    if !args.json {
        report::outcome(write!(out, "{ENTER}"))?;
    }
    let drawn = draw_until_interrupted(&api, args.json).await;
    if !args.json {
        let _ = write!(out, "{LEAVE}");
        let _ = out.flush();
    }
    drawn
}

async fn draw_until_interrupted(api: &ApiClient, json: bool) -> Result<ExitCode, CommandError> {
    let mut interval = tokio::time::interval(INTERVAL);
    let mut previous: Option<NodeStatus> = None;
    let interrupted = crate::interruption::interrupted();
    tokio::pin!(interrupted);
    loop {
        tokio::select! {
            _ = &mut interrupted => return Ok(ExitCode::Done),
            _ = interval.tick() => {}
        }
        let now = api.status().await?;
        if json {
            report::print_json(&now)?;
        } else {
            let mut out = std::io::stdout();
            let text = format!("{}\n\n{}\n\nCtrl-C quits", status::text(&now), rates(&now, previous.as_ref()));
            let drawn = write!(out, "{HOME}{}", plain_lines(&text).replace('\n', "\r\n"));
            report::outcome(drawn.and_then(|()| out.flush()))?;
        }
        previous = Some(now);
    }
}

/// The rates of each lane within the last second.
fn rates(now: &NodeStatus, previous: Option<&NodeStatus>) -> String {
    let lanes = |status: &NodeStatus| status.dataplane.as_ref().map(|plane| plane.lanes.clone()).unwrap_or_default();
    let before = previous.map(lanes).unwrap_or_default();
    lanes(now)
        .iter()
        .map(|lane| {
            let earlier = before.iter().find(|earlier| earlier.lane == lane.lane);
            let since = |now: u64, before: Option<u64>| now.saturating_sub(before.unwrap_or(now)).saturating_mul(8);
            format!(
                "lane {}: sending {:>12}, receiving {:>12}",
                lane.lane,
                show_rate(since(lane.sent_bytes, earlier.map(|earlier| earlier.sent_bytes))),
                show_rate(since(lane.received_bytes, earlier.map(|earlier| earlier.received_bytes)))
            )
        })
        .collect::<Vec<_>>()
        .join("\n")
}
