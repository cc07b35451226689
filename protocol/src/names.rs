//! Names of files as they travel: relative, of plain components, and never believed before they
//! were checked here.
//!
//! A name is bytes, as Unix has it; it need not be UTF-8. The receiver checks every name with
//! [`check_relative`] before it uses any part of it, and then still opens it beneath the permitted
//! root only.

/// The longest name of a file within a transfer.
pub const NAME_BYTES_MAX: usize = 4_096;
/// The longest component of a name.
pub const COMPONENT_BYTES_MAX: usize = 255;
/// What the names of Culvert's own temporary files begin with; no transferred file may bear such a
/// name.
pub const TEMPORARY_PREFIX: &[u8] = b".culvert-partial-";

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or a slash too many.
    #[error("it has an empty component")]
    Empty,
    /// `/etc/passwd`
    #[error("it is absolute")]
    Absolute,
    /// `a/../b` or `a/./b`
    #[error("it has a component '.' or '..'")]
    Dots,
    /// A NUL byte.
    #[error("it contains a NUL byte")]
    Nul,
    /// Longer than [`NAME_BYTES_MAX`], or with a component longer than [`COMPONENT_BYTES_MAX`].
    #[error("it is longer than 4096 bytes, or has a component longer than 255 bytes")]
    TooLong,
    /// Begins like Culvert's own temporary files.
    #[error("it has a component that starts like Culvert's temporary files (.culvert-partial-)")]
    Reserved,
}

/// Checks a name that a partner sent: relative, every component plain.
///
/// # Errors
/// [`NameError`] names the first rule that does not hold.
pub fn check_relative(name: &[u8]) -> Result<(), NameError> {
    //= W-36
    //# A name is relative and at most 4,096 bytes long. It has no empty, `.` or `..` components, no
    //# NUL, and no component longer than 255 bytes, and it is not one of Culvert's temporary names.
    if name.first() == Some(&b'/') {
        return Err(NameError::Absolute);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong);
    }
    name.split(|&byte| byte == b'/').try_for_each(|component| match component {
        b"" => Err(NameError::Empty),
        b"." | b".." => Err(NameError::Dots),
        _ if component.contains(&0) => Err(NameError::Nul),
        _ if component.len() > COMPONENT_BYTES_MAX => Err(NameError::TooLong),
        _ if component.starts_with(TEMPORARY_PREFIX) => Err(NameError::Reserved),
        _ => Ok(()),
    })
}

/// Checks that a symlink at `name` with `target` stays inside the transfer: relative, and climbing
/// no higher than the top.
///
/// `..` is accepted only at the target's beginning, where it climbs through directories that the
/// transfer itself made. Behind another component it could climb out of where a second symlink
/// leads.
#[must_use]
pub fn symlink_stays_inside(name: &[u8], target: &[u8]) -> bool {
    //= W-36
    //# A symlink's target stays inside the sent tree.
    if target.is_empty() || target.len() > NAME_BYTES_MAX || target.starts_with(b"/") || target.contains(&0) {
        return false;
    }
    let mut depth = name.iter().filter(|&&byte| byte == b'/').count();
    let mut climbing = true;
    target.split(|&byte| byte == b'/').all(|component| match component {
        b"" | b"." => true,
        b".." if climbing && depth > 0 => {
            depth = depth.saturating_sub(1);
            true
        }
        b".." => false,
        _ => {
            climbing = false;
            true
        }
    })
}

/// How a name is printed: as it is where it is UTF-8 that shows itself
/// ([`crate::foreign_text::is_plain`]), else with its other characters and bytes escaped.
#[must_use]
pub fn printable(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for part in name.utf8_chunks() {
        part.valid().chars().for_each(|character| crate::foreign_text::push_plain(character, &mut out));
        for byte in part.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_trick_has_its_error() {
        //= W-36
        //# A name is relative and at most 4,096 bytes long. It has no empty, `.` or `..`
        //# components, no NUL, and no component longer than 255 bytes, and it is not one of
        //# Culvert's temporary names.
        for (name, error) in [
            (b"".as_slice(), NameError::Empty),
            (b"a//b", NameError::Empty),
            (b"a/", NameError::Empty),
            (b"/etc/passwd", NameError::Absolute),
            (b"..", NameError::Dots),
            (b"a/../../b", NameError::Dots),
            (b"./a", NameError::Dots),
            (b"a\0b", NameError::Nul),
            (b"a/.culvert-partial-1", NameError::Reserved),
        ] {
            assert_eq!(check_relative(name), Err(error), "{}", printable(name));
        }
        assert_eq!(check_relative(&[b'a'; 256]), Err(NameError::TooLong));
        assert_eq!(check_relative(&b"a/".repeat(2049)), Err(NameError::TooLong));
        assert_eq!(check_relative(b"a/..b/...c/\xff\xfe"), Ok(()));
    }

    #[test]
    fn a_name_that_would_read_backwards_is_escaped() {
        assert_eq!(printable("invoice\u{202e}fdp.exe".as_bytes()), "invoice\\u{202e}fdp.exe");
        assert_eq!(printable("a\u{2066}b\u{200b}c\nd".as_bytes()), "a\\u{2066}b\\u{200b}c\\nd");
    }

    #[test]
    fn symlinks_that_leave_are_noticed() {
        //= W-36
        //# A symlink's target stays inside the sent tree.
        assert!(symlink_stays_inside(b"a/b/link", b"../other"));
        assert!(symlink_stays_inside(b"a/b/link", b"../../x/./y"));
        assert!(!symlink_stays_inside(b"link", b"a/../b"), "a may be a symlink to '.'");
        assert!(!symlink_stays_inside(b"link", b"../outside"));
        assert!(!symlink_stays_inside(b"a/link", b"../../outside"));
        assert!(!symlink_stays_inside(b"a/link", b"/etc"));
        assert!(!symlink_stays_inside(b"a/link", b"b/../../../x/y/z"));
        assert!(!symlink_stays_inside(b"a", b""));
    }

    proptest! {
        #[test]
        fn a_checked_name_stays_below_where_it_is_joined(name in proptest::collection::vec(
            prop_oneof![Just(b'/'), Just(b'.'), Just(0u8), any::<u8>()], 0..30)) {
            if check_relative(&name).is_ok() {
                use std::os::unix::ffi::OsStrExt;
                let path = std::path::Path::new(std::ffi::OsStr::from_bytes(&name));
                prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }

        #[test]
        fn printable_prints_only_what_shows_itself(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(printable(&name).chars().all(crate::foreign_text::is_plain));
        }
    }
}
