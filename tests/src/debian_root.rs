//! A bare Debian: what debootstrap makes of this host's release, from this host's package mirror.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::is_installed;

/// Unpacks a bare Debian into `root`, or says why there is none. It is kept in `target/`, so only
/// the first test on a machine waits for a minute.
///
/// # Errors
/// Why it cannot be had.
pub fn unpack(root: &Path) -> Result<(), String> {
    for program in ["debootstrap", "tar", "apt-get", "dpkg"] {
        if !is_installed(program) {
            return Err(format!("{program} is not installed"));
        }
    }
    let archive = archive()?;
    fs::create_dir_all(root).map_err(|error| error.to_string())?;
    run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(root))
}

fn archive() -> Result<PathBuf, String> {
    let suite = suite()?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debian-root");
    let archive = folder.join(format!("{suite}.tar"));
    if archive.exists() {
        return Ok(archive);
    }
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let room = tempfile::tempdir_in(&folder).map_err(|error| error.to_string())?;
    let (tree, tar) = (room.path().join("tree"), room.path().join("tar"));
    let mut make = Command::new("debootstrap");
    // The package needs systemd's programs, not systemd as init.
    make.args(["--variant=minbase", "--include=systemd", &suite]).arg(&tree).arg(mirror(&suite)?);
    run(&mut make)?;
    run(Command::new("tar")
        .arg("-cf")
        .arg(&tar)
        .args(["--exclude=./var/cache/apt/archives/*.deb", "-C"])
        .arg(&tree)
        .arg("."))?;
    // All or nothing, whoever else makes one meanwhile.
    fs::rename(&tar, &archive).map_err(|error| error.to_string())?;
    Ok(archive)
}

/// The release of this host.
fn suite() -> Result<String, String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field =
        |name: &str| release.lines().find_map(|line| line.strip_prefix(name)).map(|text| text.trim_matches('"'));
    match (field("ID="), field("VERSION_CODENAME=")) {
        (Some("debian"), Some(suite)) => Ok(suite.to_owned()),
        _ => Err("this host is no Debian of a release with a name".to_owned()),
    }
}

/// Where this host gets the packages of a release from.
fn mirror(suite: &str) -> Result<String, String> {
    let folder = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let texts = folder.chain([PathBuf::from("/etc/apt/sources.list")]).filter_map(|path| fs::read_to_string(path).ok());
    let found = texts.into_iter().find_map(|text| in_lines(&text, suite).or_else(|| in_stanzas(&text, suite)));
    found.ok_or_else(|| format!("apt's sources name no address of {suite}"))
}

/// `deb [options] ADDRESS SUITE main …`
fn in_lines(text: &str, suite: &str) -> Option<String> {
    text.lines().filter_map(|line| line.trim().strip_prefix("deb ")).find_map(|line| {
        let line = line.trim();
        let words = line.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(line, |(_, rest)| rest);
        let words: Vec<&str> = words.split_whitespace().collect();
        matches!(words.as_slice(), [_, found, components @ ..] if *found == suite && components.contains(&"main"))
            .then(|| words[0].to_owned())
    })
}

/// The same in deb822 format.
fn in_stanzas(text: &str, suite: &str) -> Option<String> {
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            let value = stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map(|value| value.split_whitespace().collect::<Vec<_>>()).unwrap_or_default()
        };
        let is_it = field("Suites").contains(&suite) && field("Components").contains(&"main");
        is_it.then(|| field("URIs").first().map(|&address| address.to_owned())).flatten()
    })
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Err(format!("{program} failed: {}", said.trim().lines().last().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_sources_are_read() {
        let lines = "# deb http://no/ x main\ndeb [arch=amd64 signed-by=/k] http://one/debian bookworm main contrib\n";
        assert_eq!(in_lines(lines, "bookworm").as_deref(), Some("http://one/debian"));
        assert_eq!(in_lines(lines, "trixie"), None);
        let stanzas = "Types: deb\nURIs: http://a\nSuites: nodistro\nComponents: main\n\nTypes: deb\n\
                       URIs: http://two/debian\nSuites: bookworm bookworm-updates\nComponents: main\n";
        assert_eq!(in_stanzas(stanzas, "bookworm").as_deref(), Some("http://two/debian"));
        assert_eq!(in_stanzas(lines, "bookworm"), None);
    }
}
