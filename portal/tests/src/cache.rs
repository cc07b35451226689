//! What takes long to install and is the same for every test, kept in cargo's target directory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A folder that `make` has filled once, for all test processes of this target directory. It is
/// made again when `contents`, a description of what is in it, changes.
///
/// A failure is remembered in this process: the next test need not wait for the same one.
///
/// # Errors
/// What `make` says, or why the folder cannot be made.
///
/// # Panics
/// If another test has panicked here.
pub fn made_once(
    name: &str,
    contents: &str,
    make: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    static MADE: Mutex<BTreeMap<String, Result<PathBuf, String>>> = Mutex::new(BTreeMap::new());
    // Held meanwhile: the others wait for it.
    let mut made = MADE.lock().expect("no test panics while it installs");
    made.entry(name.to_owned()).or_insert_with(|| make_in(&root()?, name, contents, make)).clone()
}

fn make_in(
    root: &Path,
    name: &str,
    contents: &str,
    make: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let told = |error: std::io::Error| format!("{}: {error}", root.join(name).display());
    fs::create_dir_all(root).map_err(told)?;
    let lock = File::create(root.join(format!("{name}.lock"))).map_err(told)?;
    lock.lock().map_err(told)?;
    let (folder, whole) = (root.join(name), root.join(name).join("contents.txt"));
    if fs::read_to_string(&whole).is_ok_and(|found| found == contents) {
        return Ok(folder);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(told)?;
    }
    fs::create_dir_all(&folder).map_err(told)?;
    make(&folder)?;
    // Last: without it, the folder is not whole.
    fs::write(&whole, contents).map_err(told)?;
    Ok(folder)
}

/// Beside the files for which cargo tells integration tests a place, `CARGO_TARGET_TMPDIR`; it does
/// not tell libraries.
fn root() -> Result<PathBuf, String> {
    let this = std::env::current_exe().map_err(|error| format!("this program's file: {error}"))?;
    let target = this.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    let target = target.ok_or_else(|| format!("{} is in no target directory of cargo", this.display()))?;
    Ok(target.join("tmp/portal-tests"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_once_whole_and_again_for_other_contents() {
        let root = crate::process::folder();
        let write =
            |text: &'static str| move |folder: &Path| fs::write(folder.join(text), text).map_err(|e| e.to_string());
        let failed = make_in(root.path(), "a", "1", |folder| {
            write("half")(folder)?;
            Err("no network".to_owned())
        });
        assert_eq!(failed, Err("no network".to_owned()));
        let folder = make_in(root.path(), "a", "1", write("one")).unwrap();
        assert!(folder.join("one").exists() && !folder.join("half").exists());
        assert_eq!(make_in(root.path(), "a", "1", |_| Err("again".to_owned())), Ok(folder.clone()));
        make_in(root.path(), "a", "2", write("two")).unwrap();
        assert!(folder.join("two").exists() && !folder.join("one").exists());
    }

    #[test]
    fn the_target_directory_is_found() {
        assert!(root().unwrap().ends_with("tmp/portal-tests"));
    }
}
