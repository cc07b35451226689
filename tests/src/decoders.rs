//! Everything in Culvert that reads bytes written by somebody else, as functions that fail loudly.
//!
//! A check takes any bytes, gives them to a decoder as the program does, and panics if the decoder
//! panics, does not terminate, or accepts something that means something else when it is written
//! again. The fuzz targets (`fuzz/`) and the replay of the corpora in every test run
//! (`tests/tests/hostile/decoders.rs`) call the same checks, so a finding of one becomes a test of
//! the other.

mod control;
mod flow;
mod host;
mod measurement;
mod wire;

use crate::captured;

/// A decoder.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// Its name, which is also that of the fuzz target and of the corpus (`fuzz/corpora/NAME`).
    pub name: &'static str,
    /// Well-formed samples that a corpus starts with.
    pub samples: fn() -> Vec<Vec<u8>>,
    /// Gives bytes to the decoder; panics if it misbehaves.
    pub check: fn(&[u8]),
    /// How many mutated samples a test run gives it.
    pub mutations: usize,
}

/// All decoders.
pub const DECODERS: [Decoder; 12] = [
    decoder("datagram", wire::datagram_samples, wire::datagram),
    decoder("report", wire::report_samples, wire::report),
    decoder("flow", flow::samples, flow::check),
    decoder("message", control::message_samples, control::message),
    decoder("entries", control::entries_samples, control::entries),
    decoder("receipt", control::receipt_samples, control::receipt),
    decoder("journal", host::journal_samples, host::journal),
    decoder("configuration", host::configuration_samples, host::configuration),
    decoder("link", host::link_samples, host::link),
    decoder("stamp", measurement::stamp_samples, measurement::stamp),
    decoder("twamp", measurement::twamp_samples, measurement::twamp),
    Decoder { name: "captured", samples: captured::samples, check: captured::check, mutations: 1_000 },
];

/// Gives bytes to the decoder with this name.
///
/// # Panics
/// If there is no such decoder, or it misbehaves.
pub fn check(name: &str, bytes: &[u8]) {
    let decoder = DECODERS.iter().find(|decoder| decoder.name == name);
    (decoder.unwrap_or_else(|| panic!("there is no decoder '{name}'")).check)(bytes);
}

const fn decoder(name: &'static str, samples: fn() -> Vec<Vec<u8>>, check: fn(&[u8])) -> Decoder {
    Decoder { name, samples, check, mutations: 50_000 }
}
