//! Types shared by all crates that deal with transfers: request, progress, record, result, profile.
//!
//! Plain values and their text only: nothing here opens a file or waits. Programs that only show or
//! request transfers need no more than this.
#![forbid(unsafe_code)]

pub mod address;
pub mod bounds;
pub mod exit_code;
pub mod permitted;
pub mod profile;
pub mod progress;
pub mod record;
pub mod request;
pub mod result;
pub mod setting;
pub mod typed_path;
pub mod units;
pub mod would;
