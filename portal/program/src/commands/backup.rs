//! `backup` and `restore`: the database's file, while the portal runs and while it does not.
//!
//! A copy holds no secret in clear, and none that can be opened without the sealing key: keep that
//! elsewhere.

use std::path::Path;

use anyhow::{Context as _, bail};
use culvert_portal_store::Database;

use super::{open, say};
use crate::args::Common;
use crate::state;

/// Writes a copy.
///
/// # Errors
/// What went wrong; what stands at the place already is not touched.
pub async fn back_up(common: &Common, to: &Path) -> anyhow::Result<()> {
    if to.exists() {
        bail!("{} is there already: name a new file", to.display());
    }
    let portal = open(common).await?;
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
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

/// Puts a copy back.
///
/// # Errors
/// What went wrong; the database is as it was then.
pub async fn restore(common: &Common, from: &Path) -> anyhow::Result<()> {
    if common.database.is_some() {
        bail!("restore is for the SQLite database of the state directory; use pg_restore for PostgreSQL");
    }
    let directory = state::directory(common)?;
    let _in_use = state::take_alone(&directory)?;
    let place = directory.join(state::DATABASE);
    let new = directory.join("restored.db");
    remove_with_journal(&new)?;
    std::fs::copy(from, &new).with_context(|| format!("cannot copy {}", from.display()))?;
    set_private(&new)?;
    // Opening brings it up to date, or says that it is no database of this program.
    let text = new.to_str().context("the state directory's name must be UTF-8")?;
    let opened = Database::open(&format!("sqlite:{text}")).await;
    let database = opened.with_context(|| format!("{} is not a copy of a portal's database", from.display()))?;
    database.close().await;
    if place.exists() {
        let kept = directory.join(format!("before-restore-{}.db", jiff::Timestamp::now().as_second()));
        set_aside(&place, &kept).await?;
        say(&format!("what was there is kept as {}", kept.display()))?;
    }
    std::fs::rename(&new, &place).with_context(|| format!("cannot move the copy to {}", place.display()))?;
    std::fs::File::open(&directory)?.sync_all()?;
    say(&format!("restored {}", place.display()))
}

/// Moves the database aside, all of it in one file.
async fn set_aside(place: &Path, kept: &Path) -> anyhow::Result<()> {
    let text = place.to_str().context("the state directory's name must be UTF-8")?;
    let database = Database::open(&format!("sqlite:{text}")).await.context("the database that is there")?;
    let copy = kept.to_str().context("the state directory's name must be UTF-8")?;
    let copied = database.back_up_into(copy).await;
    database.close().await;
    copied.with_context(|| format!("cannot keep the database that is there as {}", kept.display()))?;
    set_private(kept)?;
    remove_with_journal(place)
}

fn remove_with_journal(path: &Path) -> anyhow::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let file = path.with_file_name(format!("{}{suffix}", path.file_name().unwrap_or_default().display()));
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", file.display()));
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
