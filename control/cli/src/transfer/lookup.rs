//! Finds transfers and their records, with or without a running node.

use culvert_model::exit_code::ExitCode;
use culvert_model::record::TransferRecord;
use culvert_node::registry::Registry;
use culvert_protocol::control::TransferId;
use culvert_protocol::counted::counted;
use culvert_protocol::foreign_text::plain_lines;
use culvert_state::StateDirectory;

use crate::api_client::ApiClient;
use crate::exit::CommandError;

/// The shortest prefix of an id that is accepted. The first ten characters of an id are a time.
const ID_CHARACTERS_MIN: usize = 4;
/// How many transfers an ambiguous prefix lists.
const NAMED_MAX: usize = 3;

/// All transfers, from the running node or else from the state directory.
pub async fn records(state: &StateDirectory) -> Result<Vec<TransferRecord>, CommandError> {
    match ApiClient::connect(state).await? {
        Some(api) => api.transfers().await,
        None => {
            let registry = Registry::open(state.clone())?;
            for message in registry.left_alone() {
                say_aside!("culvert: {}", plain_lines(&message));
            }
            Ok(registry.list())
        }
    }
}

/// The record of a transfer, given by its id or a unique prefix.
pub async fn find(state: &StateDirectory, id: &str) -> Result<TransferRecord, CommandError> {
    let records = records(state).await?;
    let id = matching_id(id, &records)?;
    records.into_iter().find(|record| record.transfer == id).ok_or_else(|| {
        CommandError::new(ExitCode::NotFound, format!("there is no transfer {id}; 'culvert transfer list' lists all"))
    })
}

/// The id of a transfer, given by its id or a unique prefix.
pub async fn id_of(state: &StateDirectory, typed: &str) -> Result<String, CommandError> {
    if typed.parse::<TransferId>().is_ok() {
        return Ok(typed.to_ascii_uppercase());
    }
    matching_id(typed, &records(state).await?)
}

/// The id that `typed` means: itself, or the only one of `records` that starts with it.
fn matching_id(typed: &str, records: &[TransferRecord]) -> Result<String, CommandError> {
    let id = typed.to_ascii_uppercase();
    let matches = |record: &&TransferRecord| id.len() >= ID_CHARACTERS_MIN && record.transfer.starts_with(&id);
    let found: Vec<&str> = records.iter().filter(matches).map(|record| record.transfer.as_str()).collect();
    match found.as_slice() {
        [one] => Ok((*one).to_owned()),
        // The record may have been removed, or the node's records may be unreadable here.
        [] if id.parse::<TransferId>().is_ok() => Ok(id),
        [] => Err(CommandError::new(
            ExitCode::NotFound,
            format!("there is no transfer {typed}; 'culvert transfer list' lists all"),
        )),
        several => {
            let named = several.get(..NAMED_MAX).unwrap_or(several).join(", ");
            Err(CommandError::usage(format!(
                "{} begin with {typed} ({named}{}): write more of the id",
                counted(several.len(), "transfer"),
                if several.len() > NAMED_MAX { ", …" } else { "" }
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use culvert_model::record::{RecordState, Role};

    use super::*;

    fn record(id: &str) -> TransferRecord {
        let description = String::new();
        let record =
            TransferRecord::new(TransferId::new(1, 7), Role::Send, "lab", description, RecordState::Succeeded, 0);
        TransferRecord { transfer: id.to_owned(), ..record }
    }

    #[test]
    fn a_unique_prefix_of_an_id_is_accepted() {
        let all = ["01JD3V5K6A0000000000000000", "01JD3V5K6B0000000000000000"].map(record);
        assert_eq!(matching_id("01jd3v5k6b", &all).unwrap(), all[1].transfer);
        assert_eq!(matching_id(&all[0].transfer, &all).unwrap(), all[0].transfer);
        let several = matching_id("01JD3V", &all).unwrap_err();
        assert!(several.exit_code == 2 && several.text.contains(&all[1].transfer), "{several}");
        // Too short, although it is unique.
        assert_eq!(matching_id("01J", &all[..1]).unwrap_err().exit_code, 3);
        assert_eq!(matching_id("nonsense", &all).unwrap_err().exit_code, 3);
        // A complete id that is unknown here may be known to the node.
        assert_eq!(matching_id("01JD3V5K6C0000000000000000", &all).unwrap(), "01JD3V5K6C0000000000000000");
    }
}
