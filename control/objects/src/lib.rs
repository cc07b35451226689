//! What a transfer reads from and writes to.
//!
//! [`source`] says what a transfer asks of anything that it reads from, [`sink`] of a store that it
//! writes to. [`fs`] is the directories of this host. Whoever asks for something names a place;
//! what of it they may reach is decided here too, before anything is opened.
#![forbid(unsafe_code)]

pub mod fs;
pub mod sink;
pub mod source;
