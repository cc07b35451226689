//! The parts of the repository's tasks that tests use too.
#![forbid(unsafe_code)]

pub mod deb;
