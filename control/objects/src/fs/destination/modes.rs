//! The modes of files that are stored without `--preserve`, the same as with `cp`, `scp` and
//! `rsync`: the source's mode, limited to what a new file in that directory may have ([decision
//! 0071](../../../docs/decisions/0071-modes.md)).
//!
//! That limit is the directory's default ACL or, without one, this process's umask; the kernel
//! applies the same limit to files that it creates. Under a name that others can find, a file is
//! private until it is whole, so its final mode has to be set here.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, FileType, Mode, chmodat, fgetxattr, fstat, lgetxattr, statat};
use rustix::io::Errno;

use crate::fs::destination::action::Action;

/// The mode of files being written: accessible only to their owner.
pub const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Permissions, without the setuid, setgid and sticky bits.
const PERMISSIONS: u32 = 0o777;
/// Space for an ACL of a hundred entries. A longer one is not evaluated.
const ACL_BYTES_MAX: usize = 4 + 8 * 100;

/// This process's umask.
#[must_use]
pub fn process_umask() -> Mode {
    static UMASK: OnceLock<u32> = OnceLock::new();
    Mode::from_raw_mode(*UMASK.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        umask_in(&status).unwrap_or_else(asked_umask)
    }))
}

/// The permissions that a new file in a directory may have.
#[must_use]
pub fn permitted_in(directory: impl AsFd) -> Mode {
    let mut acl = [0; ACL_BYTES_MAX];
    let default = match fgetxattr(directory, "system.posix_acl_default", &mut acl) {
        Ok(bytes) => acl.get(..bytes).and_then(mode_of_acl),
        // An ACL too long to evaluate: the owner's permissions alone are safe.
        Err(Errno::RANGE) => Some(Mode::RWXU),
        Err(_) => None,
    };
    default.unwrap_or_else(|| Mode::from_raw_mode(PERMISSIONS) & !process_umask())
}

/// The mode of a file whose mode is not preserved. `source` is the sender's mode; `file` is open
/// and will be `last` in `parent`; `permitted` is the limit for new files there. A replaced file
/// passes its mode on if it has the same owner and group and no ACL: otherwise its permissions
/// would apply to other users. Then the file gets what both modes permit.
///
/// # Errors
/// Those of the operating system.
pub fn mode_to_have(
    source: u16,
    file: impl AsFd,
    (parent, last): (impl AsFd, &Path),
    permitted: Mode,
    action: Action,
) -> Result<Mode, Errno> {
    let new = Mode::from_raw_mode(source.into()) & permitted;
    if action != Action::Replace {
        return Ok(new);
    }
    let old = match statat(&parent, last, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(old) if FileType::from_raw_mode(old.st_mode) == FileType::RegularFile => old,
        // A symlink, which has no mode, is replaced by a file.
        Ok(_) | Err(Errno::NOENT) => return Ok(new),
        Err(error) => return Err(error),
    };
    let ours = fstat(file)?;
    let had = Mode::from_raw_mode(old.st_mode & PERMISSIONS);
    let is_of_same = (old.st_uid, old.st_gid) == (ours.st_uid, ours.st_gid);
    Ok(if is_of_same && !has_acl(parent, last) { had } else { new & had })
}

/// Sets the mode through a descriptor that may be `O_PATH`, which `fchmod` refuses.
///
/// # Errors
/// Those of the operating system.
pub fn set_mode(file: &OwnedFd, mode: Mode) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    chmodat(CWD, path, mode, AtFlags::empty())
}

/// The umask in a process's status (proc_pid_status(5)).
fn umask_in(status: &str) -> Option<u32> {
    let digits = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(digits.trim(), 8).ok()
}

/// The umask, read with the system call that also changes it. For a moment it is 077: files created
/// then are private.
fn asked_umask() -> u32 {
    let mask = rustix::process::umask(Mode::from_raw_mode(0o077));
    rustix::process::umask(mask);
    mask.as_raw_mode()
}

/// The permissions of an ACL as a mode: the owner's, at most those of named users and groups, and
/// those of others.
fn mode_of_acl(acl: &[u8]) -> Option<Mode> {
    const OWNER: u16 = 0x01;
    const GROUP: u16 = 0x04;
    const MASK: u16 = 0x10;
    const OTHERS: u16 = 0x20;
    let (version, entries) = acl.split_first_chunk()?;
    if u32::from_le_bytes(*version) != 2 {
        return None;
    }
    let (entries, _) = entries.as_chunks::<8>();
    let permissions = |wanted: u16| {
        let is_it = |&&[low, high, ..]: &&[u8; 8]| u16::from_le_bytes([low, high]) == wanted;
        entries.iter().find(is_it).map(|&[_, _, low, high, ..]| u32::from(u16::from_le_bytes([low, high])) & 7)
    };
    let group = permissions(MASK).or_else(|| permissions(GROUP))?;
    Some(Mode::from_raw_mode(permissions(OWNER)? << 6 | group << 3 | permissions(OTHERS)?))
}

/// Whether a file has an ACL beyond its mode.
fn has_acl(parent: impl AsFd, last: &Path) -> bool {
    let directory = format!("/proc/self/fd/{}/", parent.as_fd().as_raw_fd());
    let path = [directory.as_bytes(), last.as_os_str().as_bytes()].concat();
    let length = lgetxattr(path.as_slice(), "system.posix_acl_access", &mut [0u8; 0][..]);
    length.is_ok_and(|length| length > 0)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_umask_is_read_and_not_changed() {
        assert_eq!(umask_in("Name:\tculvert\nUmask:\t0027\nState:\tR\n"), Some(0o027));
        assert_eq!(umask_in("Name:\tculvert\n"), None);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert_eq!(umask_in(&status), Some(asked_umask()));
    }

    fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
        let entry = |&(tag, permissions): &(u16, u16)| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &u32::MAX.to_le_bytes()].concat()
        };
        [2u32.to_le_bytes().to_vec(), entries.iter().flat_map(entry).collect()].concat()
    }

    #[test]
    fn an_acl_permits_what_its_mask_leaves() {
        let plain = acl(&[(0x01, 7), (0x04, 5), (0x20, 0)]);
        assert_eq!(mode_of_acl(&plain), Some(Mode::from_raw_mode(0o750)));
        let masked = acl(&[(0x01, 6), (0x02, 7), (0x04, 7), (0x10, 4), (0x20, 1)]);
        assert_eq!(mode_of_acl(&masked), Some(Mode::from_raw_mode(0o641)));
        for broken in [&masked[..3], &masked[..12], &[], &[9; 44]] {
            assert_eq!(mode_of_acl(broken), None);
        }
    }

    struct Fixture(tempfile::TempDir);

    impl Fixture {
        fn mode(&self, source: u16, action: Action) -> u32 {
            let ours = File::create(self.0.path().join("ours")).unwrap();
            let parent = File::open(self.0.path()).unwrap();
            let permitted = Mode::from_raw_mode(0o750);
            mode_to_have(source, &ours, (&parent, Path::new("f")), permitted, action).unwrap().as_raw_mode()
        }
    }

    #[test]
    fn a_file_that_is_replaced_hands_its_mode_on_to_the_same_owner_and_group() {
        let fixture = Fixture(tempfile::tempdir().unwrap());
        assert_eq!(fixture.mode(0o664, Action::Create), 0o640);
        assert_eq!(fixture.mode(0o664, Action::Replace), 0o640, "nothing is there any more");
        let path = fixture.0.path().join("f");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4705)).unwrap();
        assert_eq!(fixture.mode(0o664, Action::Replace), 0o705);
        assert_eq!(fixture.mode(0o664, Action::Create), 0o640);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, None, Some(65_534)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
            assert_eq!(fixture.mode(0o644, Action::Replace), 0o640, "another group's");
            assert_eq!(fixture.mode(0o600, Action::Replace), 0o600);
        }
    }
}
