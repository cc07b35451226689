//! How much a record and a result say of single files: a partner decides how many fail, and with
//! which names.

/// Errors of single files that a result lists; the rest are counted. What is said of one is a
/// foreign text ([`culvert_protocol::foreign_text`]).
pub const ERRORS_LISTED_MAX: usize = 1_000;

/// Bytes that they take with their names.
pub const ERROR_BYTES_PER_TRANSFER: usize = 256 << 10;

/// Entries that the result of a dry run lists for the user; the rest are counted.
pub const DRY_RUN_LISTED_MAX: usize = 200_000;

/// Bytes that they take. A record of a dry run keeps [`ERROR_BYTES_PER_TRANSFER`] of them.
pub const DRY_RUN_LISTED_BYTES_MAX: usize = 32 << 20;
