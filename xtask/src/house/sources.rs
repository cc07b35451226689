//! The sources of the workspace, read once for all rules.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

/// A file with Rust code.
#[derive(Debug)]
pub struct Source {
    /// From the root of the repository.
    pub path: PathBuf,
    pub text: String,
}

/// A crate of the workspace.
#[derive(Debug)]
pub struct Crate {
    /// As in its manifest.
    pub name: String,
    /// The library's name, as in code.
    pub library: String,
    /// From the root of the repository.
    pub directory: PathBuf,
    /// The workspace's crates that it depends on, except for its tests.
    pub dependencies: Vec<String>,
    /// The files in `src`, in the order of their paths.
    pub sources: Vec<Source>,
    /// The files in `tests`, `examples` and `benches`.
    pub beside: Vec<Source>,
}

/// All crates of the workspace.
#[derive(Debug)]
pub struct Tree {
    pub root: PathBuf,
    pub crates: Vec<Crate>,
}

impl Tree {
    /// Reads the workspace whose manifest is in `root`.
    pub fn read(root: &Path) -> anyhow::Result<Self> {
        let manifest = manifest(&root.join("Cargo.toml"))?;
        let members = manifest["workspace"]["members"].as_array().context("the workspace has no members")?;
        let mut crates = Vec::new();
        for member in members {
            let member = member.as_str().context("a member of the workspace is not a string")?;
            crates.push(Crate::read(root, Path::new(member))?);
        }
        let names: Vec<String> = crates.iter().map(|one| one.name.clone()).collect();
        for one in &mut crates {
            one.dependencies.retain(|name| names.contains(name));
        }
        Ok(Self { root: root.to_owned(), crates })
    }

    /// Every source of every crate.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.crates.iter().flat_map(|one| one.sources.iter().chain(&one.beside))
    }
}

impl Crate {
    fn read(root: &Path, directory: &Path) -> anyhow::Result<Self> {
        let manifest = manifest(&root.join(directory).join("Cargo.toml"))?;
        let name = manifest["package"]["name"].as_str().context("a package has no name")?.to_owned();
        let library = manifest.get("lib").and_then(|library| library.get("name")).and_then(toml::Value::as_str);
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
        let sources_in = |part: &str| sources_in(root, &directory.join(part));
        let mut beside = Vec::new();
        for part in ["tests", "examples", "benches"] {
            beside.extend(sources_in(part)?);
        }
        Ok(Self {
            library: library.map_or_else(|| name.replace('-', "_"), str::to_owned),
            name,
            dependencies: dependencies.map(|table| table.keys().cloned().collect()).unwrap_or_default(),
            sources: sources_in("src")?,
            beside,
            directory: directory.to_owned(),
        })
    }
}

fn manifest(path: &Path) -> anyhow::Result<toml::Value> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let table: toml::Table = text.parse().map_err(|error| anyhow!("{}: {error}", path.display()))?;
    Ok(toml::Value::Table(table))
}

/// The sources in a directory of the repository and below it; none if there is no such directory.
fn sources_in(root: &Path, directory: &Path) -> anyhow::Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        if !root.join(&directory).is_dir() {
            continue;
        }
        for entry in fs::read_dir(root.join(&directory)).with_context(|| directory.display().to_string())? {
            let path = directory.join(entry?.file_name());
            if root.join(&path).is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(root.join(&path)).with_context(|| path.display().to_string())?;
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}
