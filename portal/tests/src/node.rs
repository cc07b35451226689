//! Node.js with packages from npm, in fixed versions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::made_once;
use crate::process::{attempt, need, or_skip};

/// The oldest version that the packages here run on.
const OLDEST: u32 = 20;

/// Node.js and a folder of packages.
#[derive(Debug, Clone)]
pub struct Node {
    program: PathBuf,
    modules: PathBuf,
}

impl Node {
    /// With packages, each with its version, kept under a name; or prints why the test is skipped.
    #[must_use]
    pub fn with(name: &str, packages: &[(&str, &str)]) -> Option<Self> {
        or_skip(found(name, packages))
    }

    /// A command that runs a script of a folder, which finds the packages beside it.
    ///
    /// # Panics
    /// If the script cannot be written.
    #[must_use]
    pub fn command(&self, folder: &Path, name: &str, script: &str) -> Command {
        let path = folder.join(name);
        fs::write(&path, script).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let modules = folder.join("node_modules");
        if !modules.exists() {
            std::os::unix::fs::symlink(&self.modules, &modules).expect("a link to the packages can be made");
        }
        let mut command = Command::new(&self.program);
        command.arg(path).current_dir(folder).env_remove("NODE_OPTIONS");
        command
    }
}

fn found(name: &str, packages: &[(&str, &str)]) -> Result<Node, String> {
    let program = need("node")?;
    let version = attempt(Command::new(&program).arg("--version"))?;
    let major = version.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < OLDEST) {
        return Err(format!("node {} is too old: it takes {OLDEST}", version.trim()));
    }
    let versions: serde_json::Map<String, serde_json::Value> =
        packages.iter().map(|&(package, version)| (package.to_owned(), version.into())).collect();
    let manifest = serde_json::json!({"private": true, "dependencies": versions}).to_string();
    let folder = made_once(&format!("npm-{name}"), &manifest, |folder| {
        fs::write(folder.join("package.json"), &manifest).map_err(|error| error.to_string())?;
        let mut npm = Command::new(need("npm")?);
        npm.args(["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]).current_dir(folder);
        attempt(&mut npm).map(drop)
    })?;
    Ok(Node { program, modules: folder.join("node_modules") })
}
