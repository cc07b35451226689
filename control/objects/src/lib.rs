//! What a transfer reads from and writes to.
//!
//! [`source`] says what a transfer asks of anything that it reads from, [`sink`] of a store that it
//! writes to. [`fs`] is the directories of this host, and decides what of them a request may reach
//! before anything is opened.
#![forbid(unsafe_code)]

pub mod fs;
pub mod sink;
pub mod source;
