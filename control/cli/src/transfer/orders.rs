//! Orders about a node's transfers: pause, resume, restart, cancel.
//!
//! The node answers an order at once, and a transfer needs a moment to stop. `pause` and `cancel`
//! therefore wait for the transfer's state, so that scripts can rely on it.

use std::time::Duration;

use culvert_model::exit_code::ExitCode;
use culvert_model::record::{RecordState, TransferRecord};
use culvert_state::StateDirectory;
use tokio::time::Instant;

use crate::api_client::ApiClient;
use crate::exit::CommandError;
use crate::report::print_json;
use crate::transfer::lookup::id_of;

/// How often the node is asked for the transfer's state.
const POLL: Duration = Duration::from_millis(50);
/// How long `cancel` waits. A transfer may hang on a disk, or be hashing a large file.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

/// Resumes or restarts a transfer, as `what` says.
pub async fn order(state: &StateDirectory, id: &str, what: &str, json: bool) -> Result<ExitCode, CommandError> {
    let api = ApiClient::need(state).await?;
    let id = &id_of(state, id).await?;
    api.order(id, what).await?;
    if json {
        print_state(&api.transfer(id).await?)?;
    }
    Ok(ExitCode::Done)
}

/// Pauses a transfer and waits until it has stopped.
pub async fn pause(state: &StateDirectory, id: &str, json: bool, quiet: bool) -> Result<ExitCode, CommandError> {
    let api = ApiClient::need(state).await?;
    let id = &id_of(state, id).await?;
    report_if_already(&api, id, RecordState::Paused, quiet).await?;
    api.order(id, "pause").await?;
    loop {
        let record = api.transfer(id).await?;
        if has_stopped_as(&record, RecordState::Paused) {
            if json {
                print_state(&record)?;
            }
            return Ok(ExitCode::Done);
        }
        refuse_if_ended(&record, "paused")?;
        tokio::time::sleep(POLL).await;
    }
}

/// Cancels a transfer. Waits until it is canceled, for at most [`CANCEL_WAIT`].
pub async fn cancel(state: &StateDirectory, id: &str, json: bool, quiet: bool) -> Result<ExitCode, CommandError> {
    let api = ApiClient::need(state).await?;
    let id = &id_of(state, id).await?;
    report_if_already(&api, id, RecordState::Canceled, quiet).await?;
    api.cancel(id).await?;
    let record = wait_until_canceled(&api, id, CANCEL_WAIT).await?;
    if record.state != RecordState::Canceled && !quiet {
        say_aside!(
            "culvert: cancellation of transfer {id} was requested and is under way; 'culvert transfer wait {id}' \
             waits until it has ended"
        );
    }
    if json {
        print_state(&record)?;
    }
    Ok(ExitCode::Done)
}

/// Waits until a transfer that was asked to stop is canceled, for at most `patience`. Returns its
/// record then, whatever the state.
async fn wait_until_canceled(api: &ApiClient, id: &str, patience: Duration) -> Result<TransferRecord, CommandError> {
    let deadline = Instant::now() + patience;
    loop {
        let record = api.transfer(id).await?;
        if has_stopped_as(&record, RecordState::Canceled) || Instant::now() >= deadline {
            return Ok(record);
        }
        refuse_if_ended(&record, "canceled")?;
        tokio::time::sleep(POLL).await;
    }
}

/// Whether a transfer has stopped in a state. A record with progress belongs to one that is still
/// stopping.
fn has_stopped_as(record: &TransferRecord, state: RecordState) -> bool {
    record.state == state && record.progress.is_none()
}

fn refuse_if_ended(record: &TransferRecord, what: &str) -> Result<(), CommandError> {
    let (id, state) = (&record.transfer, record.state);
    if !state.is_final() || (state == RecordState::Canceled && what == "canceled") {
        return Ok(());
    }
    Err(CommandError::failed(format!("transfer {id} has ended ({}) before it could be {what}", state.word())))
}

/// Reports an order that changes nothing.
async fn report_if_already(api: &ApiClient, id: &str, wanted: RecordState, quiet: bool) -> Result<(), CommandError> {
    let record = api.transfer(id).await?;
    if has_stopped_as(&record, wanted) && !quiet {
        say_aside!("culvert: transfer {id} is already {}", wanted.word());
    }
    Ok(())
}

/// Prints the state of a transfer after an order.
fn print_state(record: &TransferRecord) -> Result<(), CommandError> {
    print_json(&serde_json::json!({ "transfer": record.transfer, "state": record.state }))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;

    use culvert_model::record::Role;
    use culvert_protocol::control::TransferId;

    use super::*;

    const ID: TransferId = TransferId::new(1, 7);

    /// Serves a transfer's record on the socket of a node's API: in each of `states` once, and in
    /// the last one from then on.
    fn serve(listener: UnixListener, states: Vec<RecordState>) {
        std::thread::spawn(move || {
            let mut served = 0;
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = [0; 1 << 10];
                // The client connects once without a request.
                if stream.read(&mut head).unwrap() == 0 {
                    continue;
                }
                let state = states[served.min(states.len() - 1)];
                served += 1;
                let record = TransferRecord::new(ID, Role::Send, "lab", "a → b".to_owned(), state, 0);
                let body = serde_json::to_string(&record).unwrap();
                let length = body.len();
                write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
                    .unwrap();
            }
        });
    }

    async fn canceled(states: Vec<RecordState>, patience: Duration) -> Result<RecordState, CommandError> {
        let room = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(room.path()).unwrap();
        serve(UnixListener::bind(state.path("api.sock")).unwrap(), states);
        let api = ApiClient::connect(&state).await.unwrap().unwrap();
        wait_until_canceled(&api, &ID.to_string(), patience).await.map(|record| record.state)
    }

    /// `cancel` returned while the transfer was still running.
    #[tokio::test(flavor = "current_thread")]
    async fn cancel_waits_for_the_state_for_a_bounded_time() {
        use RecordState::{Active, Canceled, Succeeded};
        let long = Duration::from_secs(60);
        assert_eq!(canceled(vec![Active, Active, Active, Canceled], long).await.unwrap(), Canceled);
        let began = Instant::now();
        assert_eq!(canceled(vec![Active], 4 * POLL).await.unwrap(), Active, "the transfer hangs");
        assert!(began.elapsed() >= 4 * POLL);
        let error = canceled(vec![Active, Succeeded], long).await.unwrap_err();
        assert!(error.text.contains("has ended (succeeded) before it could be canceled"), "{error}");
    }
}
