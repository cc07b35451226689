//! The words that all rooms of the control process share: what is asked for, how far it is, what it
//! came to, whom one deals with.
//!
//! Values and their words only: nothing here opens a file, waits, or knows who carries it out, so
//! that a portal that never moves a byte can speak of transfers too.
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
