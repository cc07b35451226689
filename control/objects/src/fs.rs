//! Directories of this host: what is listed and read from them, and what is stored into them.

pub mod destination;
mod name_pattern;
pub mod reach;
pub mod sources;
