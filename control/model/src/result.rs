//! The result of a transfer: the fields that `--json` prints and records keep.

use culvert_protocol::control::{LeftOut, ReceiverSummary, SenderSummary, TransferId};
use culvert_protocol::counted::counted;
use culvert_protocol::receipt::Statement;
use culvert_protocol::seal::Cipher;
use culvert_protocol::verdict::{Limit, Verdict};
use serde::{Deserialize, Serialize};

use crate::bounds::ERROR_BYTES_PER_TRANSFER;
use crate::units::{show_bytes, show_rate, show_seconds};
use crate::would::Would;

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Everything is stored and verified.
    Succeeded,
    /// All files but some are stored and verified.
    SucceededWithErrors,
    /// Ended by an error; files may be stored or not.
    Failed,
    /// Canceled by a user.
    Canceled,
}

/// Numbers of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCounts {
    /// Files in the manifest.
    pub total: u64,
    /// Stored by this transfer.
    pub stored: u64,
    /// Already at the destination.
    pub skipped: u64,
    /// Failed.
    pub failed: u64,
}

/// Round-trip times in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RttSummary {
    /// The smallest.
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
    /// The word for programs.
    pub code: String,
    /// The sentence for users.
    pub text: String,
}

impl From<&LeftOut> for ResultError {
    fn from(left: &LeftOut) -> Self {
        Self { path: left.name.clone(), code: left.code.clone(), text: left.text.clone() }
    }
}

/// The result of a transfer.
///
/// It has many fields because it is the flat object that `--json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransferResult {
    /// The transfer's id.
    pub transfer: String,
    /// How it ended.
    pub state: State,
    /// Numbers of files.
    pub files: FileCounts,
    /// Directories and symlinks that were created or replaced.
    #[serde(default)]
    pub others_made: u64,
    /// Bytes of the files stored.
    pub bytes: u64,
    /// Seconds from the request to the receipt.
    pub seconds: f64,
    /// `bytes` less `resumed_bytes`, over `seconds`, in bits per second.
    pub goodput_bps: u64,
    /// The datapath: `udp` or `af_xdp`.
    pub datapath: String,
    /// The mode in which AF_XDP was bound, if it was.
    pub af_xdp_mode: Option<String>,
    /// The number of flows.
    pub flows: u16,
    /// Payload bytes of a full segment.
    pub segment_bytes: u16,
    /// The cipher.
    pub cipher: String,
    /// Segments sent.
    pub segments_sent: u64,
    /// Retransmissions among them.
    pub segments_resent: u64,
    /// The share of retransmissions, 0 to 1.
    pub loss: f64,
    /// Round-trip times.
    pub rtt_ms: RttSummary,
    /// Processor time.
    pub cpu_seconds: BothSides,
    /// Processor time per byte moved, in cycles of the nominal clock.
    pub cycles_per_byte: BothSides,
    /// See [`Statement::root_blake3`].
    pub root_blake3: String,
    /// Bytes that were already at the destination: stored by an earlier attempt, or equal in the
    /// file that was replaced.
    pub resumed_bytes: u64,
    /// What limited the rate.
    pub verdict: ShownVerdict,
    /// Files that failed.
    pub errors: Vec<ResultError>,
    /// The number of files that failed, listed in `errors` or not.
    pub error_count: u64,
    /// The first files and directories that were stored without some of their attributes.
    #[serde(default)]
    pub warnings: Vec<ResultError>,
    /// The number of such files and directories.
    #[serde(default)]
    pub warning_count: u64,
    /// Whether this was a dry run, which moves nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// What a dry run found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would: Option<Would>,
}

/// A verdict in a result: it names no cause if none is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShownVerdict {
    /// The cause; `None` if it is not known.
    pub limited_by: Option<Limit>,
    /// Its share of the time, 0 to 1.
    pub share: f64,
    /// The sentence for users.
    #[serde(deserialize_with = "culvert_protocol::foreign_text::deserialize")]
    pub text: String,
}

impl ShownVerdict {
    /// No verdict, and the reason.
    #[must_use]
    pub fn none(text: &str) -> Self {
        Self { limited_by: None, share: 0.0, text: text.to_owned() }
    }
}

impl From<Verdict> for ShownVerdict {
    fn from(verdict: Verdict) -> Self {
        let limited_by = (verdict.share > 0.0).then_some(verdict.limited_by);
        Self { limited_by, share: verdict.share, text: verdict.text }
    }
}

/// The parts of a result. Each field is a fact from one end, which only [`TransferResult::new`]
/// combines.
#[derive(Debug)]
pub struct ResultParts<'a> {
    /// The transfer.
    pub id: TransferId,
    /// The statement that was signed.
    pub statement: &'a Statement,
    /// The sender's summary.
    pub sender: &'a SenderSummary,
    /// The receiver's summary.
    pub receiver: &'a ReceiverSummary,
    /// Seconds from the request to the receipt.
    pub seconds: f64,
    /// The number of flows.
    pub flows: u16,
    /// The cipher.
    pub cipher: Cipher,
    /// Files in the manifest.
    pub files_total: u64,
    /// Directories and symlinks that were created or replaced.
    pub others_made: u64,
    /// Errors of files, with their names.
    pub errors: Vec<ResultError>,
    /// The number of such errors.
    pub error_count: u64,
    /// Entries stored without some of their attributes, with their names.
    pub warnings: Vec<ResultError>,
    /// The number of such entries.
    pub warning_count: u64,
}

impl TransferResult {
    /// Combines the parts.
    #[must_use]
    pub fn new(parts: ResultParts<'_>) -> Self {
        let ResultParts { id, statement, sender, receiver, seconds, flows, cipher, .. } = parts;
        let ResultParts { files_total, others_made, errors, error_count, warnings, warning_count, .. } = parts;
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
            others_made,
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
            verdict: if moved > 0 { receiver.verdict.clone().into() } else { ShownVerdict::none("nothing was moved") },
            errors,
            error_count,
            warnings,
            warning_count,
            dry_run: false,
            would: None,
        }
    }

    /// The result of a transfer that moved nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            transfer: String::new(),
            state: State::Succeeded,
            files: FileCounts::default(),
            others_made: 0,
            bytes: 0,
            seconds: 0.0,
            goodput_bps: 0,
            datapath: "udp".to_owned(),
            af_xdp_mode: None,
            flows: 0,
            segment_bytes: 0,
            cipher: String::new(),
            segments_sent: 0,
            segments_resent: 0,
            loss: 0.0,
            rtt_ms: RttSummary::default(),
            cpu_seconds: BothSides::default(),
            cycles_per_byte: BothSides::default(),
            root_blake3: String::new(),
            resumed_bytes: 0,
            verdict: ShownVerdict::none("nothing was moved"),
            errors: Vec::new(),
            error_count: 0,
            warnings: Vec::new(),
            warning_count: 0,
            dry_run: false,
            would: None,
        }
    }

    /// The result as a log line.
    #[must_use]
    pub fn line(&self) -> String {
        if self.dry_run {
            return "a dry run: nothing was transferred".to_owned();
        }
        let stored = format!("{}, {}", counted(self.files.stored, "file"), show_bytes(self.bytes));
        let others = |count: u64, what: &str| if count > 0 { format!(", {count} {what}") } else { String::new() };
        format!(
            "stored {stored} in {}: {}{}{}",
            show_seconds(self.seconds),
            show_rate(self.goodput_bps),
            others(self.files.skipped, "there already"),
            others(self.files.failed, "failed")
        )
    }

    /// The result as a record keeps it.
    #[must_use]
    pub fn kept(&self) -> Self {
        let mut kept = self.clone();
        if let Some(would) = &mut kept.would {
            would.shorten();
        }
        kept
    }

    /// The warning about attributes that were not kept; `None` if all were.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        /// Files that the sentence names; `warnings` lists more.
        const NAMED: usize = 3;
        let count = self.warning_count;
        let first = self.warnings.first().filter(|_| count > 0)?;
        let mut text = match count {
            1 => format!("attributes of {} were not kept: {}: {}", counted(count, "file"), first.path, first.text),
            _ => {
                format!("attributes of {} were not kept: first: {}: {}", counted(count, "file"), first.path, first.text)
            }
        };
        for warning in self.warnings.iter().take(NAMED).skip(1) {
            text.push_str(&format!("; {}: {}", warning.path, warning.text));
        }
        let more = count.saturating_sub(self.warnings.len().min(NAMED) as u64);
        if more > 0 {
            text.push_str(&format!("; and {more} more"));
        }
        Some(text)
    }
}

/// The first errors, as many as fit into a record: a node keeps a record of every transfer, and a
/// partner decides how many files fail and with which names.
#[must_use]
pub fn bounded(errors: impl Iterator<Item = ResultError>) -> Vec<ResultError> {
    let mut bytes = 0usize;
    errors
        .take_while(|error| {
            let more = [&error.path, &error.code, &error.text].map(String::len).into_iter().sum::<usize>();
            bytes = bytes.saturating_add(more).saturating_add(64);
            bytes <= ERROR_BYTES_PER_TRANSFER
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_names_the_first_and_counts_all() {
        let mut result = TransferResult::empty();
        assert_eq!(result.warning(), None);
        let warning = |path: &str| ResultError {
            path: path.to_owned(),
            code: "mode".to_owned(),
            text: "fchmod: Operation not permitted".to_owned(),
        };
        (result.warnings, result.warning_count) = (vec![warning("a")], 1);
        assert_eq!(result.warning().unwrap(), "attributes of 1 file were not kept: a: fchmod: Operation not permitted");
        (result.warnings, result.warning_count) = (["a", "b", "c", "d"].map(warning).to_vec(), 1_000);
        let said = result.warning().unwrap();
        assert!(said.starts_with("attributes of 1,000 files were not kept: first: a: fchmod: Operation"), "{said}");
        assert!(said.ends_with("; c: fchmod: Operation not permitted; and 997 more"), "{said}");
        // A record from before there were warnings.
        let mut old = serde_json::to_value(&result).unwrap();
        let fields = old.as_object_mut().unwrap();
        fields.remove("warnings");
        fields.remove("warning_count");
        assert_eq!(serde_json::from_value::<TransferResult>(old).unwrap().warning(), None);
    }
}
