//! Being let in by somebody who has a browser (RFC 8628): this host shows a code, they confirm it
//! at the portal, and this host, which has asked all the while, gets a token.

use std::time::{Duration, Instant};

use culvert_model::exit_code::ExitCode;
use culvert_protocol::counted::counted;
use serde_json::json;

use crate::exit::CommandError;
use crate::portal::client::{Credential, PortalClient, PortalError};
use crate::portal::documents::{DeviceCode, NewToken, TokenWish};
use crate::portal::schedule::PollSchedule;

/// Shows a code on standard error, and waits until somebody has decided. If the portal cannot be
/// reached meanwhile, this waits for it.
///
/// # Errors
/// [`CommandError`] if nobody lets it in.
pub async fn be_let_in(client: &PortalClient, wish: &TokenWish<'_>) -> Result<NewToken, CommandError> {
    let mut body = json!({ "client": wish.name, "scopes": wish.scopes });
    if let Some(days) = wish.days {
        body["days"] = days.into();
    }
    let codes: DeviceCode = client.post("/device/code", Credential::Nothing, &body).await?;
    let begun = Instant::now();
    say_aside!("culvert: open {} where you have a browser", codes.verification_uri_complete);
    say_aside!(
        "culvert: it must show the code {}: let '{}' in there, within {}",
        codes.user_code,
        wish.name,
        counted(Duration::from_secs(codes.expires_in).as_secs().div_ceil(60), "minute")
    );
    let question = json!({ "device_code": codes.device_code.text() });
    let mut schedule = PollSchedule::new(codes.interval, codes.expires_in);
    while let Some(wait) = schedule.wait(begun.elapsed()) {
        tokio::time::sleep(wait).await;
        match client.post("/device/token", Credential::Nothing, &question).await {
            Ok(made) => return Ok(made),
            Err(error) => hear(&mut schedule, error)?,
        }
    }
    if schedule.has_failed() {
        let text = format!("{} did not answer until the code was no longer good: try again", client.url());
        return Err(CommandError::new(ExitCode::Temporary, text));
    }
    Err(expired())
}

/// What an answer without a token means for the next question.
fn hear(schedule: &mut PollSchedule, error: PortalError) -> Result<(), CommandError> {
    match error.code() {
        Some("authorization-pending") => schedule.waits(),
        Some("slow-down") => schedule.slow_down(error.retry_after_seconds()),
        Some("access-denied") => {
            let text = "the portal did not let this host in: whoever saw the code refused it, or may not log in";
            return Err(CommandError::new(ExitCode::NotPermitted, text));
        }
        Some("expired-token") => return Err(expired()),
        _ if error.is_temporary() => {
            if !schedule.has_failed() {
                say_aside!("culvert: {error}; asking again as long as the code is good");
            }
            schedule.failed();
        }
        _ => return Err(error.into()),
    }
    Ok(())
}

fn expired() -> CommandError {
    CommandError::new(ExitCode::TimedOut, "nobody let this host in while the code was good: run the command again")
}
