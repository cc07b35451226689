//! `backup` and `restore`: the database's file, while the portal runs and while it does not.
//!
//! A copy holds no secret in clear, and none that can be opened without the sealing key: keep that
//! elsewhere.

use std::path::Path;

use anyhow::{Context as _, bail};
use culvert_portal_model::page::PageRequest;
use culvert_portal_seams::clock::{Clock as _, SystemClock};
use culvert_portal_service::audit::verify;
use culvert_portal_service::sequencer;
use culvert_portal_store::audit::{self, Filter};
use culvert_portal_store::{Database, keys as sealed, users};

use super::{on, open, say};
use crate::args::Common;
use crate::serve::with_cause;
use crate::state::parts;
use crate::{access, keys, logging, state};

/// Writes a copy.
///
/// # Errors
/// What went wrong; what stands at the place already is not touched.
pub async fn back_up(common: &Common, to: &Path) -> anyhow::Result<()> {
    if to.as_os_str() == "-" {
        bail!("a copy is a file, not standard output: name one (./- for one that is called so)");
    }
    if to.exists() {
        bail!("{} is there already: name a new file", to.display());
    }
    let portal = open(common).await?;
    let directory = access::directory_of(to);
    // Under another name until it is whole and on the disk.
    let unfinished = directory.join(format!(".{}.unfinished", to.file_name().unwrap_or_default().display()));
    let _ = std::fs::remove_file(&unfinished);
    let text = unfinished.to_str().context("the file's name must be UTF-8")?;
    let copied = portal.database.back_up_into(text).await;
    portal.database.close().await;
    let finished = copied.map_err(anyhow::Error::from).and_then(|()| {
        set_private(&unfinished)?;
        std::fs::File::open(&unfinished)?.sync_all()?;
        std::fs::hard_link(&unfinished, to)?;
        Ok(std::fs::File::open(directory)?.sync_all()?)
    });
    let _ = std::fs::remove_file(&unfinished);
    finished.with_context(|| format!("cannot write {}", to.display()))?;
    say(&format!("wrote {}; it needs the sealing key, which is not in it", to.display()))
}

/// Puts a copy back, after it was looked at: that it is a portal's, opens with the sealing key that
/// is here, and has a whole audit trail.
///
/// # Errors
/// What went wrong; the database is as it was then.
pub async fn restore(common: &Common, from: &Path) -> anyhow::Result<()> {
    logging::begin(common.log);
    if common.database.is_some() {
        bail!("restore is for the SQLite database of the state directory; use pg_restore for PostgreSQL");
    }
    drop(std::fs::File::open(from).map_err(|error| access::denied(error, "read the copy", from))?);
    let directory = state::directory(common);
    if keys::sealing_key(common, &directory)?.is_none() {
        bail!(
            "there is no {}: put the sealing key that belongs to {} there (mode 600), or name it with \
             --sealing-key-file",
            keys::path(&directory).display(),
            from.display()
        );
    }
    // A host that takes another's place has no state yet.
    let directory = state::make(common)?;
    let _in_use = state::take_alone(&directory)?;
    let (place, new) = (directory.join(state::DATABASE), directory.join("restored.db"));
    remove_with_journal(&new)?;
    let looked_at = take_over(common, &directory, from, &new).await;
    if looked_at.is_err() {
        remove_with_journal(&new)?;
    }
    say(&looked_at?)?;
    access::belong_like(&new, if place.exists() { &place } else { &directory })?;
    if place.exists() {
        let kept = directory.join(format!("before-restore-{}.db", SystemClock.now().as_second()));
        set_aside(&place, &kept).await?;
        access::belong_like(&kept, &new)?;
        say(&format!("what was there is kept as {}", kept.display()))?;
    }
    std::fs::rename(&new, &place).with_context(|| format!("cannot move the copy to {}", place.display()))?;
    std::fs::File::open(&directory)?.sync_all()?;
    say(&format!("restored {}", place.display()))
}

/// Copies a copy into the state directory, and looks at it there. Gives what is in it, for people.
async fn take_over(common: &Common, directory: &Path, from: &Path, new: &Path) -> anyhow::Result<String> {
    std::fs::copy(from, new).with_context(|| format!("cannot copy {} to {}", from.display(), new.display()))?;
    set_private(new)?;
    let text = new.to_str().context("the state directory's name must be UTF-8")?;
    let opened = Database::open_existing(&format!("sqlite:{text}")).await;
    let database = opened.with_context(|| format!("{} is not a copy of a portal's database", from.display()))?;
    let checked = check(common, directory, &database).await;
    database.close().await;
    checked
        .map(|what| format!("{} has {what}", from.display()))
        .with_context(|| format!("{} is not put back, and the database is as it was", from.display()))
}

async fn check(common: &Common, directory: &Path, database: &Database) -> anyhow::Result<String> {
    if sealed::is_empty(&mut database.read().await?).await? {
        bail!("no portal has ever served from it");
    }
    let portal = on(common, database.clone(), directory).await?;
    sequencer::number_all(&portal).await.map_err(with_cause)?;
    let entries = match verify(database, &portal.signing.public_key(), None).await.map_err(with_cause)? {
        Ok(count) => count,
        Err(fault) => bail!("its audit trail is not whole: {fault}"),
    };
    let mut reading = database.read().await?;
    let accounts = users::count(&mut reading).await?;
    let newest = audit::list(&mut reading, &Filter::default(), &PageRequest { after: None, rows: 1 }).await?;
    let last = newest.first().map(|entry| format!(", the last of {} ({})", entry.at, entry.action));
    Ok(format!("accounts: {accounts}; entries of the audit trail: {entries}{}", last.unwrap_or_default()))
}

/// Moves the database aside, all of it in one file; as it is, if it cannot be read any more: that
/// may be why another is put back.
async fn set_aside(place: &Path, kept: &Path) -> anyhow::Result<()> {
    match copy_aside(place, kept).await {
        Ok(()) => remove_with_journal(place),
        Err(error) => {
            say(&format!("the database that is there cannot be read ({error:#}): its files are kept as they are"))?;
            remove_with_journal(kept)?;
            for (file, kept) in parts(place).zip(parts(kept)).filter(|(file, _)| file.exists()) {
                std::fs::rename(&file, &kept).with_context(|| format!("cannot move {}", file.display()))?;
            }
            Ok(())
        }
    }
}

async fn copy_aside(place: &Path, kept: &Path) -> anyhow::Result<()> {
    let text = place.to_str().context("the state directory's name must be UTF-8")?;
    let database = Database::open_existing(&format!("sqlite:{text}")).await?;
    let copy = kept.to_str().context("the state directory's name must be UTF-8")?;
    let copied = database.back_up_into(copy).await;
    database.close().await;
    copied?;
    set_private(kept)
}

fn remove_with_journal(path: &Path) -> anyhow::Result<()> {
    for file in parts(path) {
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(access::denied(error, "remove", &file));
            }
            _ => {}
        }
    }
    Ok(())
}

fn set_private(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?)
}
