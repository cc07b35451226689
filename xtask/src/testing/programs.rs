//! Test programs, as cargo builds them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// A test program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The package, without `culvert-`.
    pub package: String,
    /// The target: a library's or program's name, or what an integration test is about.
    pub target: String,
    /// Whether it is an integration test.
    pub is_integration: bool,
    /// The executable.
    pub executable: PathBuf,
    /// The package's directory, in which it runs.
    pub directory: PathBuf,
}

/// The groups of whole-system tests; a build without one of them has lost something.
const GROUPS: [&str; 9] =
    ["transfers", "faults", "hostile", "network", "commands", "counterparts", "operations", "people", "portal"];

/// Builds every test program of the workspace, and the programs that the whole-system tests run.
///
/// # Errors
/// If something does not build.
pub fn build(release: bool) -> anyhow::Result<Vec<Program>> {
    // A test must not build the program while it is being timed.
    cargo(&["build", "--locked", "--package", "culvert"], release, false)?;
    // This builds the portal too, for the integration tests of its own package.
    let messages = cargo(&["test", "--workspace", "--locked", "--no-run"], release, true)?;
    let mut programs = Vec::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).with_context(|| format!("cargo printed {line}"))?;
        programs.extend(program(&message));
    }
    if let Some(missing) = GROUPS.iter().find(|group| !programs.iter().any(|program| program.target == **group)) {
        bail!("cargo built no test program '{missing}'");
    }
    Ok(programs)
}

/// Runs cargo, which shows its progress and errors. Returns its messages in JSON if wanted.
fn cargo(arguments: &[&str], release: bool, wants_messages: bool) -> anyhow::Result<String> {
    let mut command = Command::new("cargo");
    command.args(arguments);
    if release {
        command.arg("--release");
    }
    if wants_messages {
        command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    }
    println!("cargo {}", arguments.join(" "));
    let output = command.stderr(Stdio::inherit()).spawn().context("cargo does not run")?.wait_with_output()?;
    if !output.status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    String::from_utf8(output.stdout).context("cargo's messages")
}

/// The test program that a message is about, if it is about one.
fn program(message: &Value) -> Option<Program> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let executable = PathBuf::from(message["executable"].as_str()?);
    let directory = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    let package = package_name(message["package_id"].as_str()?)?;
    let target = message["target"]["name"].as_str()?.to_owned();
    let is_integration = message["target"]["kind"].as_array()?.iter().any(|kind| kind == "test");
    Some(Program { package, target, is_integration, executable, directory })
}

/// The package's name in an identifier, `path+file:///a/b#name@1.0.0`, or `…/name#1.0.0` if its
/// directory has the same name. Without `culvert-`, which all have.
fn package_name(identifier: &str) -> Option<String> {
    let (path, version) = identifier.rsplit_once('#')?;
    let name = match version.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next()?,
    };
    Some(name.strip_prefix("culvert-").unwrap_or(name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_cargos_messages() {
        let message = |test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///c/tests#culvert-tests@0.1.0",
                "manifest_path":"/c/tests/Cargo.toml","target":{{"kind":["test"],"name":"faults"}},
                "profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let parse = |text: &str| program(&serde_json::from_str(text).unwrap());
        let found = parse(&message(true, "\"/t/faults-1\"")).unwrap();
        assert_eq!((found.package.as_str(), found.target.as_str(), found.is_integration), ("tests", "faults", true));
        assert_eq!(found.directory, Path::new("/c/tests"));
        assert_eq!(parse(&message(false, "\"/t/faults-1\"")), None);
        assert_eq!(parse(&message(true, "null")), None);
        assert_eq!(parse(r#"{"reason":"build-finished","success":true}"#), None);
    }

    #[test]
    fn packages_are_named_by_their_identifiers() {
        assert_eq!(package_name("path+file:///c/control/cli#culvert@0.1.0").unwrap(), "culvert");
        assert_eq!(package_name("path+file:///c/xtask#0.1.0").unwrap(), "xtask");
        assert_eq!(package_name("nothing"), None);
    }
}
