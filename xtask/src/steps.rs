//! The steps of the tasks: commands run one after another, stopping at the first failure.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, anyhow, bail};

use crate::packages::{OF_BENCHMARKS, OF_PACKAGING, OF_TESTS, install_missing, is_installed};
use crate::test_output::TestOutput;

/// The version of cargo-deny to install if there is none: the newest that builds with Rust 1.95.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// Formatting, lints, documentation, licenses.
pub fn check() -> anyhow::Result<()> {
    cargo(&["fmt", "--all", "--check"], &[])?;
    crate::house::check()?;
    crate::ebpf::build(true)?;
    cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], &[])?;
    cargo(
        &["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"],
        &[("RUSTDOCFLAGS", "-D warnings")],
    )?;
    deny()
}

/// Every test of every crate.
pub fn test(arguments: &[String]) -> anyhow::Result<()> {
    install_missing(OF_TESTS);
    // The whole-system tests run the program as users have it, and must not build it while a test
    // is being timed.
    cargo(&["build", "--locked", "--package", "culvert"], &[])?;
    // A failing test must not hide the results of the programs after it.
    let mut test = vec!["test", "--workspace", "--locked", "--no-fail-fast"];
    test.extend(arguments.iter().map(String::as_str));
    // `skipped: why` must be seen.
    if !arguments.iter().any(|argument| argument == "--") {
        test.push("--");
    }
    test.push("--show-output");
    let (output, result) = run_tests(&test)?;
    if output.skipped.is_empty() {
        println!("no test was skipped");
    } else {
        println!("{}", output.skipped.join("\n"));
    }
    for failure in &output.failures {
        println!("\n{failure}");
    }
    let names: Vec<&str> = output.failures.iter().map(|failure| failure.name.as_str()).collect();
    result.with_context(|| format!("{} tests failed: {}", names.len(), names.join(", ")))
}

/// The Debian package.
pub fn deb(program: Option<PathBuf>, output: &Path, maintainer: String, revision: u32) -> anyhow::Result<()> {
    install_missing(OF_PACKAGING);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let program = match program {
        Some(program) => program.canonicalize().with_context(|| program.display().to_string())?,
        None => {
            cargo(&["build", "--release", "--locked", "--package", "culvert"], &[])?;
            workspace.join("target/release/culvert")
        }
    };
    std::fs::create_dir_all(output)?;
    let package = xtask::deb::Package { workspace, program, maintainer, revision }.build(output)?;
    println!("{}", package.display());
    Ok(())
}

/// The benchmark, in release.
pub fn bench(arguments: &[String]) -> anyhow::Result<()> {
    if !arguments.iter().any(|argument| argument == "--help") {
        install_missing(OF_BENCHMARKS);
    }
    // Built separately, as the benchmark requests it: together with other packages it would have
    // their features too, and be built twice.
    cargo(&["build", "--release", "--locked", "--package", "culvert"], &[])?;
    run_release(&["--package", "culvert-benches"], arguments)
}

/// The simulator, in release.
pub fn simulate(arguments: &[String]) -> anyhow::Result<()> {
    run_release(&["--package", "culvert-simulator", "--example", "sim"], arguments)
}

/// A command of the path emulator, in release.
pub fn emulate(command: &str, arguments: &[String]) -> anyhow::Result<()> {
    install_missing(OF_TESTS);
    cargo(&["build", "--release", "--locked", "--package", "culvert"], &[])?;
    let words: Vec<String> = std::iter::once(command.to_owned()).chain(arguments.iter().cloned()).collect();
    run_release(&["--package", "culvert-tests", "--bin", "culvert-lab"], &words)
}

/// Runs cargo, and reports how long it took.
pub fn cargo(arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<()> {
    println!("cargo {}", arguments.join(" "));
    let began = Instant::now();
    let status =
        Command::new("cargo").args(arguments).envs(variables.iter().copied()).status().context("cargo does not run")?;
    println!("cargo {} took {:.0} s", arguments[0], began.elapsed().as_secs_f64());
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(())
}

/// Licenses, advisories, sources and duplicates of all dependencies.
fn deny() -> anyhow::Result<()> {
    if !is_installed("cargo-deny") && !cargo_bin("cargo-deny").is_some_and(|path| path.is_file()) {
        let install = cargo(&["install", "--quiet", "--locked", "cargo-deny", "--version", CARGO_DENY_VERSION], &[]);
        if let Err(error) = install {
            println!("skipped: cargo deny: {error:#}");
            return Ok(());
        }
    }
    // Advisories come from a repository that not every machine can reach; licenses and sources need
    // no network.
    cargo(&["deny", "check", "bans", "licenses", "sources"], &[])?;
    let advisories = Command::new("cargo").args(["deny", "check", "advisories"]).output().context("cargo deny")?;
    let said = String::from_utf8_lossy(&advisories.stderr);
    if advisories.status.success() {
        println!("cargo deny check advisories: ok");
    } else if said.contains("failed to fetch advisory database") || said.contains("failed to clone") {
        println!("skipped: cargo deny check advisories: the advisory database cannot be fetched from here");
    } else {
        bail!("cargo deny check advisories: {said}");
    }
    Ok(())
}

fn cargo_bin(program: &str) -> Option<PathBuf> {
    let home =
        std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".cargo")))?;
    Some(home.join("bin").join(program))
}

/// Runs cargo and passes on relevant output; returns what it collected, and how it ended.
fn run_tests(arguments: &[&str]) -> anyhow::Result<(TestOutput, anyhow::Result<()>)> {
    use std::io::{BufRead as _, BufReader};
    println!("cargo {}", arguments.join(" "));
    let began = Instant::now();
    let mut child = Command::new("cargo")
        .args(arguments)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .context("cargo does not run")?;
    let mut output = TestOutput::default();
    for line in BufReader::new(child.stdout.take().context("no output")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        if output.take(&line) {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    println!("cargo {} took {:.0} s", arguments[0], began.elapsed().as_secs_f64());
    let ended = if status.success() { Ok(()) } else { Err(anyhow!("cargo {} failed", arguments.join(" "))) };
    Ok((output, ended))
}

fn run_release(what: &[&str], arguments: &[String]) -> anyhow::Result<()> {
    let mut run = vec!["run", "--quiet", "--release", "--locked"];
    run.extend(what);
    run.push("--");
    run.extend(arguments.iter().map(String::as_str));
    cargo(&run, &[])
}
