//! The operating system for all of Culvert's programs: errors and their remedies, accounts, locks,
//! descriptors, and reading files that somebody may have replaced.
//!
//! One crate has these so that all programs say the same about the same error.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]

#[macro_use(say_aside)]
extern crate culvert_link;

pub mod accounts;
pub mod descriptors;
pub mod file_lock;
pub mod least_descriptors;
pub mod log_limit;
pub mod os_error;
pub mod processor_time;
pub mod regular_file;
pub mod settling;
