//! The Debian package: a tree laid out from the program and `packaging/`, and `dpkg-deb` on it.
//!
//! Man pages and completions are what the program itself prints, so they cannot differ from it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};

/// The package's maintainer, unless another is given.
pub const MAINTAINER: &str = "Culvert maintainers <culvert@packages.debian.org>";

/// Programs that building needs.
pub const TOOLS: [&str; 2] = ["dpkg-deb", "strip"];

/// What a package is made from.
#[derive(Clone, Debug)]
pub struct Package {
    /// The repository.
    pub workspace: PathBuf,
    /// The program.
    pub program: PathBuf,
    /// `Name <address>`.
    pub maintainer: String,
    /// Revision of the package, after the version's dash.
    pub revision: u32,
}

impl Package {
    /// Builds the package into `directory` and returns its path.
    ///
    /// # Errors
    /// What is missing or fails, in words.
    pub fn build(&self, directory: &Path) -> anyhow::Result<PathBuf> {
        let architecture = output(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned();
        let (version, date) = (format!("{}-{}", env!("CARGO_PKG_VERSION"), self.revision), self.date()?);
        let name = format!("culvert_{version}_{architecture}.deb");
        let tree = directory.join("culvert.tree");
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        self.install_program(&tree)?;
        self.install_files(&tree)?;
        let changelog = self.template("changelog")?.replace("@VERSION@", &version).replace("@DATE@", &date);
        install_zipped(&tree.join("usr/share/doc/culvert/changelog.Debian.gz"), changelog.as_bytes())?;
        let installed_kib = bytes_below(&tree)?.div_ceil(1_024);
        let control = self
            .template("control")?
            .replace("@VERSION@", &version)
            .replace("@ARCHITECTURE@", &architecture)
            .replace("@INSTALLED_SIZE@", &installed_kib.to_string())
            .replace("@LIBC@", &libc_version(&fs::read(&self.program)?));
        install(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644)?;
        for script in ["postinst", "prerm", "postrm"] {
            install(&tree.join("DEBIAN").join(script), self.template(script)?.as_bytes(), 0o755)?;
        }
        install(&tree.join("DEBIAN/conffiles"), b"/etc/culvert/culvert.toml\n", 0o644)?;
        install(&tree.join("DEBIAN/md5sums"), digests(&tree)?.as_bytes(), 0o644)?;
        let package = directory.join(name);
        output(Command::new("dpkg-deb").args(["--root-owner-group", "-Zxz", "--build"]).arg(&tree).arg(&package))?;
        fs::remove_dir_all(&tree)?;
        Ok(package)
    }

    /// The program without symbols, and its version output.
    fn install_program(&self, tree: &Path) -> anyhow::Result<()> {
        let target = tree.join("usr/bin/culvert");
        install(&target, &fs::read(&self.program).with_context(|| self.program.display().to_string())?, 0o755)?;
        output(Command::new("strip").args(["--strip-unneeded", "--remove-section=.comment"]).arg(&target))?;
        for (shell, path) in [
            ("bash", "usr/share/bash-completion/completions/culvert"),
            ("zsh", "usr/share/zsh/vendor-completions/_culvert"),
            ("fish", "usr/share/fish/vendor_completions.d/culvert.fish"),
        ] {
            let script = output(Command::new(&self.program).args(["completion", shell]))?;
            install(&tree.join(path), script.as_bytes(), 0o644)?;
        }
        let pages = tree.join("pages");
        fs::create_dir_all(&pages)?;
        output(Command::new(&self.program).args(["completion", "man", "--directory"]).arg(&pages))?;
        for page in sorted(&pages)? {
            let name = page.file_name().context("a man page without a name")?.to_string_lossy().into_owned();
            let section = name.rsplit_once('.').map_or("1", |(_, section)| section);
            let folder = tree.join(format!("usr/share/man/man{section}"));
            install_zipped(&folder.join(format!("{name}.gz")), &fs::read(&page)?)?;
        }
        fs::remove_dir_all(&pages)?;
        Ok(())
    }

    /// Units, accounts, settings, alerts, documents.
    fn install_files(&self, tree: &Path) -> anyhow::Result<()> {
        let packaging = self.workspace.join("packaging");
        let copy = |from: PathBuf, to: &str| {
            let bytes = fs::read(&from).with_context(|| from.display().to_string())?;
            install(&tree.join(to), &bytes, 0o644)
        };
        for unit in sorted(&packaging.join("systemd"))? {
            let name = unit.file_name().context("a unit without a name")?.to_string_lossy().into_owned();
            // Its program is not in this package.
            if name == "culvert-portal.service" {
                continue;
            }
            copy(unit, &format!("lib/systemd/system/{name}"))?;
        }
        for (from, to) in [
            ("sysusers.conf", "usr/lib/sysusers.d/culvert.conf"),
            ("tmpfiles.conf", "usr/lib/tmpfiles.d/culvert.conf"),
            ("culvert.toml", "etc/culvert/culvert.toml"),
            ("prometheus/culvert.rules.yml", "usr/share/doc/culvert/examples/culvert.rules.yml"),
            ("prometheus/culvert.rules.test.yml", "usr/share/doc/culvert/examples/culvert.rules.test.yml"),
            ("debian/lintian-overrides", "usr/share/lintian/overrides/culvert"),
            ("nftables/culvert.nft", "usr/share/doc/culvert/examples/culvert.nft"),
        ] {
            copy(packaging.join(from), to)?;
        }
        let copyright = fs::read(packaging.join("debian/copyright"))?;
        install(&tree.join("usr/share/doc/culvert/copyright"), &copyright, 0o644)?;
        // All of them, decisions and figures too: each is linked to from another.
        let documents = self.workspace.join("docs");
        for document in files_below(&documents)? {
            let name = document.strip_prefix(&documents)?.to_string_lossy().into_owned();
            copy(document, &format!("usr/share/doc/culvert/{name}"))?;
        }
        Ok(())
    }

    fn template(&self, name: &str) -> anyhow::Result<String> {
        let path = self.workspace.join("packaging/debian").join(name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.replace("@MAINTAINER@", &self.maintainer))
    }

    /// When the source was last changed, as changelogs write it: the same source makes the same
    /// package.
    fn date(&self) -> anyhow::Result<String> {
        let log = output(Command::new("git").arg("-C").arg(&self.workspace).args(["log", "-1", "--format=%aD"]));
        match log {
            Ok(date) if !date.trim().is_empty() => Ok(date.trim().to_owned()),
            _ => Ok(output(Command::new("date").arg("-R"))?.trim().to_owned()),
        }
    }
}

/// The newest version of the C library whose symbols the program uses.
fn libc_version(program: &[u8]) -> String {
    const PREFIX: &[u8] = b"GLIBC_2.";
    let minor = program.windows(PREFIX.len() + 2).filter(|window| window.starts_with(PREFIX)).filter_map(|window| {
        let digits = &window[PREFIX.len()..];
        let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
        std::str::from_utf8(&digits[..end]).ok()?.parse::<u32>().ok()
    });
    format!("2.{}", minor.max().unwrap_or(17))
}

fn install(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
        // Whatever the caller's umask is.
        for directory in directory.ancestors().take_while(|above| !above.ends_with("culvert.tree")) {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
        }
    }
    fs::write(path, bytes)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

fn install_zipped(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    // Without name and time: the same source makes the same package.
    let mut encoder: GzEncoder<Vec<u8>> = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    install(path, &encoder.finish()?, 0o644)
}

fn sorted(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    paths.sort();
    ensure!(!paths.is_empty(), "{} is empty", directory.display());
    Ok(paths)
}

/// The files below a directory, without the package's own.
fn files_below(tree: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![tree.to_owned()];
    while let Some(directory) = directories.pop() {
        for path in sorted(&directory)? {
            if path.is_dir() {
                if !path.ends_with("DEBIAN") {
                    directories.push(path);
                }
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn bytes_below(tree: &Path) -> anyhow::Result<u64> {
    files_below(tree)?.iter().map(|file| Ok(file.metadata()?.len())).sum()
}

/// `md5sums`, by which `dpkg --verify` finds changed files.
fn digests(tree: &Path) -> anyhow::Result<String> {
    let files = files_below(tree)?;
    let names = files.iter().filter_map(|file| file.strip_prefix(tree).ok()).filter(|name| !name.starts_with("etc"));
    output(Command::new("md5sum").arg("--").args(names).current_dir(tree))
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("{program} cannot be run"))?;
    if !output.status.success() {
        bail!("{program} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_symbol_says_which_c_library_is_needed() {
        assert_eq!(libc_version(b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.17\0GLIBC_2.9\0"), "2.34");
        assert_eq!(libc_version(b"nothing"), "2.17");
    }
}
