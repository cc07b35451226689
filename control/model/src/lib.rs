//! Types shared by the rooms that deal with transfers: request, progress, record, result, profile.
//!
//! Values and their words only: nothing here opens a file, waits, or knows who carries it out, so
//! that a program that never moves a byte can speak of transfers too.
#![forbid(unsafe_code)]

pub mod address;
pub mod bounds;
pub mod exit_code;
pub mod profile;
pub mod progress;
pub mod record;
pub mod request;
pub mod result;
pub mod typed_path;
pub mod units;
pub mod would;
