//! The manifest on its way: listed and sent part by part on one side, checked and gathered on the other.

use std::sync::Arc;

use culvert_protocol::control::{Message, RefusalCode, decode_entries};
use culvert_protocol::manifest::Manifest;
use tokio::sync::{mpsc, watch};

use super::{Phase, Progress, TransferError};
use crate::connection::{Connection, MessageReader};
use crate::destination::plan::NameCheck;
use crate::shares::Share;
use crate::sources::{Source, SourceError, SourceTree, list};

/// Parts of a manifest that may be listed and not yet sent.
const PARTS_AHEAD: usize = 16;

/// Lists `sources` and sends the manifest.
///
/// # Errors
/// [`TransferError`]; a source that does not exist is [`RefusalCode::NotFound`].
pub async fn send_manifest(
    connection: &Connection,
    sources: Vec<Source>,
    progress: &watch::Sender<Progress>,
) -> Result<Arc<SourceTree>, TransferError> {
    progress.send_modify(|progress| progress.phase = Phase::Listing);
    let (parts, mut listed) = mpsc::channel(PARTS_AHEAD);
    let listing = tokio::task::spawn_blocking(move || {
        // If nobody takes the parts any more the listing's end shows why.
        list(sources, |part| drop(parts.blocking_send(part)))
    });
    while let Some(part) = connection.writer.keep_alive(listed.recv()).await {
        connection.writer.send(Message::ManifestPart(part)).await?;
    }
    let tree = match connection.writer.keep_alive(listing).await {
        Ok(listed) => listed.map_err(|error| source_refusal(&error))?,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let end = Message::ManifestEnd {
        entries: tree.manifest.len() as u32,
        digest: tree.manifest.digest(),
        allocated_bytes: tree.allocated_bytes,
        is_single_file: tree.is_single_file,
    };
    connection.writer.send(end).await?;
    progress.send_modify(|progress| {
        progress.phase = Phase::Planning;
        progress.bytes_total = tree.manifest.total_bytes();
        progress.files_total = tree.manifest.file_count();
    });
    Ok(Arc::new(tree))
}

/// A source's error as a refusal.
#[must_use]
pub fn source_refusal(error: &SourceError) -> TransferError {
    let code = match error {
        SourceError::NotFound(_) => RefusalCode::NotFound,
        SourceError::Collision { .. } => RefusalCode::Collision,
        SourceError::Unreadable { .. } | SourceError::Special(_) | SourceError::Entry { .. } => RefusalCode::Failed,
    };
    TransferError::here(code, error.to_string())
}

/// A manifest that has arrived.
#[derive(Debug)]
pub struct ReceivedManifest {
    /// The entries, checked one by one and against each other.
    pub manifest: Manifest,
    /// Room that the files need.
    pub allocated_bytes: u64,
    /// Whether the one file may take the destination's name.
    pub is_single_file: bool,
}

/// What a partner is told whose transfers list more than this node keeps for one.
pub(super) const TOO_MUCH_LISTED: &str =
    "the partner's transfers together list more than this node keeps in memory for one partner: divide them";

/// Gathers a manifest.
///
/// # Errors
/// [`TransferError`] if the partner sends anything else, or an entry that cannot be.
pub async fn receive_manifest(
    reader: &mut MessageReader,
    writer: &crate::connection::MessageWriter,
    progress: &watch::Sender<Progress>,
    cancel: &mut watch::Receiver<bool>,
    share: &mut Share,
) -> Result<ReceivedManifest, TransferError> {
    progress.send_modify(|progress| progress.phase = Phase::Listing);
    let (mut manifest, mut names) = (Manifest::default(), NameCheck::default());
    loop {
        let message = tokio::select! {
            message = reader.next_in_time() => message?,
            () = super::TransferContext::canceled(cancel) => return Err(canceled()),
        };
        match message {
            Message::ManifestPart(part) => {
                for entry in decode_entries(&part) {
                    let entry = entry.map_err(|error| TransferError::protocol(error.to_string()))?;
                    if !share.take_entry(entry.name.len() + entry.target.len()) {
                        return Err(TransferError::here(RefusalCode::Temporary, TOO_MUCH_LISTED));
                    }
                    manifest
                        .push(&entry)
                        .map_err(|error| TransferError::here(RefusalCode::Protocol, error.to_string()))?;
                    // Here and not when all have come: while the partner lists, this side has time.
                    names.add(&entry).map_err(TransferError::Here)?;
                }
                progress.send_modify(|progress| {
                    progress.bytes_total = manifest.total_bytes();
                    progress.files_total = manifest.file_count();
                });
            }
            Message::ManifestEnd { entries, digest, allocated_bytes, is_single_file } => {
                if entries as usize != manifest.len() || digest != manifest.digest() {
                    return Err(TransferError::protocol("the manifest is not the one that its end announces"));
                }
                let is_single_file = is_single_file && manifest.len() == 1 && manifest.file_count() == 1;
                return Ok(ReceivedManifest { manifest, allocated_bytes, is_single_file });
            }
            Message::Refused(refusal) => return Err(TransferError::Partner(refusal)),
            Message::Ping(number) => writer.send_urgent(Message::Pong(number))?,
            Message::Pong(_) => {}
            other => return Err(unexpected(&other, "the manifest")),
        }
    }
}

/// Somebody on this side canceled the transfer.
#[must_use]
pub fn canceled() -> TransferError {
    TransferError::here(RefusalCode::Canceled, "the transfer was canceled")
}

/// A message that does not belong here.
#[must_use]
pub fn unexpected(message: &Message, expected: &str) -> TransferError {
    let name = format!("{message:?}");
    let name: String = name.chars().take_while(char::is_ascii_alphanumeric).collect();
    TransferError::protocol(format!("a message '{name}' came instead of {expected}"))
}
