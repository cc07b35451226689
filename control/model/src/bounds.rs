//! Bounds of what records and results list of single files: a partner decides how many fail, and
//! with which names.

/// Errors of single files that a result lists; the rest are only counted. Each explanation is a
/// foreign text ([`culvert_protocol::foreign_text`]).
pub const ERRORS_LISTED_MAX: usize = 1_000;

/// Bytes of those errors, with their names, that a record keeps.
pub const ERROR_BYTES_PER_TRANSFER: usize = 256 << 10;

/// Entries that the result of a dry run lists for the user; the rest are only counted.
pub const DRY_RUN_LISTED_MAX: usize = 200_000;

/// Bytes of those entries. A record of a dry run keeps [`ERROR_BYTES_PER_TRANSFER`] of them.
pub const DRY_RUN_LISTED_BYTES_MAX: usize = 32 << 20;
