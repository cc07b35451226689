//! `culvert status`.

use culvert_model::exit_code::ExitCode;
use culvert_model::units::show_bytes;
use culvert_node::api::status::{DataPlaneStatus, LaneStatus, NodeStatus};
use culvert_node::settings::Settings;
use culvert_protocol::counted::{agree, counted};
use culvert_state::StateDirectory;

use crate::api_client::ApiClient;
use crate::args::{EngineArgs, GlobalArgs, StatusArgs};
use crate::exit::CommandError;
use crate::progress;
use crate::report::{print_json, say};

/// Shows the running node.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: GlobalArgs, args: StatusArgs) -> Result<ExitCode, CommandError> {
    let settings = Settings::resolve(&global.flags(&EngineArgs::default()))?;
    let state = StateDirectory::at(settings.state.value.clone());
    let status = ApiClient::need(&state).await?.status().await?;
    if args.json {
        print_json(&status)?;
    } else {
        say(&text(&status))?;
    }
    Ok(ExitCode::Done)
}

/// A status for people.
#[must_use]
pub fn text(status: &NodeStatus) -> String {
    let mut lines = vec![format!("node '{}', culvert {}, key {}", status.name, status.version, status.fingerprint)];
    if let Some(port) = status.port {
        lines.push(format!("listening on TCP port {port}"));
    }
    match &status.dataplane {
        None => lines.push("the data plane is not running".to_owned()),
        Some(plane) => lines.extend(data_plane_lines(plane, status.dataplane_restarts)),
    }
    match status.transfers.as_slice() {
        [] => lines.push("no transfers are running".to_owned()),
        transfers => {
            for record in transfers {
                let how = record.progress.as_ref().map_or(record.state.word().to_owned(), progress::line);
                lines.push(format!("{}  {}  {how}", record.transfer, record.description));
            }
        }
    }
    if status.pending_keys > 0 {
        lines.push(format!(
            "{} {} for approval: 'culvert profile pending' lists {}",
            counted(status.pending_keys, "key"),
            agree(status.pending_keys, "waits", "wait"),
            agree(status.pending_keys, "it", "them")
        ));
    }
    lines.join("\n")
}

fn data_plane_lines(plane: &DataPlaneStatus, restarts: u64) -> Vec<String> {
    let mode = plane.af_xdp_mode.as_ref().map_or(String::new(), |mode| format!(" ({mode})"));
    let hugepages = if plane.hugepages { ", hugepages" } else { "" };
    let restarted = if restarts > 0 { format!(", restarted {}", counted(restarts, "time")) } else { String::new() };
    let mut lines =
        vec![format!("data plane: process {}, {}{mode}{hugepages}{restarted}", plane.process_id, plane.datapath)];
    lines.extend(plane.lanes.iter().map(lane_line));
    if let Some(steering) = &plane.steering {
        lines.extend(steering.rules.iter().map(|rule| {
            let (family, port, queue) = (rule.family.name(), rule.port, rule.queue);
            format!("  receive rule {}: {family} port {port} to queue {queue}", rule.location)
        }));
        lines.extend(steering.rules_missing.iter().map(|why| format!("  {why}")));
    }
    lines.extend(plane.refusals.iter().map(|refusal| format!("  {refusal}")));
    lines.extend(plane.sandbox_gaps.iter().map(|gap| format!("  sandbox: {gap}")));
    lines
}

fn lane_line(lane: &LaneStatus) -> String {
    let total = lane.busy_ns.saturating_add(lane.idle_ns).max(1);
    format!(
        "  lane {}: core {}, UDP port {}, busy {:.0} %, sent {}, received {}, {} sent again, {}, {}/{}{}{}",
        lane.lane,
        lane.core.map_or("any".to_owned(), |core| core.to_string()),
        lane.port,
        lane.busy_ns as f64 * 100.0 / total as f64,
        show_bytes(lane.sent_bytes),
        show_bytes(lane.received_bytes),
        counted(lane.segments_resent, "segment"),
        counted(lane.socket_drops, "drop"),
        lane.buffers_in_use,
        counted(u64::try_from(lane.buffers).unwrap_or(u64::MAX), "buffer"),
        if lane.gso { "" } else { ", without GSO" },
        if lane.gro { "" } else { ", without GRO" },
    )
}
