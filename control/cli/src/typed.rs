//! A transfer as it was typed: which paths are here and which there, and how it is to be done.

use std::ffi::OsString;

use culvert_model::request::{Movement, Target};
use culvert_model::typed_path::TypedPath;
use culvert_node::profiles::Profiles;
use culvert_protocol::chunk_map::CHUNK_BYTES_DEFAULT;
use culvert_protocol::control::{Options, Overwrite};
use culvert_state::StateDirectory;

use crate::args::TransferOptions;
use crate::exit::CommandError;
use crate::habits::lacks_colon;
use crate::target::{Place, parse};

/// A transfer as it was typed: the partner's place, and what moves.
#[derive(Debug)]
pub struct TypedTransfer {
    /// Where the partner is; its path is the first or only one.
    pub partner: Place,
    /// What moves.
    pub movement: Movement,
}

/// How a path on a partner is written.
const PARTNERS_PATHS: &str = "NAME:PATH, USER@HOST:PATH, ssh://USER@HOST:PORT/PATH or culvert://HOST:PORT/PATH";

/// Reads the paths of a transfer: all sources on one side, the destination on the other.
///
/// # Errors
/// [`CommandError`] that says which path is on the wrong side.
pub fn read_paths(paths: &[OsString], is_get: bool) -> Result<TypedTransfer, CommandError> {
    let places = paths.iter().map(|path| parse(path)).collect::<Result<Vec<_>, _>>()?;
    let ([_, .., destination], [sources @ .., _]) = (places.as_slice(), places.as_slice()) else {
        return Err(CommandError::usage("two paths are needed: a source, and the destination as the last one"));
    };
    let is_local = |place: &Place| matches!(place, Place::Local(_));
    if is_get {
        if !is_local(destination) {
            return Err(CommandError::usage("'culvert get' stores on this host: the last path must be a local one"));
        }
        let partner = sources.first().cloned().filter(|place| !is_local(place));
        let Some(partner) = partner else {
            if let Some(source) = sources.first().filter(|source| lacks_colon(source.path().as_path())) {
                return Err(without_colon(source.path()));
            }
            return Err(CommandError::usage(format!(
                "'culvert get' fetches from a partner: write its paths as {PARTNERS_PATHS}"
            )));
        };
        if sources.iter().any(|place| place.partner() != partner.partner()) {
            return Err(CommandError::usage("all sources must be on the same partner"));
        }
        let sources = sources.iter().map(|place| place.path().clone()).collect();
        let movement = Movement::Pull { sources, destination: absolute(destination.path())? };
        return Ok(TypedTransfer { partner, movement });
    }
    if let Some(place) = sources.iter().find(|place| !is_local(place)) {
        return Err(CommandError::usage(format!(
            "'culvert send' sends from this host, but the source {} is on a partner; to fetch it, use 'culvert get'",
            place.path()
        )));
    }
    if is_local(destination) {
        if lacks_colon(destination.path().as_path()) {
            return Err(without_colon(destination.path()));
        }
        return Err(CommandError::usage(format!(
            "the destination {} is on this host: write a partner's path as {PARTNERS_PATHS}; for copies on this host use cp",
            destination.path()
        )));
    }
    let sources = sources.iter().map(|place| absolute(place.path())).collect::<Result<_, _>>()?;
    let movement = Movement::Push { sources, destination: destination.path().clone() };
    Ok(TypedTransfer { partner: destination.clone(), movement })
}

/// The options of a transfer.
///
/// # Errors
/// [`CommandError`]: a mode without its rate.
pub fn options_of(options: &TransferOptions) -> Result<Options, CommandError> {
    use culvert_protocol::rate_control::Mode;
    if options.mode == Mode::Fixed && options.rate.is_none() {
        return Err(CommandError::usage("--mode fixed needs --rate: it sends at exactly that rate"));
    }
    if options.overwrite == Overwrite::Content && options.checksum == "none" {
        return Err(CommandError::usage(
            "--overwrite content compares hashes, so it cannot be used with --checksum none",
        ));
    }
    Ok(Options {
        chunk_bytes: CHUNK_BYTES_DEFAULT,
        checksum: options.checksum == "blake3",
        cipher: options.cipher,
        overwrite: options.overwrite,
        preserve: options.preserve,
        flows: options.flows.unwrap_or(0),
        mode: options.mode,
        rate_bits_per_second: options.rate,
        dry_run: options.dry_run,
    })
}

/// A partner's location as a target. Far ends are made from what ssh reports.
#[must_use]
pub fn target_of(place: &Place) -> Target {
    match place {
        Place::Address { host, port, .. } => Target::Address { host: host.clone(), port: *port },
        Place::Profile { name, .. } => Target::Profile(name.clone()),
        Place::Local(_) | Place::Ssh { .. } => Target::Profile(place.partner().unwrap_or_default()),
    }
}

/// Whether a profile has this name. One that cannot be read has it, too: what is wrong with it is
/// said when it is used.
#[must_use]
pub fn has_profile(state: &StateDirectory, name: &str) -> bool {
    !matches!(Profiles::new(state.clone()).find(name), Ok(None))
}

/// What names a host and has no colon is a path of this host, and seldom meant as one.
fn without_colon(path: &TypedPath) -> CommandError {
    CommandError::usage(format!(
        "{path} has no colon, so it is a path on this host: write {path}: for the home directory there, or {path}:PATH"
    ))
}

/// A local path, absolute, with its slash at the end if it had one.
fn absolute(path: &TypedPath) -> Result<TypedPath, CommandError> {
    use std::os::unix::ffi::OsStringExt as _;
    let joined = std::env::current_dir()
        .map_err(|error| CommandError::failed(format!("cannot determine the current directory: {error}")))?
        .join(path.as_path());
    let mut bytes = joined.into_os_string().into_vec();
    if path.0.ends_with(b"/") && !bytes.ends_with(b"/") {
        bytes.push(b'/');
    }
    Ok(TypedPath(bytes))
}
