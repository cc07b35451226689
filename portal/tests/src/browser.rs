//! A real browser, Chromium, which does what a script of a test says.
//!
//! It accepts every certificate: that nginx has one of an authority nobody knows is no concern of
//! a test of pages.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::node::Node;
use crate::process::{find, folder, or_skip, run_with};

const RUNNER: &str = include_str!("../js/browser.mjs");
const PACKAGES: &[(&str, &str)] = &[("playwright-core", "1.65.1"), ("@axe-core/playwright", "4.14.0")];
/// What distributions call it.
const PROGRAMS: [&str; 2] = ["chromium", "chromium-browser"];
/// How long a script may run.
const PATIENCE: Duration = Duration::from_secs(300);

/// An installed browser. Each run has a new one, which knows nothing of those before it.
#[derive(Debug, Clone)]
pub struct Browser {
    node: Node,
    program: PathBuf,
}

impl Browser {
    /// Finds it, or prints why the test is skipped.
    #[must_use]
    pub fn find() -> Option<Self> {
        let program =
            or_skip(PROGRAMS.iter().find_map(|name| find(name)).ok_or("chromium is not installed".to_owned()))?;
        let node = Node::with("browser", PACKAGES)?;
        Some(Self { node, program })
    }

    /// Runs a script, whose form the head of `js/browser.mjs` describes, and returns its result.
    ///
    /// # Panics
    /// With what it printed and what the page shows, if it fails or hangs.
    #[track_caller]
    pub fn run(&self, script: &Path, input: &Value) -> Value {
        let folder = folder();
        let (given, result) = (folder.path().join("input.json"), folder.path().join("result.json"));
        fs::write(&given, input.to_string()).expect("a script's input can be written");
        let script = script.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", script.display()));
        let mut command = self.node.command(folder.path(), "browser.mjs", RUNNER);
        command.arg(&self.program).arg(&script).arg(given).arg(&result);
        // Its profile, caches and crash reports are gone with the folder.
        command.env("HOME", folder.path()).env("TMPDIR", folder.path());
        let _ = run_with("browser", command, &folder, PATIENCE).succeeds();
        let text = fs::read_to_string(&result).expect("a script that succeeds has a result");
        serde_json::from_str(&text).expect("a result is JSON")
    }
}
