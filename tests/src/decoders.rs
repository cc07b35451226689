//! Everything in Culvert that reads bytes which somebody else wrote, as functions that fail loudly.
//!
//! A check takes any bytes, gives them to a decoder as the program does, and panics if the decoder panics, does not end, or accepts what
//! means something else when it is written again. The fuzz targets (`fuzz/`) and the replay of the corpora in every test run
//! (`tests/tests/decoders.rs`) call the same checks, so a finding of one is a test of the other.

mod control;
mod host;
mod measurement;
mod wire;

/// A decoder.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// Its name, also the fuzz target's and the corpus's (`fuzz/corpora/NAME`).
    pub name: &'static str,
    /// Well-formed samples, with which a corpus begins.
    pub samples: fn() -> Vec<Vec<u8>>,
    /// Gives bytes to the decoder; panics if it misbehaves.
    pub check: fn(&[u8]),
}

/// All decoders.
pub const DECODERS: [Decoder; 10] = [
    Decoder { name: "datagram", samples: wire::datagram_samples, check: wire::datagram },
    Decoder { name: "report", samples: wire::report_samples, check: wire::report },
    Decoder { name: "message", samples: control::message_samples, check: control::message },
    Decoder { name: "entries", samples: control::entries_samples, check: control::entries },
    Decoder { name: "receipt", samples: control::receipt_samples, check: control::receipt },
    Decoder { name: "journal", samples: host::journal_samples, check: host::journal },
    Decoder { name: "configuration", samples: host::configuration_samples, check: host::configuration },
    Decoder { name: "link", samples: host::link_samples, check: host::link },
    Decoder { name: "stamp", samples: measurement::stamp_samples, check: measurement::stamp },
    Decoder { name: "twamp", samples: measurement::twamp_samples, check: measurement::twamp },
];

/// Gives bytes to the decoder of that name.
///
/// # Panics
/// If there is no such decoder, or it misbehaves.
pub fn check(name: &str, bytes: &[u8]) {
    let decoder = DECODERS.iter().find(|decoder| decoder.name == name);
    (decoder.unwrap_or_else(|| panic!("there is no decoder '{name}'")).check)(bytes);
}
