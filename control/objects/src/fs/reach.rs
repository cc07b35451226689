//! The files of this host that a request may use, and how a path typed by a user or a partner leads
//! to a destination or to sources.

mod opener;
mod patterns;
pub mod permitted;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use culvert_model::profile::{PermissionSummary, PermittedRoot};
use culvert_protocol::control::{PermissionAnswer, Refusal, RefusalCode};
use culvert_system::os_error;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::fs::destination::refusals::refusal;
use crate::fs::destination::{Destination, MissingDestination};
use crate::fs::reach::opener::Opener;
use crate::fs::sources::Source;
use crate::fs::sources::named::{SourceOpener, wants_contents};

/// The files of this host that a request may use.
#[derive(Clone, Debug)]
pub enum Reach {
    /// Everything that the user running this process may use: for that user's own requests.
    Owner {
        /// The start of relative paths.
        directory: PathBuf,
    },
    /// The directories that a profile permits a partner.
    Permitted(Vec<PermittedRoot>),
}

impl Reach {
    /// Whether files may be stored here, and whether any may be fetched. May wait for a disk.
    #[must_use]
    pub fn leaves(&self) -> PermissionSummary {
        match self {
            Self::Owner { .. } => PermissionSummary { store: PermissionAnswer::Yes, fetch: PermissionAnswer::Yes },
            Self::Permitted(roots) => permitted::leaves_of(roots),
        }
    }

    /// Opens the directory in which a transfer is stored, and makes it if it does not exist.
    /// `typed` is the path as the user wrote it. A single file takes its last component as its
    /// name, unless a directory of that name exists or the path ends with a slash. In a dry run,
    /// nothing is made, and a missing directory counts as empty.
    ///
    /// # Errors
    /// [`Refusal`]: not permitted, a symlink in the path, not a directory.
    pub fn open_destination(
        &self,
        typed: &[u8],
        is_single_file: bool,
        making: MissingDestination,
    ) -> Result<Destination, Refusal> {
        let typed_path = Path::new(OsStr::from_bytes(typed));
        let (root, below) = match self {
            Self::Owner { directory } => (PathBuf::from("/"), owner_path(directory, typed_path)?),
            Self::Permitted(roots) => permitted_path(roots, typed_path, true)?,
        };
        let shown = root.join(&below);
        let is_owner = matches!(self, Self::Owner { .. });
        let opener = Opener { root: open_root(&root)?, shown: shown.clone(), follows_symlinks: is_owner, making };
        let wants_directory = typed.ends_with(b"/") || typed.ends_with(b"/.") || below.as_os_str().is_empty();
        match opener.open_directory(&below) {
            Ok(base) => return Ok(Destination::new(base, shown, None, false)),
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR) if is_single_file && !wants_directory => {}
            Err(error) => return Err(opener.refusal(error)),
        }
        if is_single_file && !wants_directory {
            let name = below.file_name().unwrap_or_default().as_bytes().to_vec();
            let parent = below.parent().unwrap_or(Path::new("")).to_owned();
            let (base, is_fresh) = opener.make_directories(&parent)?;
            let shown = shown.parent().unwrap_or(&shown).to_owned();
            return Ok(Destination::new(base, shown, Some(name), is_fresh));
        }
        let (base, is_fresh) = opener.make_directories(&below)?;
        Ok(Destination::new(base, shown, None, is_fresh))
    }

    /// Opens the source that one typed path names.
    pub(super) fn open_source(&self, typed: &[u8], sources: &mut SourceOpener) -> Result<Source, Refusal> {
        let typed_path = Path::new(OsStr::from_bytes(typed));
        let roots = match self {
            Self::Owner { directory } => {
                let path = owners(directory, typed_path)?;
                // Joining must keep the final slash, which asks for the contents.
                let mut bytes = path.into_os_string().into_vec();
                if typed.ends_with(b"/") && !bytes.ends_with(b"/") {
                    bytes.push(b'/');
                }
                let source = sources.local(Path::new(OsStr::from_bytes(&bytes)));
                return source.map_err(|error| Refusal::new(error.code(), error.to_string()));
            }
            Self::Permitted(roots) => roots,
        };
        let (root, below) = permitted_path(roots, typed_path, false)?;
        let shown = root.join(&below);
        let contents = wants_contents(typed_path) || below.as_os_str().is_empty();
        let root = sources.bases.root(&root, open_root)?;
        sources
            .beneath(&root, &below, contents, shown.clone())
            .map_err(|error| refusal(&shown, false, "read it", error))
    }
}

/// A path typed by the owner, relative to `/`.
pub(super) fn owner_path(directory: &Path, typed: &Path) -> Result<PathBuf, Refusal> {
    if typed.as_os_str().as_bytes().contains(&0) {
        return Err(Refusal::new(RefusalCode::Protocol, "the destination's path contains a NUL byte"));
    }
    let joined = owners(directory, typed)?;
    Ok(joined.strip_prefix("/").unwrap_or(&joined).to_owned())
}

/// The beginning of the refusal for a partner that lacks a permission.
pub const NOT_PERMITTED: &str = "the partner does not permit this node";

/// Splits a partner's path into the permitted root that holds it and the rest.
pub(super) fn permitted_path(
    roots: &[PermittedRoot],
    typed: &Path,
    writes: bool,
) -> Result<(PathBuf, PathBuf), Refusal> {
    let action = if writes { "store" } else { "fetch" };
    let shown = typed.display();
    let plain = typed.components().all(|part| !matches!(part, Component::ParentDir | Component::Prefix(_)));
    if is_in_a_home(typed) {
        let text = format!(
            "'{shown}' is in a home directory, but a partner's node has none: write a path in a \
             directory that it permits, or put ./ in front of a name that starts with ~"
        );
        return Err(Refusal::new(RefusalCode::NotFound, text));
    }
    if !plain || typed.as_os_str().as_bytes().contains(&0) {
        return Err(not_permitted(format!(
            "'{shown}' contains '..' or a NUL byte, which paths at a partner must not contain"
        )));
    }
    let may = |root: &&PermittedRoot| if writes { root.permission.writes() } else { root.permission.reads() };
    let mut permitted = roots.iter().filter(may);
    let found = if typed.is_absolute() {
        permitted.find_map(|root| Some((root.path.clone(), typed.strip_prefix(&root.path).ok()?.to_owned())))
    } else {
        let below = typed.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        permitted.next().map(|root| (root.path.clone(), below))
    };
    found.ok_or_else(|| {
        let right = if writes { "write" } else { "read" };
        let edit = "culvert profile edit NAME --permit";
        // Partners without permission must not learn whether it is a directory.
        let above = typed.parent().filter(|above| typed.is_absolute() && above.parent().is_some());
        not_permitted(if let Some(above) = above.filter(|_| !writes && !wants_contents(typed)) {
            format!(
                "the partner does not permit this node to {action} '{shown}': its admin can permit the directory that \
                 it is in with '{edit} {}:{right}', or itself if it is a directory",
                above.display()
            )
        } else if typed.is_absolute() {
            format!(
                "{NOT_PERMITTED} to {action} '{shown}': its admin can permit it, or a directory \
                 above it, with '{edit} {shown}:{right}'"
            )
        } else {
            format!(
                "{NOT_PERMITTED} to {action} anything: its admin can permit a directory with \
                 '{edit} DIRECTORY:{right}'"
            )
        })
    })
}

/// Opens a directory that a profile permits, or the root of the owner's paths.
pub(super) fn open_root(root: &Path) -> Result<OwnedFd, Refusal> {
    rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
        let text = format!("the permitted directory {} cannot be opened: {error}", root.display());
        os_error::refusal(error, text)
    })
}

/// The full form of a path typed by the owner. No shell has expanded it, so a leading `~` is
/// expanded here, as scp's far end does.
fn owners(directory: &Path, typed: &Path) -> Result<PathBuf, Refusal> {
    let mut below = typed.components();
    match below.next() {
        Some(Component::Normal(first)) if first == "~" => match below.as_path() {
            path if path.as_os_str().is_empty() => Ok(directory.to_owned()),
            path => Ok(directory.join(path)),
        },
        Some(Component::Normal(first)) if first.as_bytes().starts_with(b"~") => Err(Refusal::new(
            RefusalCode::NotFound,
            format!(
                "'{}' is in another user's home directory, which Culvert does not look up: write \
                 the full path, or put ./ in front of a name that starts with ~",
                typed.display()
            ),
        )),
        _ => Ok(directory.join(typed)),
    }
}

/// Whether a path begins with `~`, which a shell would expand.
fn is_in_a_home(typed: &Path) -> bool {
    matches!(typed.components().next(), Some(Component::Normal(first)) if first.as_bytes().starts_with(b"~"))
}

fn not_permitted(text: String) -> Refusal {
    Refusal::new(RefusalCode::NotPermitted, text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use culvert_model::profile::Permission;

    use super::*;

    fn permitted(path: &Path, permission: Permission) -> Reach {
        Reach::Permitted(vec![PermittedRoot { path: path.to_owned(), permission }])
    }

    fn refused(reach: &Reach, typed: &[u8]) -> Refusal {
        reach.open_destination(typed, false, MissingDestination::WithMode(None)).unwrap_err()
    }

    #[test]
    fn a_tilde_is_the_owners_directory_and_nobody_elses() {
        let home = Path::new("/home/u");
        let path = |typed: &str| owners(home, Path::new(typed)).map(|path| path.display().to_string());
        let right = [
            ("~", "/home/u"),
            ("~/", "/home/u"),
            ("~/in/a", "/home/u/in/a"),
            ("in", "/home/u/in"),
            ("/in/~", "/in/~"),
            ("in/~/x", "/home/u/in/~/x"),
            ("./~x", "/home/u/./~x"),
        ];
        for (typed, meant) in right {
            assert_eq!(path(typed).unwrap(), meant, "{typed}");
        }
        for typed in ["~root", "~root/x", "~~", "~+/x"] {
            let refusal = path(typed).unwrap_err();
            assert!(refusal.code == RefusalCode::NotFound && refusal.text.contains(typed), "{typed}");
        }
    }

    #[test]
    fn a_partner_stays_beneath_its_root() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("in")).unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        symlink("../outside", root.join("link")).unwrap();
        let reach = permitted(&root, Permission::Both);
        let inside = reach.open_destination(b"in/new/deep", false, MissingDestination::WithMode(None)).unwrap();
        assert!(inside.is_fresh && root.join("in/new/deep").is_dir());
        let absolute = root.join("in/new");
        assert!(
            !reach
                .open_destination(absolute.as_os_str().as_bytes(), false, MissingDestination::WithMode(None))
                .unwrap()
                .is_fresh
        );
        for typed in [b"../outside".as_slice(), b"in/../../outside", b"/etc", b"/", b"link", b"link/x", b"a\0b"] {
            assert_eq!(refused(&reach, typed).code, RefusalCode::NotPermitted, "{typed:?}");
        }
        assert_eq!(fs::read_dir(directory.path().join("outside")).unwrap().count(), 0);
    }

    #[test]
    fn directions_are_permitted_one_by_one() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "x").unwrap();
        let (reads, writes) =
            (permitted(directory.path(), Permission::Read), permitted(directory.path(), Permission::Write));
        let open = |reach: &Reach, name: &str| reach.open_source(name.as_bytes(), &mut SourceOpener::default());
        assert!(open(&reads, "file").is_ok());
        assert_eq!(open(&writes, "file").unwrap_err().code, RefusalCode::NotPermitted);
        assert!(writes.open_destination(b"", false, MissingDestination::WithMode(None)).is_ok());
        assert_eq!(refused(&reads, b"").code, RefusalCode::NotPermitted);
        assert_eq!(open(&reads, "missing").unwrap_err().code, RefusalCode::NotFound);
    }

    #[test]
    fn a_single_file_may_take_the_destinations_name() {
        let directory = tempfile::tempdir().unwrap();
        let reach = Reach::Owner { directory: directory.path().to_owned() };
        let named = reach.open_destination(b"made/copy", true, MissingDestination::WithMode(None)).unwrap();
        assert_eq!(named.single_name.as_deref(), Some(b"copy".as_slice()));
        assert!(directory.path().join("made").is_dir() && !directory.path().join("made/copy").exists());
        assert_eq!(
            reach.open_destination(b"made", true, MissingDestination::WithMode(None)).unwrap().single_name,
            None
        );
        assert_eq!(
            reach.open_destination(b"made/copy/", true, MissingDestination::WithMode(None)).unwrap().single_name,
            None
        );
        assert!(directory.path().join("made/copy").is_dir());
    }

    #[test]
    fn the_owner_may_go_through_symlinks() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("real")).unwrap();
        symlink(directory.path().join("real"), directory.path().join("link")).unwrap();
        let reach = Reach::Owner { directory: directory.path().to_owned() };
        reach.open_destination(b"link/new", false, MissingDestination::WithMode(None)).unwrap();
        assert!(directory.path().join("real/new").is_dir());
    }
}
