//! The effect ledger: every measured effect, one JSON object per line.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use culvert_system::regular_file::{self, Links};

use super::effect::Effect;

/// The ledger's name in the state directory.
const FILE: &str = "effects.jsonl";
/// The largest ledger that is read. An effect takes about a kilobyte and is measured by hand.
const LEDGER_BYTES_MAX: u64 = 64 << 20;

/// The ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct LedgerError {
    path: String,
    reason: String,
}

/// The measured effects of this host.
#[derive(Clone, Debug)]
pub struct EffectLedger {
    path: PathBuf,
}

impl EffectLedger {
    /// The ledger in a state directory.
    #[must_use]
    pub fn at(state_directory: &Path) -> Self {
        Self { path: state_directory.join(FILE) }
    }

    fn error(&self, reason: &dyn std::fmt::Display) -> LedgerError {
        LedgerError { path: self.path.display().to_string(), reason: reason.to_string() }
    }

    /// Adds an effect.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn add(&self, effect: &Effect) -> Result<(), LedgerError> {
        let write = || -> io::Result<()> {
            if let Some(folder) = self.path.parent() {
                regular_file::make_directory(folder)?;
            }
            let mut options = OpenOptions::new();
            options.create(true).append(true).mode(0o600);
            let mut file = regular_file::open_to_write(&self.path, &mut options)?;
            let mut line = serde_json::to_vec(effect)?;
            line.push(b'\n');
            file.write_all(&line)?;
            file.sync_all()
        };
        write().map_err(|error| self.error(&error))
    }

    /// All effects, the oldest first; empty if nothing was measured yet. An incomplete last line is
    /// ignored.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn all(&self) -> Result<Vec<Effect>, LedgerError> {
        let text = match regular_file::read_text(&self.path, LEDGER_BYTES_MAX, Links::Refused) {
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            other => other.map_err(|error| self.error(&error))?,
        };
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let effects = text[..whole].lines().enumerate().map(|(number, line)| {
            serde_json::from_str(line).map_err(|error| self.error(&format!("line {}: {error}", number + 1)))
        });
        effects.collect()
    }

    /// The latest effect of a rule.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn latest(&self, rule: &str) -> Result<Option<Effect>, LedgerError> {
        Ok(self.all()?.into_iter().rfind(|effect| effect.rule == rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Answer, Estimate};
    use std::fs;

    #[test]
    fn what_was_measured_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = EffectLedger::at(&folder.path().join("new"));
        assert!(ledger.all().unwrap().is_empty());
        let mut effect = Effect {
            rule: "cpu.governor".to_owned(),
            at_unix_s: 1,
            kernel: "6.18".to_owned(),
            workload: "a model".to_owned(),
            changes: vec!["x = y".to_owned()],
            pairs: vec![(1.0, 2.0)],
            ratio: Estimate { median: 2.0, low: 1.5, high: 2.5 },
            answer: Answer::Faster,
        };
        ledger.add(&effect).unwrap();
        effect.answer = Answer::NoEffect;
        ledger.add(&effect).unwrap();
        assert_eq!(ledger.latest("cpu.governor").unwrap().unwrap().answer, Answer::NoEffect);
        assert_eq!(ledger.latest("cpu.smt").unwrap(), None);
        let path = folder.path().join("new/effects.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}{{\"torn")).unwrap();
        assert_eq!(ledger.all().unwrap().len(), 2);
        fs::write(&path, "nonsense\n").unwrap();
        assert!(ledger.all().unwrap_err().to_string().contains("line 1"));
        // Neither reading nor writing blocks on a pipe.
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        assert!(ledger.all().unwrap_err().to_string().contains("a pipe"));
        assert!(ledger.add(&effect).is_err());
    }
}
