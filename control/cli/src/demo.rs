//! `culvert demo`: two nodes on this host move and verify generated data through the full data
//! path.
//!
//! Both nodes have both processes; between them are TLS, UDP over loopback, AES-GCM, BLAKE3 and the
//! disk. Received files are compared with the originals by a hash that the transfer does not use.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use culvert_engine::transfer::blocking;
use culvert_model::exit_code::ExitCode;
use culvert_model::request::{Movement, Target, TransferRequest};
use culvert_model::result::TransferResult;
use culvert_model::typed_path::TypedPath;
use culvert_model::units::show_bytes;
use culvert_protocol::control::Overwrite;
use culvert_protocol::counted::{agree, counted};
use culvert_protocol::identity::to_hex;

use crate::args::{DemoArgs, EngineArgs, GlobalArgs, TransferOptions};
use crate::embedded_node::carry_out_here;
use crate::exit::CommandError;
use crate::operands::options_of;
use crate::report::{self, say};
use crate::scratch_directory::ScratchDirectory;
use crate::second_node::SecondNode;

/// Data is generated, read and compared in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

/// Runs the demo.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: GlobalArgs, args: DemoArgs) -> Result<ExitCode, CommandError> {
    let parent = args.directory.clone().unwrap_or_else(std::env::temp_dir);
    let room = ScratchDirectory::in_directory(&parent, "culvert-demo-")?;
    check_room(room.path(), args.size)?;
    let quiet = global.quiet || args.json;
    inform(quiet, &format!("making {} of random data, {} in all", counted(args.files, "file"), show_bytes(args.size)));
    let source = room.path().join("source");
    let made = source.clone();
    blocking(move || make_files(&made, args.size, args.files))
        .await
        .map_err(|error| CommandError::new(ExitCode::BadHost, format!("cannot write demo data: {error}")))?;

    inform(quiet, "starting two nodes, each with a control process and a data plane process");
    let partner = SecondNode::start(room.path(), &EngineArgs::default()).await?;
    let destination = partner.directory().to_owned();
    let request = TransferRequest {
        target: Target::Profile(SecondNode::NAME.to_owned()),
        movement: Movement::Push {
            sources: vec![TypedPath([source.as_os_str().as_bytes(), b"/"].concat())],
            destination: TypedPath(destination.as_os_str().as_bytes().to_vec()),
        },
        options: options_of(&demo_options())?,
        retries: Some(0),
    };
    let node = partner.this_node().clone();
    let outcome = carry_out_here(&node, request, global.quiet).await;
    partner.end().await;
    let result = outcome?;

    inform(quiet, "comparing what arrived with what was sent (SHA-256)");
    let (compared, digest) = {
        let (source, destination) = (source.clone(), destination.clone());
        blocking(move || compare(&source, &destination))
            .await
            .map_err(|error| CommandError::new(ExitCode::Verification, format!("verification failed: {error}")))?
    };
    drop(node);
    let directory = room.path().display().to_string();
    room.remove().map_err(|error| CommandError::failed(format!("cannot remove {directory}: {error}")))?;
    if args.json {
        report::print_json(&result)?;
    } else if !global.quiet {
        say(&table(&result, compared, &digest))?;
    }
    Ok(ExitCode::Done)
}

/// Options for a transfer between empty directories.
#[must_use]
pub fn demo_options() -> TransferOptions {
    TransferOptions {
        rate: None,
        mode: Default::default(),
        flows: None,
        checksum: "blake3".to_owned(),
        cipher: Default::default(),
        overwrite: Overwrite::Never,
        preserve: true,
        dry_run: false,
    }
}

fn inform(quiet: bool, text: &str) {
    if !quiet {
        say_aside!("culvert: {text}");
    }
}

fn check_room(directory: &Path, size: u64) -> Result<(), CommandError> {
    let Ok(stat) = rustix::fs::statvfs(directory) else { return Ok(()) };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let needed = size.saturating_mul(2).saturating_add(size / 10);
    if needed <= free {
        return Ok(());
    }
    let text = format!(
        "the demo needs {} in {}, which has {} free: make it smaller with --size, or name another place with --directory",
        show_bytes(needed),
        directory.display(),
        show_bytes(free)
    );
    Err(CommandError::new(ExitCode::BadHost, text))
}

/// Writes files of random bytes, of different sizes, some of them in a subdirectory. It makes no
/// directory above `directory`: an interrupted demo has removed it, and it stays so.
fn make_files(directory: &Path, size: u64, files: u32) -> std::io::Result<()> {
    fs::create_dir(directory)?;
    fs::create_dir(directory.join("more"))?;
    let mut state = std::process::id() as u64 | 1;
    let mut piece = vec![0u8; PIECE_BYTES];
    let mut left = size;
    for number in 0..files {
        let share = left / u64::from(files - number);
        // A quarter more or less, so that files do not end at a chunk boundary.
        let bytes = if number + 1 == files { left } else { (share - share / 4 + state % (share / 2).max(1)).min(left) };
        left -= bytes;
        let name = if number % 3 == 2 { format!("more/file-{number}") } else { format!("file-{number}") };
        let mut file = File::create(directory.join(name))?;
        let mut rest = bytes as usize;
        while rest > 0 {
            fill_randomly(&mut piece, &mut state);
            let step = rest.min(piece.len());
            file.write_all(&piece[..step])?;
            rest -= step;
        }
    }
    Ok(())
}

/// xorshift64* (Vigna 2016): data that neither repeats nor compresses, faster than the disk.
fn fill_randomly(piece: &mut [u8], state: &mut u64) {
    for word in piece.chunks_exact_mut(8) {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        word.copy_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
}

/// Compares two directories file by file; returns the number of identical files and a digest over
/// all.
fn compare(source: &Path, destination: &Path) -> Result<(u64, String), String> {
    let (ours, theirs) = (names(source)?, names(destination)?);
    if ours != theirs {
        return Err(format!(
            "{} {} sent, {} {} there, or their names differ",
            counted(ours.len(), "file"),
            agree(ours.len(), "was", "were"),
            theirs.len(),
            agree(theirs.len(), "is", "are")
        ));
    }
    let mut all = Context::new(&SHA256);
    for name in &ours {
        let (sent, stored) = (digest(&source.join(name))?, digest(&destination.join(name))?);
        if sent != stored {
            return Err(format!("{} differs", name.display()));
        }
        all.update(&sent);
    }
    Ok((ours.len() as u64, to_hex(all.finish().as_ref())))
}

fn names(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let fail = |error: std::io::Error| format!("{}: {error}", directory.display());
    let mut names = Vec::new();
    for subdirectory in ["", "more"] {
        for entry in fs::read_dir(directory.join(subdirectory)).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if entry.file_type().map_err(fail)?.is_file() {
                names.push(Path::new(OsStr::from_bytes(subdirectory.as_bytes())).join(entry.file_name()));
            }
        }
    }
    names.sort();
    Ok(names)
}

fn digest(path: &Path) -> Result<Vec<u8>, String> {
    let fail = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = File::open(path).map_err(fail)?;
    let mut context = Context::new(&SHA256);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece).map_err(fail)? {
            0 => return Ok(context.finish().as_ref().to_vec()),
            bytes => context.update(&piece[..bytes]),
        }
    }
}

fn table(result: &TransferResult, compared: u64, digest: &str) -> String {
    format!(
        "{}\n  compared   {} byte for byte, sha256 over all {}…",
        report::text(result, ""),
        counted(compared, "file"),
        &digest[..16]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_a_demo_that_is_gone_are_not_made() {
        let room = tempfile::tempdir().unwrap();
        let gone = room.path().join("gone");
        let error = make_files(&gone.join("source"), 1 << 20, 2).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        assert!(!gone.exists(), "the directory came back");
    }
}
