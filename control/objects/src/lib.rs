//! The stores that transfers read from and write to.
//!
//! [`source`] has the interface of every store to read from, [`sink`] that of a store without
//! descriptors to write to. [`fs`] implements the directories of this host; it decides which of
//! them a request may use before it opens anything.
#![forbid(unsafe_code)]

pub mod fs;
pub mod sink;
pub mod source;
