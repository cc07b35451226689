//! The XDP steering program: compiled for the kernel's virtual machine, and the committed object
//! compared with its source.
//!
//! That takes a compiler with its library's source (`rust-src`), because `core` is compiled along,
//! and `bpf-linker` over the same LLVM. On Debian 12:
//!
//! ```text
//! apt-get install rustc-web cargo-web rust-web-src llvm-22-dev libpolly-22-dev
//! PATH=/usr/lib/llvm-22/bin:$PATH LLVM_PREFIX=/usr/lib/llvm-22 RUSTFLAGS="-L /usr/lib/llvm-22/lib" \
//!     cargo install bpf-linker --version 0.13.0 --no-default-features --features llvm-22
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// The compiler that made the committed object; another compiler makes a different but equivalent
/// object.
const RUSTC_VERSION: &str = "1.96.0";

/// Compiles the program. Replaces the committed object, or compares with it.
pub fn build(check: bool) -> anyhow::Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has a parent folder")?;
    let Some(rustc) = compiler() else {
        let why = format!("no rustc {RUSTC_VERSION} with rust-src (Debian: rustc-web cargo-web rust-web-src)");
        return missing(check, &why);
    };
    let linker = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin/bpf-linker"));
    if !crate::packages::is_installed("bpf-linker") && !linker.is_some_and(|linker| linker.is_file()) {
        return missing(check, "no bpf-linker (see xtask/src/ebpf.rs)");
    }
    let target = workspace.join("target/ebpf");
    let status = Command::new(rustc.with_file_name("cargo"))
        .args(["build", "--release", "--locked"])
        .current_dir(workspace.join("ebpf"))
        .env("RUSTC", &rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", &target)
        .env("PATH", search_path())
        // Set by the caller's toolchain for itself.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the steering program does not compile");
    }
    let built = std::fs::read(target.join("bpfel-unknown-none/release/steering"))?;
    let committed = workspace.join("ebpf/steering.o");
    if !check {
        std::fs::write(&committed, &built)?;
        println!("ebpf/steering.o: {} bytes", built.len());
        return Ok(());
    }
    if std::fs::read(&committed)? != built {
        bail!("ebpf/steering.o is not what its source compiles to: run cargo xtask build-ebpf and commit it");
    }
    println!("ebpf/steering.o is what its source compiles to");
    Ok(())
}

/// A check that cannot be done is skipped with a message; a build that cannot be done fails.
fn missing(check: bool, why: &str) -> anyhow::Result<()> {
    if check {
        println!("skipped: the steering program is not compiled and compared: {why}");
        return Ok(());
    }
    bail!("{why}")
}

fn compiler() -> Option<PathBuf> {
    let is_fit = |rustc: &Path| {
        let answer = |arguments: &[&str]| {
            let output = Command::new(rustc).args(arguments).output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let version = answer(&["--version"]).unwrap_or_default();
        let library = answer(&["--print", "sysroot"]).map(|root| format!("{root}/lib/rustlib/src/rust/library/core"));
        version.contains(RUSTC_VERSION) && library.is_some_and(|library| Path::new(&library).is_dir())
    };
    let named = std::env::var_os("CULVERT_EBPF_RUSTC").map(PathBuf::from);
    named.into_iter().chain([PathBuf::from("/usr/bin/rustc")]).find(|rustc| is_fit(rustc))
}

/// The search path with LLVM's tools and cargo's programs.
fn search_path() -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin"));
    let folders = [PathBuf::from("/usr/lib/llvm-22/bin")].into_iter().chain(home).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).unwrap_or(path)
}
