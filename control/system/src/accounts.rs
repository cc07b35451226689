//! Accounts of this host: who owns a state directory, and how a process becomes its owner.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// The state directory of the system's node.
pub const SYSTEM_STATE: &str = "/var/lib/culvert";

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    uid: u32,
    gid: u32,
    /// Its name, or `'#UID'`, which a shell and sudo accept, if `/etc/passwd` does not have it.
    pub name: String,
}

impl Account {
    /// The owner of the file or directory at a path.
    fn owner_of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self { uid: found.uid(), gid: found.gid(), name: name_of(found.uid()) })
    }

    /// Becomes the account, with its groups, for good. Only for a process with one thread: the
    /// kernel keeps credentials per thread.
    ///
    /// # Errors
    /// Those of the operating system; the process must then end.
    pub fn assume(&self) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let groups = groups_of(&fs::read_to_string("/etc/group").unwrap_or_default(), &self.name);
        set_thread_groups(&groups.into_iter().chain([self.gid]).map(Gid::from_raw).collect::<Vec<_>>())?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        Ok(())
    }
}

/// A state directory that belongs to another account, which is neither root nor this process's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedState {
    /// The directory.
    pub path: PathBuf,
    /// Its owner.
    pub owner: Account,
}

impl OwnedState {
    /// The state directory at `path`, if it exists and belongs to another account. One that belongs
    /// to root does not count: `culvert tune` creates it.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        let owner = Account::owner_of(path).ok()?;
        let is_anothers = owner.uid != 0 && owner.uid != geteuid().as_raw();
        (path.is_dir() && is_anothers).then(|| Self { path: path.to_owned(), owner })
    }

    /// The state directory of the system's node.
    #[must_use]
    pub fn of_system() -> Option<Self> {
        Self::at(Path::new(SYSTEM_STATE))
    }

    /// The command line that runs a command on it as its owner.
    #[must_use]
    pub fn command(&self, command: &str) -> String {
        format!("sudo -u {} culvert --state {} {command}", self.owner.name, self.path.display())
    }

    /// A hint at the system's node, for a caller that asked about another state directory; empty if
    /// there is no such node or it is the one asked about.
    #[must_use]
    pub fn hint(asked: &Path, command: &str) -> String {
        Self::of_system().filter(|system| system.path != asked).map_or_else(String::new, |system| {
            format!("; the system's node has its own in {}: {}", system.path.display(), system.command(command))
        })
    }
}

/// Whether the system's node runs as this account.
#[must_use]
pub fn is_systems() -> bool {
    let own = geteuid();
    !own.is_root() && fs::metadata(SYSTEM_STATE).is_ok_and(|found| found.is_dir() && found.uid() == own.as_raw())
}

/// The remedy for a path in a state directory that this account may not use: which directory
/// belongs to another account, and how to run the command as that account.
#[must_use]
pub fn remedy(path: &Path, state: &Path) -> Option<String> {
    // Nothing below a directory without search permission can be examined.
    let seen = path.ancestors().find(|path| path.metadata().is_ok())?;
    let owner = Account::owner_of(seen).ok().filter(|owner| owner.uid != geteuid().as_raw())?;
    let (seen, state, name) = (seen.display(), state.display(), owner.name);
    Some(format!(
        "{seen} belongs to {name}: run the command as that account (sudo -u {name} culvert --state {state} …), \
         or name another directory with --state"
    ))
}

/// Says that the account of this process lacks a right; `what` is a verb and its object.
#[must_use]
pub fn may_not(what: &str) -> String {
    format!("the account {} may not {what}", name_of(geteuid().as_raw()))
}

fn name_of(uid: u32) -> String {
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("'#{uid}'"))
}

/// The groups, in a list in the format of group(5), that have this member.
fn groups_of(list: &str, member: &str) -> Vec<u32> {
    let of_member = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let (gid, members) = (fields.next()?, fields.next()?);
        members.split(',').any(|name| name == member).then(|| gid.parse().ok())?
    };
    list.lines().filter_map(of_member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_have_names_and_groups() {
        assert_eq!((name_of(0).as_str(), name_of(4_000_000_001).as_str()), ("root", "'#4000000001'"));
        let groups = "root:x:0:\ndata:x:1001:ann,culvert\nculvert:x:999:\nmore:x:1002:culverts\nbad:x:y:culvert\n";
        assert_eq!(groups_of(groups, "culvert"), [1001]);
    }

    #[test]
    fn a_directory_of_this_account_is_not_anothers() {
        let room = tempfile::tempdir().unwrap();
        assert_eq!(OwnedState::at(room.path()), None);
        assert_eq!(OwnedState::at(&room.path().join("none")), None);
        assert_eq!(remedy(&room.path().join("x"), room.path()), None);
    }
}
