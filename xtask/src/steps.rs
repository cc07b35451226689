//! The steps of the tasks: commands run one after another, stopping at the first failure.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::packages::{OF_BENCHMARKS, OF_PACKAGING, OF_TESTS, install_missing, is_installed};
use crate::testing::Selection;

/// The version of cargo-deny to install if there is none: the newest that builds with Rust 1.95.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// The profile of packages and benchmarks: docs/decisions/0085-two-release-profiles.md.
const PACKAGES: &str = "dist";

/// Formatting, lints, documentation, licenses.
pub fn check() -> anyhow::Result<()> {
    cargo(&["fmt", "--all", "--check"], &[])?;
    crate::house::check()?;
    crate::ebpf::build(true)?;
    // The XDP program uses the wire format without the standard library.
    cargo(&["check", "--package", "culvert-protocol", "--no-default-features", "--locked"], &[])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], &[])?;
    cargo(
        &["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"],
        &[("RUSTDOCFLAGS", "-D warnings")],
    )?;
    deny()
}

/// The tests that are selected, after the programs that they use are installed.
pub fn test(selection: &Selection) -> anyhow::Result<()> {
    install_missing(OF_TESTS);
    crate::testing::run(selection)
}

/// The Debian package.
pub fn deb(program: Option<PathBuf>, output: &Path, maintainer: String, revision: u32) -> anyhow::Result<()> {
    install_missing(OF_PACKAGING);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let program = match program {
        Some(program) => program.canonicalize().with_context(|| program.display().to_string())?,
        None => {
            cargo(&["build", "--profile", PACKAGES, "--locked", "--package", "culvert"], &[])?;
            workspace.join("target").join(PACKAGES).join("culvert")
        }
    };
    std::fs::create_dir_all(output)?;
    let package = xtask::deb::Package { workspace, program, maintainer, revision }.build(output)?;
    println!("{}", package.display());
    Ok(())
}

/// The benchmark, built as packages are.
pub fn bench(arguments: &[String]) -> anyhow::Result<()> {
    if !arguments.iter().any(|argument| argument == "--help") {
        install_missing(OF_BENCHMARKS);
    }
    // Built separately, as the benchmark requests it: together with other packages it would have
    // their features too, and be built twice.
    cargo(&["build", "--profile", PACKAGES, "--locked", "--package", "culvert"], &[])?;
    run_profile(PACKAGES, &["--package", "culvert-benches"], arguments)
}

/// The portal's benchmark, with the program as it is packaged.
pub fn portal_bench() -> anyhow::Result<()> {
    install_missing(OF_TESTS);
    cargo(&["build", "--profile", PACKAGES, "--locked", "--package", "culvert-portal"], &[])?;
    let program = Path::new("target").join(PACKAGES).join("culvert-portal").canonicalize()?;
    let variables = [("CULVERT_PORTAL_BIN", program.to_str().context("the target directory's name is UTF-8")?)];
    let binary = ["--package", "culvert-portal-tests", "--bin", "culvert-portal-bench"];
    cargo(&[&["run", "--release", "--locked"], &binary[..]].concat(), &variables)
}

/// The simulator, in release.
pub fn simulate(arguments: &[String]) -> anyhow::Result<()> {
    run_profile("release", &["--package", "culvert-simulator", "--example", "sim"], arguments)
}

/// A command of the path emulator, in release.
pub fn emulate(command: &str, arguments: &[String]) -> anyhow::Result<()> {
    install_missing(OF_TESTS);
    cargo(&["build", "--release", "--locked", "--package", "culvert"], &[])?;
    let words: Vec<String> = std::iter::once(command.to_owned()).chain(arguments.iter().cloned()).collect();
    run_profile("release", &["--package", "culvert-tests", "--bin", "culvert-lab"], &words)
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

fn run_profile(profile: &str, what: &[&str], arguments: &[String]) -> anyhow::Result<()> {
    let mut run = vec!["run", "--quiet", "--profile", profile, "--locked"];
    run.extend(what);
    run.push("--");
    run.extend(arguments.iter().map(String::as_str));
    cargo(&run, &[])
}
