//! The exchange of the manifest: one side lists the sources and sends it part by part, the other
//! checks it entry by entry.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_connection::MessageReader;
use culvert_model::progress::{Phase, Progress};
use culvert_objects::fs::destination::name_check::NameCheck;
use culvert_objects::fs::sources::{SourceError, TOO_MUCH_LISTED};
use culvert_objects::source::{ListingTerms, Readable, SourceTree, Sources};
use culvert_protocol::control::{
    CONTENTS_HAVE_A_MODE_SINCE, LIST_BYTES, LeftOut, Message, Refusal, RefusalCode, decode_entries,
};
use culvert_protocol::dry_run::Finding;
use culvert_protocol::manifest::Manifest;
use culvert_system::os_error::explained;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::TransferError;
use crate::events::{Event, Observer};
use crate::limits::{LISTING_WAIT, LISTINGS_MAX, LISTINGS_PER_PARTNER, Limit};
use crate::shares::{Kind, Piece, Share};
use crate::{TransferContext, blocking};

/// Parts of a manifest that may be listed and not yet sent.
const PARTS_AHEAD: usize = 16;
/// How often a transfer that waits for its listing looks whether it may begin.
const LISTING_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Lists `sources` and sends the manifest.
///
/// # Errors
/// [`TransferError`]; a source that does not exist is [`RefusalCode::NotFound`].
pub async fn send_manifest(
    context: &TransferContext,
    sources: Box<dyn Sources>,
) -> Result<Arc<SourceTree>, TransferError> {
    let place =
        context.connection.writer.keep_alive(place_for_listing(&context.share, context.observer.as_ref())).await?;
    let (connection, progress) = (&context.connection, &context.progress);
    progress.send_modify(|progress| progress.phase = Phase::Listing);
    let readable = if context.options.dry_run { Readable::Asked } else { Readable::FoundOut };
    let mut listing = Listing::begin(sources, context.share.branch(), place, readable)?;
    while let Some(part) = connection.writer.keep_alive(listing.parts.recv()).await {
        connection.writer.send(Message::ManifestPart(part)).await?;
    }
    let (tree, digest) = connection.writer.keep_alive(listing.end()).await?;
    //= W-58
    //# Before `ManifestEnd`, at most once, the sender reports how much it would leave out, and
    //# lists the first of it, as many as `LeftOut` would.
    if context.tells_dry_run() && tree.listing.problem_count > 0 {
        let found = Finding::LeftOut { count: tree.listing.problem_count, first: left_out(&tree) };
        connection.writer.send(Message::DryRun(found)).await?;
    }
    //= W-59
    //# Since version 7, a sender whose manifest is the contents of one directory sends that
    //# directory's mode (nine bits) with `ContentsOf`, before `ManifestEnd` and at most once.
    if let Some(mode) = tree.listing.contents_mode.filter(|_| connection.version >= CONTENTS_HAVE_A_MODE_SINCE) {
        connection.writer.send(Message::ContentsOf { mode }).await?;
    }
    let end = Message::ManifestEnd {
        entries: u32::try_from(tree.listing.manifest.len()).unwrap_or(u32::MAX),
        digest,
        allocated_bytes: tree.listing.allocated_bytes,
        is_single_file: tree.listing.is_single_file,
    };
    connection.writer.send(end).await?;
    progress.send_modify(|progress| {
        progress.phase = Phase::Planning;
        progress.bytes_total = tree.listing.manifest.total_bytes();
        progress.files_total = tree.listing.manifest.file_count();
    });
    Ok(Arc::new(tree))
}

/// A listing in progress, in its own thread: a slow reader blocks that thread and nothing else.
struct Listing {
    parts: mpsc::Receiver<Vec<u8>>,
    end: oneshot::Receiver<Result<(SourceTree, [u8; 32]), Refusal>>,
}

impl Listing {
    /// Begins to list. `share` is what the entries are counted in, `place` is kept until the end.
    fn begin(
        sources: Box<dyn Sources>,
        mut share: Share,
        place: Option<Piece>,
        readable: Readable,
    ) -> Result<Self, TransferError> {
        let (parts, listed) = mpsc::channel(PARTS_AHEAD);
        let (told, end) = oneshot::channel();
        let list = move || {
            let mut may_take = |name_bytes| share.is_users() || share.take_entry(name_bytes);
            // If nobody takes the parts, the transfer has ended: the listing stops.
            let mut on_part = |part| parts.blocking_send(part).is_ok();
            let terms = ListingTerms { on_part: &mut on_part, may_take: &mut may_take, readable };
            let tree = sources.list(terms);
            drop(parts);
            let listed = tree.map(|mut tree| {
                tree.held = Some(Box::new(share));
                let digest = tree.listing.manifest.digest();
                (tree, digest)
            });
            drop(place);
            // If the transfer has ended, nobody waits for it.
            let _ = told.send(listed);
        };
        let thread = std::thread::Builder::new().name("listing".to_owned()).spawn(list);
        thread.map_err(|error| {
            TransferError::here(
                RefusalCode::Temporary,
                explained(format!("this node cannot list the sources now: {error}")),
            )
        })?;
        Ok(Self { parts: listed, end })
    }

    /// What was listed.
    async fn end(self) -> Result<(SourceTree, [u8; 32]), TransferError> {
        let panicked = || TransferError::here(RefusalCode::Failed, "the listing of the sources failed");
        self.end.await.map_err(|_| panicked())?.map_err(TransferError::Here)
    }
}

/// A source's error as a refusal.
#[must_use]
pub fn source_refusal(error: &SourceError) -> TransferError {
    TransferError::here(error.code(), error.to_string())
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
    /// The mode of the directory whose contents are sent.
    pub contents_mode: Option<u16>,
    /// What a dry run would leave out: how much, and the first of it.
    pub left_out: (u64, Vec<LeftOut>),
}

/// The first of what was left out, as far as it fits a message.
#[must_use]
pub fn left_out(tree: &SourceTree) -> Vec<LeftOut> {
    let mut bytes = 0usize;
    let told = tree.listing.problems.iter().take_while(|problem| {
        bytes = bytes.saturating_add(problem.name.len()).saturating_add(problem.text.len()).saturating_add(32);
        bytes <= LIST_BYTES
    });
    told.map(|problem| LeftOut {
        name: problem.name.clone(),
        code: problem.code.to_owned(),
        text: problem.text.clone(),
    })
    .collect()
}

/// Receives a manifest. `is_told` says that it belongs to a dry run whose sender reports what it
/// would leave out.
///
/// # Errors
/// [`TransferError`] if the partner sends anything else, or an entry that cannot be.
pub async fn receive_manifest(
    reader: &mut MessageReader,
    writer: &culvert_connection::MessageWriter,
    progress: &watch::Sender<Progress>,
    cancel: &mut watch::Receiver<bool>,
    share: &mut Share,
    observer: &dyn Observer,
    is_told: bool,
) -> Result<ReceivedManifest, TransferError> {
    progress.send_modify(|progress| progress.phase = Phase::Listing);
    let (mut manifest, mut names) = (Manifest::default(), NameCheck::default());
    let mut left_out = (0, Vec::new());
    let mut contents_mode = None;
    loop {
        let message = tokio::select! {
            message = reader.next_in_time() => message?,
            () = crate::TransferContext::canceled(cancel) => return Err(canceled()),
        };
        match message {
            Message::ManifestPart(part) => {
                take_part(&part, &mut manifest, &mut names, share, observer)?;
                progress.send_modify(|progress| {
                    progress.bytes_total = manifest.total_bytes();
                    progress.files_total = manifest.file_count();
                });
            }
            Message::ManifestEnd { entries, digest, allocated_bytes, is_single_file } => {
                // A large manifest takes a while to hash.
                let hashing = blocking(move || (manifest.digest(), manifest));
                let (ours, manifest) = writer.keep_alive(hashing).await;
                if entries as usize != manifest.len() || digest != ours {
                    return Err(TransferError::protocol("the manifest does not match the count and digest at its end"));
                }
                let is_single_file = is_single_file && manifest.len() == 1 && manifest.file_count() == 1;
                return Ok(ReceivedManifest { manifest, allocated_bytes, is_single_file, contents_mode, left_out });
            }
            Message::DryRun(Finding::LeftOut { count, first }) if is_told && left_out.0 == 0 => {
                if count == 0 || first.len() as u64 > count {
                    return Err(TransferError::protocol("it lists more that it would leave out than it counts"));
                }
                left_out = (count, first);
            }
            Message::ContentsOf { mode } if contents_mode.is_none() => {
                if mode > 0o777 {
                    return Err(TransferError::protocol(format!("its directory has the mode {mode:o}")));
                }
                contents_mode = Some(mode);
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
    /// Takes the first word of what is formatted, and has the rest left unformatted.
    struct FirstWord(String);
    impl std::fmt::Write for FirstWord {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            let word = text.split(|character: char| !character.is_ascii_alphanumeric()).next().unwrap_or_default();
            self.0.push_str(word);
            if word.len() == text.len() { Ok(()) } else { Err(std::fmt::Error) }
        }
    }
    let mut name = FirstWord(String::new());
    // The error is how it ends.
    let _ = std::fmt::Write::write_fmt(&mut name, format_args!("{message:?}"));
    TransferError::protocol(format!("a message '{}' came instead of {expected}", name.0))
}

/// Adds a part to a manifest, entry by entry. Not when all have come: while the partner lists, this
/// side has time.
fn take_part(
    part: &[u8],
    manifest: &mut Manifest,
    names: &mut NameCheck,
    share: &mut Share,
    observer: &dyn Observer,
) -> Result<(), TransferError> {
    //= W-36
    //# The receiver checks every entry by itself and against the earlier ones.
    for entry in decode_entries(part) {
        let entry = entry.map_err(|error| TransferError::protocol(error.to_string()))?;
        if !share.take_entry(entry.name.len().saturating_add(entry.target.len())) {
            observer.note(Event::LimitReached(Limit::ManifestBytes));
            return Err(TransferError::here(RefusalCode::Temporary, TOO_MUCH_LISTED));
        }
        manifest.push(&entry).map_err(|error| TransferError::here(RefusalCode::Protocol, error.to_string()))?;
        names.add(&entry).map_err(TransferError::Here)?;
    }
    Ok(())
}

/// Waits until the partner may have another listing. This node's user does not wait.
async fn place_for_listing(share: &Share, observer: &dyn Observer) -> Result<Option<Piece>, TransferError> {
    if share.is_users() {
        return Ok(None);
    }
    let began = Instant::now();
    loop {
        let place = share.try_pieces(Kind::Listings, 1, LISTINGS_PER_PARTNER, LISTINGS_MAX);
        if place.is_some() {
            return Ok(place);
        }
        if began.elapsed() >= LISTING_WAIT {
            observer.note(Event::LimitReached(Limit::Listings));
            let text = format!(
                "this node is already listing the sources of {LISTINGS_PER_PARTNER} of the \
                 partner's transfers, which is taking long: try again"
            );
            return Err(TransferError::here(RefusalCode::Temporary, text));
        }
        tokio::time::sleep(LISTING_LOOK_INTERVAL).await;
    }
}
