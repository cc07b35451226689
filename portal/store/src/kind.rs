//! The two kinds of databases, for what differs between them.

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    Sqlite,
    /// A server, which several portals share.
    Postgresql,
}
