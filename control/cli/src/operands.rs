//! Parses the operands and options of a transfer: which paths are local, which are on a partner,
//! and how the transfer is done.

use std::ffi::OsString;

use culvert_model::request::{Movement, Target};
use culvert_model::typed_path::TypedPath;
use culvert_node::profiles::Profiles;
use culvert_protocol::chunk_map::CHUNK_BYTES_DEFAULT;
use culvert_protocol::control::{Options, Overwrite};
use culvert_state::StateDirectory;

use crate::args::TransferOptions;
use crate::command_tips::lacks_colon;
use crate::exit::CommandError;
use crate::location::{Location, parse};

/// A transfer from its command line.
#[derive(Debug)]
pub struct ParsedTransfer {
    /// The partner; with several sources on it, the location of the first.
    pub partner: Location,
    /// What moves.
    pub movement: Movement,
}

/// The forms of a path on a partner.
const PARTNERS_PATHS: &str = "NAME:PATH, USER@HOST:PATH, ssh://USER@HOST:PORT/PATH or culvert://HOST:PORT/PATH";

/// Parses the paths of a transfer: all sources on one host, the destination on the other.
///
/// # Errors
/// [`CommandError`] that names the path on the wrong host.
pub fn parse_operands(paths: &[OsString], is_get: bool) -> Result<ParsedTransfer, CommandError> {
    let locations = paths.iter().map(|path| parse(path)).collect::<Result<Vec<_>, _>>()?;
    let ([_, .., destination], [sources @ .., _]) = (locations.as_slice(), locations.as_slice()) else {
        return Err(CommandError::usage("two paths are needed: a source, and the destination as the last one"));
    };
    let is_local = |location: &Location| matches!(location, Location::Local(_));
    if is_get {
        if !is_local(destination) {
            return Err(CommandError::usage("'culvert get' stores on this host: the last path must be a local one"));
        }
        let partner = sources.first().cloned().filter(|location| !is_local(location));
        let Some(partner) = partner else {
            if let Some(source) = sources.first().filter(|source| lacks_colon(source.path().as_path())) {
                return Err(missing_colon(source.path()));
            }
            return Err(CommandError::usage(format!(
                "'culvert get' fetches from a partner: write its paths as {PARTNERS_PATHS}"
            )));
        };
        if sources.iter().any(|location| location.partner() != partner.partner()) {
            return Err(CommandError::usage("all sources must be on the same partner"));
        }
        let sources = sources.iter().map(|location| location.path().clone()).collect();
        let movement = Movement::Pull { sources, destination: absolute(destination.path())? };
        return Ok(ParsedTransfer { partner, movement });
    }
    if let Some(location) = sources.iter().find(|location| !is_local(location)) {
        return Err(CommandError::usage(format!(
            "'culvert send' sends from this host, but the source {} is on a partner; to fetch it, use 'culvert get'",
            location.path()
        )));
    }
    if is_local(destination) {
        if lacks_colon(destination.path().as_path()) {
            return Err(missing_colon(destination.path()));
        }
        return Err(CommandError::usage(format!(
            "the destination {} is on this host: write a partner's path as {PARTNERS_PATHS}; for copies on this host use cp",
            destination.path()
        )));
    }
    let sources = sources.iter().map(|location| absolute(location.path())).collect::<Result<_, _>>()?;
    let movement = Movement::Push { sources, destination: destination.path().clone() };
    Ok(ParsedTransfer { partner: destination.clone(), movement })
}

/// The options of a transfer.
///
/// # Errors
/// [`CommandError`] if options contradict each other, or one lacks another that it needs.
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

/// The target of a partner's location. For far ends over ssh, [`crate::ssh::FarEnd::target`] is
/// used instead.
#[must_use]
pub fn target_of(location: &Location) -> Target {
    match location {
        Location::Address { host, port, .. } => Target::Address { host: host.clone(), port: *port },
        Location::Profile { name, .. } => Target::Profile(name.clone()),
        Location::Local(_) | Location::Ssh { .. } => Target::Profile(location.partner().unwrap_or_default()),
    }
}

/// Whether a profile has this name. An unreadable one counts too; the error is reported when it is
/// used.
#[must_use]
pub fn has_profile(state: &StateDirectory, name: &str) -> bool {
    !matches!(Profiles::new(state.clone()).find(name), Ok(None))
}

/// The error for an operand that looks like a host but lacks the colon, and so is a local path.
fn missing_colon(path: &TypedPath) -> CommandError {
    CommandError::usage(format!(
        "{path} has no colon, so it is a path on this host: write {path}: for the home directory there, or {path}:PATH"
    ))
}

/// A local path made absolute. A trailing slash is kept.
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
