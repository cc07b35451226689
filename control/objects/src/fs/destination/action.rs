//! The actions of a plan.

/// What happens to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing has its name: it is created.
    Create,
    /// It replaces an existing file, in one step, once it is whole.
    Replace,
    /// Its equal exists: it is not sent.
    Skip,
    /// An earlier attempt of this transfer stored it: it is not sent, and counts as stored.
    Resumed,
}
