//! `culvert transfer receipt`: verifies a receipt offline.

use std::ffi::OsStr;
use std::path::Path;

use culvert_model::exit_code::ExitCode;
use culvert_model::units::show_bytes;
use culvert_node::registry::Registry;
use culvert_protocol::control::TransferId;
use culvert_protocol::counted::counted;
use culvert_protocol::identity::PublicKey;
use culvert_protocol::receipt::Receipt;
use culvert_state::StateDirectory;
use culvert_system::regular_file::{ReadError, read_named};

use crate::exit::{CommandError, of_path};
use crate::report::{print_json, say};

/// Size of a receipt: a line of text and two signatures are much smaller.
const RECEIPT_BYTES_MAX: u64 = 1 << 20;

/// Verifies both signatures of a receipt, and compares its keys with the given ones.
pub fn verify(
    state: &StateDirectory,
    what: &OsStr,
    sender: Option<&str>,
    receiver: Option<&str>,
    json: bool,
) -> Result<ExitCode, CommandError> {
    let text = match what.to_str().filter(|id| id.parse::<TransferId>().is_ok()) {
        Some(id) => Registry::open(state.clone())?
            .receipt(id.parse().map_err(CommandError::usage)?)?
            .ok_or_else(|| CommandError::new(ExitCode::NotFound, format!("there is no receipt of transfer {id}")))?,
        None => {
            read_named(Path::new(what), RECEIPT_BYTES_MAX, |text| say_aside!("culvert: {text}")).map_err(|error| {
                let text = format!("the receipt {} cannot be read: {error}", what.display());
                let code = if let ReadError::Os(error) = &error { of_path(error) } else { ExitCode::NotFound };
                CommandError::new(code, text)
            })?
        }
    };
    let (_, statement) = Receipt::verify(&text)
        .map_err(|error| CommandError::new(ExitCode::Verification, format!("the receipt is not valid: {error}")))?;
    for (who, expected, found) in [("sender", sender, statement.sender), ("receiver", receiver, statement.receiver)] {
        let Some(expected) = expected else { continue };
        let is_key = expected.parse::<PublicKey>().is_ok_and(|key| key == found);
        if !is_key && expected != found.fingerprint() {
            let text = format!("the receipt is valid, but its {who} is {}, not {expected}", found.fingerprint());
            return Err(CommandError::new(ExitCode::Verification, text));
        }
    }
    if json {
        print_json(&statement)?;
    } else {
        say(&format!(
            "valid: signed by both\n  transfer   {}\n  sender     {}\n  receiver   {}\n  stored     {}, {}; {} failed\n  blake3     {}\n  sealed     {}, {}, {} sent again\n  verdict    {}",
            statement.transfer,
            statement.sender.fingerprint(),
            statement.receiver.fingerprint(),
            counted(statement.files, "file"),
            show_bytes(statement.bytes),
            statement.files_failed,
            if statement.root_blake3.is_empty() { "none" } else { &statement.root_blake3 },
            statement.cipher,
            counted(statement.segments_sent, "segment"),
            statement.segments_resent,
            statement.verdict
        ))?;
    }
    Ok(ExitCode::Done)
}
