//! When a receiving transfer stalls: whether it makes any progress, and whose turn it is.
//!
//! Progress is what was verified or newly arrived, and files whose outcome is known. The sender's
//! claims are not progress, nor is anything it sends twice: otherwise it could hold this node's
//! buffers and files as long as it likes by claiming to be alive.

use culvert_protocol::counted::{counted, noun};

use crate::receiving::arriving::Arriving;
use crate::receiving::statement::Ending;
use crate::receiving::storing::Storing;
use crate::receiving::tally::Tally;

/// What is incomplete, and what the transfer waits for.
pub(super) fn outstanding(tally: &Tally, arriving: &Arriving, storing: &Storing, ending: &Ending) -> String {
    let (files, chunks) = (counted(tally.files_left(), "file"), counted(arriving.coming(), "chunk"));
    format!("{files} and {chunks} are outstanding; {}", who_owes(arriving, storing, ending))
}

/// Whether the sender is the reason why flows hold chunks: `incomplete` ones, or `whole` ones of
/// which no other wait for this host's disks than packs without hashes.
pub(super) fn is_senders_turn(arriving: &Arriving, storing: &Storing, incomplete: u32, whole: u32) -> bool {
    let waits_for_sender = incomplete > 0 || whole as usize <= arriving.packs_waiting();
    waits_for_sender && !storing.is_in_motion()
}

/// Whose turn it is, and for what.
fn who_owes(arriving: &Arriving, storing: &Storing, ending: &Ending) -> String {
    if storing.is_in_motion() || storing.committing.is_syncing() || ending.is_making_statement() {
        return "waiting for this host's disks".to_owned();
    }
    if ending.has_statement() {
        return "waiting for the sender's signature".to_owned();
    }
    let mut owed = Vec::new();
    let without_hash = arriving.whole();
    let incomplete = arriving.coming().saturating_sub(without_hash);
    if incomplete > 0 {
        owed.push(format!("the rest of {} that it started", counted(incomplete, "chunk")));
    }
    if without_hash > 0 {
        owed.push(format!("the {} of {}", noun(without_hash, "hash"), counted(without_hash, "chunk")));
    }
    let whole = storing.files.without_word();
    if whole > 0 {
        owed.push(format!("confirmation that {} did not change", counted(whole, "whole file")));
    }
    if ending.sender.is_none() {
        owed.push("confirmation that it sent everything".to_owned());
    }
    if owed.is_empty() {
        owed.push("the chunks that it has credit for".to_owned());
    }
    format!("waiting for the sender to send {}", owed.join(", "))
}
