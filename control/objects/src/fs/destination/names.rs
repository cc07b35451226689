//! Splits names of entries.

/// The parent (empty for the destination itself) and the last component of a name.
#[must_use]
pub fn split_name(name: &[u8]) -> (&[u8], &[u8]) {
    let (parent, last): (&[u8], &[u8]) = match name.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&name[..slash], &name[slash + 1..]),
        None => (b"", name),
    };
    // Invariant I-destination-component: what is created, renamed or removed in a directory is
    // named by a single component, so it cannot lie outside that directory.
    assert!(!last.contains(&b'/'), "a last component has no slash");
    (parent, last)
}
