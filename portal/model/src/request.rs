//! A transfer request: what it says, where it stands, and what may happen to it next.

pub mod config;
pub mod document;
pub mod state;
pub mod step;
