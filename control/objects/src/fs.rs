//! Directories of this host: listing and reading sources, and storing into destinations.

pub mod destination;
mod name_pattern;
pub mod reach;
pub mod sources;
