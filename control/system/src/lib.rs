//! The operating system as Culvert's programs meet it: what its errors mean and what helps, whose
//! a file is, how a file is read that somebody may have replaced, who holds a lock.
//!
//! All crates that use this one must say the same about the same error, and none of them owns these
//! questions.
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
