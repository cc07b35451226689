//! The result of a transfer, as `--json` prints it (the contract's fields) and as it is kept.

use culvert_protocol::control::{FileError, ReceiverSummary, SenderSummary, TransferId};
use culvert_protocol::receipt::Statement;
use culvert_protocol::seal::Cipher;
use culvert_protocol::verdict::{Limit, Verdict};
use serde::{Deserialize, Serialize};

use super::ErrorList;

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Everything is stored and verified.
    Succeeded,
    /// All but some files.
    SucceededWithErrors,
    /// Nothing can be said of what is not in `errors`.
    Failed,
    /// Somebody canceled it.
    Canceled,
}

/// Numbers of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCounts {
    /// All.
    pub total: u64,
    /// Stored by this transfer.
    pub stored: u64,
    /// There already.
    pub skipped: u64,
    /// Failed.
    pub failed: u64,
}

/// Round trips in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RttSummary {
    /// The least.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
}

/// A number for each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BothSides {
    /// The sender's.
    pub send: f64,
    /// The receiver's.
    pub receive: f64,
}

/// A file that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultError {
    /// Its name.
    pub path: String,
    /// A word for programs.
    pub code: String,
    /// A sentence for people.
    pub text: String,
}

/// The result of a transfer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransferResult {
    /// The transfer's id.
    pub transfer: String,
    /// How it ended.
    pub state: State,
    /// Files.
    pub files: FileCounts,
    /// Bytes of the files stored.
    pub bytes: u64,
    /// Seconds from the request to the receipt.
    pub seconds: f64,
    /// `bytes` less what earlier attempts had stored, in bits per second.
    pub goodput_bps: u64,
    /// How packets moved.
    pub datapath: String,
    /// How AF_XDP was bound, if it was.
    pub af_xdp_mode: Option<String>,
    /// Flows.
    pub flows: u16,
    /// Payload bytes of a full segment.
    pub segment_bytes: u16,
    /// The cipher.
    pub cipher: String,
    /// Segments sent.
    pub segments_sent: u64,
    /// Those among them sent again.
    pub segments_resent: u64,
    /// Segments sent again, as a part of all.
    pub loss: f64,
    /// Round trips.
    pub rtt_ms: RttSummary,
    /// Processor time.
    pub cpu_seconds: BothSides,
    /// Processor time in cycles of the nominal clock, for each byte moved.
    pub cycles_per_byte: BothSides,
    /// See [`Statement::root_blake3`].
    pub root_blake3: String,
    /// Bytes that were at the destination already: stored by an earlier attempt, or the same in the file that was replaced.
    pub resumed_bytes: u64,
    /// What limited it.
    pub verdict: Verdict,
    /// Files that failed.
    pub errors: Vec<ResultError>,
    /// How many failed, if they are more than `errors` lists.
    pub error_count: u64,
}

/// What a result is made of.
#[derive(Debug)]
pub struct ResultParts<'a> {
    /// The transfer.
    pub id: TransferId,
    /// What was signed.
    pub statement: &'a Statement,
    /// The sender's part.
    pub sender: &'a SenderSummary,
    /// The receiver's part.
    pub receiver: &'a ReceiverSummary,
    /// Seconds that it took.
    pub seconds: f64,
    /// Flows.
    pub flows: u16,
    /// The cipher.
    pub cipher: Cipher,
    /// Files in the manifest.
    pub files_total: u64,
    /// Errors of files, with their names.
    pub errors: Vec<ResultError>,
    /// How many there were.
    pub error_count: u64,
}

impl TransferResult {
    /// Puts a result together.
    #[must_use]
    pub fn new(parts: ResultParts<'_>) -> Self {
        let ResultParts { id, statement, sender, receiver, seconds, flows, cipher, files_total, errors, error_count } =
            parts;
        let moved = receiver.bytes_stored.saturating_sub(receiver.resumed_bytes);
        let milliseconds = |us: u32| f64::from(us) / 1e3;
        let failed = receiver.files_failed.max(error_count);
        Self {
            transfer: id.to_string(),
            state: if failed == 0 { State::Succeeded } else { State::SucceededWithErrors },
            files: FileCounts {
                total: files_total,
                stored: receiver.files_stored,
                skipped: receiver.files_skipped,
                failed,
            },
            bytes: receiver.bytes_stored,
            seconds,
            goodput_bps: if seconds > 0.0 { (moved as f64 * 8.0 / seconds) as u64 } else { 0 },
            datapath: "udp".to_owned(),
            af_xdp_mode: None,
            flows,
            segment_bytes: sender.segment_bytes,
            cipher: cipher.name().to_owned(),
            segments_sent: sender.segments_sent,
            segments_resent: sender.segments_resent,
            loss: sender.segments_resent as f64 / sender.segments_sent.max(1) as f64,
            rtt_ms: RttSummary {
                min: milliseconds(sender.rtt_us[0]),
                p50: milliseconds(sender.rtt_us[1]),
                p99: milliseconds(sender.rtt_us[2]),
            },
            cpu_seconds: BothSides { send: sender.cpu_us as f64 / 1e6, receive: receiver.cpu_us as f64 / 1e6 },
            cycles_per_byte: BothSides {
                send: sender.millicycles_per_byte as f64 / 1e3,
                receive: receiver.millicycles_per_byte as f64 / 1e3,
            },
            root_blake3: statement.root_blake3.clone(),
            resumed_bytes: receiver.resumed_bytes,
            verdict: receiver.verdict.clone(),
            errors,
            error_count,
        }
    }
}

/// The result of a dry run: what would have been sent.
#[must_use]
pub fn dry_run(id: TransferId, files: u64, skipped: u64, bytes: u64, cipher: Cipher) -> TransferResult {
    TransferResult {
        transfer: id.to_string(),
        state: State::Succeeded,
        files: FileCounts { total: files + skipped, stored: files, skipped, failed: 0 },
        bytes,
        seconds: 0.0,
        goodput_bps: 0,
        datapath: "udp".to_owned(),
        af_xdp_mode: None,
        flows: 0,
        segment_bytes: 0,
        cipher: cipher.name().to_owned(),
        segments_sent: 0,
        segments_resent: 0,
        loss: 0.0,
        rtt_ms: RttSummary::default(),
        cpu_seconds: BothSides::default(),
        cycles_per_byte: BothSides::default(),
        root_blake3: String::new(),
        resumed_bytes: 0,
        verdict: Verdict { limited_by: Limit::SourceRead, share: 0.0, text: "a dry run: nothing was moved".to_owned() },
        errors: Vec::new(),
        error_count: 0,
    }
}

/// Errors of files with their names.
pub fn named_errors<'a>(
    errors: &'a ErrorList,
    name: impl Fn(u32) -> String + 'a,
) -> impl Iterator<Item = ResultError> + 'a {
    errors.listed.iter().map(move |FileError { file, code, text }| ResultError {
        path: name(*file),
        code: code.clone(),
        text: text.clone(),
    })
}
