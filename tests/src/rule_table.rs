//! A NIC with receive rules on a host that has none: `rule_table.c`, compiled and preloaded to
//! intercept a program's calls.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use culvert_dataplane::datapath::af_xdp::rules::spec::Spec;
use culvert_dataplane::kernel_calls::SPEC_BYTES;

/// How many rules fit, as in `rule_table.c`.
const SIZE: usize = 16;

/// A table of rules in a file.
#[derive(Debug)]
pub struct PlayedTable {
    library: PathBuf,
    file: PathBuf,
}

impl PlayedTable {
    /// Compiles the library into a directory; `None`, with a reason on standard error, if that is
    /// not possible.
    ///
    /// # Panics
    /// If it does not compile although there are a compiler and the kernel's headers.
    #[must_use]
    pub fn new(directory: &Path) -> Option<Self> {
        let library = directory.join("rule_table.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rule_table.c");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output();
        let Ok(compiled) = compiled else {
            eprintln!("skipped: no C compiler");
            return None;
        };
        let said = String::from_utf8_lossy(&compiled.stderr).into_owned();
        if said.contains("No such file") {
            eprintln!("skipped: headers are missing: {said}");
            return None;
        }
        assert!(compiled.status.success(), "{said}");
        Some(Self { library, file: directory.join("rules") })
    }

    /// What a program needs in its environment to see the table.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, OsString); 2] {
        [("LD_PRELOAD", self.library.clone().into()), ("RULE_TABLE", self.file.clone().into())]
    }

    /// The rules in the table.
    ///
    /// # Panics
    /// If no program has opened it.
    #[must_use]
    pub fn rules(&self) -> Vec<Spec> {
        let bytes = fs::read(&self.file).expect("a table");
        let (rules, used) = bytes.split_at(SIZE * SPEC_BYTES);
        let rules = rules.chunks_exact(SPEC_BYTES).map(|bytes| Spec(bytes.try_into().expect("a rule's bytes")));
        rules.zip(used).filter(|&(_, &used)| used != 0).map(|(rule, _)| rule).collect()
    }

    /// Puts a rule at its location, as an admin would.
    ///
    /// # Panics
    /// If no program has opened the table, or it has no such location.
    pub fn put(&self, rule: &Spec) {
        let mut bytes = fs::read(&self.file).expect("a table");
        let at = rule.location() as usize;
        bytes[at * SPEC_BYTES..(at + 1) * SPEC_BYTES].copy_from_slice(&rule.0);
        bytes[SIZE * SPEC_BYTES + at] = 1;
        // Into the same file, because others have mapped it.
        let mut file = fs::OpenOptions::new().write(true).open(&self.file).expect("a table");
        std::io::Write::write_all(&mut file, &bytes).expect("a table can be written");
    }
}
