//! What happens to an entry.

/// What happens to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing is there: it is made.
    Create,
    /// A file is there that it replaces, at once and only when it is whole.
    Replace,
    /// The same is there: it is not sent.
    Skip,
    /// An earlier attempt of this transfer stored it: it is not sent, and counts as stored.
    Resumed,
}
