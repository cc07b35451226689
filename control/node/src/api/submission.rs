//! Whether a submitted request means anything, before a transfer of it exists.
//!
//! `culvert` sends no other requests, but whoever can open the socket may write one by hand. Paths
//! of this host are absolute: a relative one would be relative to the node's own directory, which
//! nobody meant. Paths on the partner's host may be relative, and empty for the home directory.

use culvert_engine::limits::MEASURE_BYTES_MAX;
use culvert_model::permitted;
use culvert_model::request::{Movement, Target, TransferRequest};
use culvert_model::typed_path::TypedPath;
use culvert_model::units::RATE_MIN;
use culvert_protocol::chunk_map::{CHUNK_BYTES, CHUNK_BYTES_DEFAULT};
use culvert_protocol::control::{FLOWS_MAX, Options, Overwrite};
use culvert_protocol::names::NAME_BYTES_MAX;
use culvert_protocol::rate_control::Mode;

/// Checks the form of a request.
///
/// # Errors
/// The field that means nothing, and what it may be.
pub fn check(request: &TransferRequest) -> Result<(), String> {
    let of = |field: &'static str| move |reason| format!("{field}: {reason}");
    target(&request.target).map_err(of("target"))?;
    match &request.movement {
        Movement::Push { sources, destination } => {
            some(sources).map_err(of("sources"))?;
            sources.iter().try_for_each(of_this_host).map_err(of("sources"))?;
            of_partner(destination).map_err(of("destination"))?;
        }
        Movement::Pull { sources, destination } => {
            some(sources).map_err(of("sources"))?;
            sources.iter().try_for_each(of_partner).map_err(of("sources"))?;
            of_this_host(destination).map_err(of("destination"))?;
        }
        Movement::Measure { bytes } => permitted::number(*bytes, 1..=MEASURE_BYTES_MAX).map_err(of("bytes"))?,
    }
    options(&request.options)
}

fn target(target: &Target) -> Result<(), String> {
    match target {
        Target::Profile(name) => permitted::name(name),
        Target::Address { host, port } => one_host(host).and_then(|()| permitted::number(*port, 1..=u16::MAX)),
        Target::FarEnd { hosts, port, .. } => {
            if hosts.is_empty() {
                return Err("it names no host".to_owned());
            }
            hosts.iter().try_for_each(|host| one_host(host))?;
            permitted::number(*port, 1..=u16::MAX)
        }
    }
}

/// A host; an IPv6 address may name its interface.
fn one_host(host: &str) -> Result<(), String> {
    let (address, interface) = host.split_once('%').unwrap_or((host, "eth0"));
    permitted::host(address)?;
    permitted::name(interface)
}

fn some(sources: &[TypedPath]) -> Result<(), String> {
    if sources.is_empty() { Err("there is none: name at least one path".to_owned()) } else { Ok(()) }
}

fn of_this_host(path: &TypedPath) -> Result<(), String> {
    permitted::path(path.as_path())?;
    if path.as_path().is_absolute() {
        return Ok(());
    }
    Err(format!("{path} is relative, and this node has no directory to which it could be: write an absolute path"))
}

fn of_partner(path: &TypedPath) -> Result<(), String> {
    if path.0.len() > NAME_BYTES_MAX {
        return Err(format!("a path of {} bytes is too long: write at most {NAME_BYTES_MAX}", path.0.len()));
    }
    if path.0.contains(&0) { Err(format!("{path} has a NUL byte, which no path can have")) } else { Ok(()) }
}

fn options(options: &Options) -> Result<(), String> {
    let bytes = options.chunk_bytes;
    if !bytes.is_power_of_two() || !(*CHUNK_BYTES.start()..=CHUNK_BYTES_DEFAULT).contains(&bytes) {
        let least = CHUNK_BYTES.start();
        return Err(format!("chunk_bytes: {bytes} is no power of two from {least} to {CHUNK_BYTES_DEFAULT}"));
    }
    permitted::number(options.flows, 0..=FLOWS_MAX).map_err(|reason| format!("flows: {reason}"))?;
    match options.rate_bits_per_second {
        Some(rate) => {
            permitted::number(rate, RATE_MIN..=u64::MAX).map_err(|reason| format!("rate_bits_per_second: {reason}"))?;
        }
        None if options.mode == Mode::Fixed => {
            return Err("mode: fixed sends at exactly rate_bits_per_second, which is missing".to_owned());
        }
        None => {}
    }
    if options.overwrite == Overwrite::Content && !options.checksum {
        return Err("overwrite: content compares hashes, so checksum must be true".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(movement: Movement) -> TransferRequest {
        let target = Target::Profile("lab".to_owned());
        TransferRequest { target, movement, options: Options::default(), retries: None }
    }

    fn paths(paths: &[&str]) -> Vec<TypedPath> {
        paths.iter().map(|path| TypedPath(path.as_bytes().to_vec())).collect()
    }

    fn push(sources: &[&str], destination: &str) -> TransferRequest {
        request(Movement::Push { sources: paths(sources), destination: paths(&[destination]).remove(0) })
    }

    fn pull(sources: &[&str], destination: &str) -> TransferRequest {
        request(Movement::Pull { sources: paths(sources), destination: paths(&[destination]).remove(0) })
    }

    #[test]
    fn what_the_command_sends_is_accepted() {
        for good in [
            push(&["/a"], ""),
            push(&["/a/../b", "/c/"], "in/"),
            push(&["/a"], "/x"),
            pull(&[""], "/a"),
            pull(&["x", "~/y*"], "/a/"),
            request(Movement::Measure { bytes: 1 }),
        ] {
            assert_eq!(check(&good), Ok(()), "{good:?}");
        }
        let address = |host: &str| Target::Address { host: host.to_owned(), port: 7272 };
        for host in ["dtn1.example.org", "192.0.2.1", "::1", "fe80::1%eth0"] {
            assert_eq!(check(&TransferRequest { target: address(host), ..push(&["/a"], "x") }), Ok(()), "{host}");
        }
    }

    /// Regression: `x` was stored in `/x`, and a transfer of nothing was recorded.
    #[test]
    fn what_means_nothing_is_refused_by_the_name_of_its_field() {
        let long = "/x".repeat(3_000);
        let options = |change: fn(&mut Options)| {
            let mut changed = push(&["/a"], "x");
            change(&mut changed.options);
            changed
        };
        let to = |target| TransferRequest { target, ..push(&["/a"], "x") };
        let address = |host: &str, port| to(Target::Address { host: host.to_owned(), port });
        let cases = [
            ("sources", push(&[], "x")),
            ("sources", push(&[""], "x")),
            ("sources", push(&["a"], "x")),
            ("sources", push(&["/a", "../b"], "x")),
            ("sources", push(&["/a\0"], "x")),
            ("sources", push(&[&long], "x")),
            ("destination", push(&["/a"], "x\0")),
            ("destination", push(&["/a"], &long)),
            ("sources", pull(&[], "/a")),
            ("sources", pull(&["x\0"], "/a")),
            ("destination", pull(&["x"], "")),
            ("destination", pull(&["x"], "a")),
            ("destination", pull(&["x"], "~/a")),
            ("destination", pull(&["x"], "/a\0")),
            ("bytes", request(Movement::Measure { bytes: 0 })),
            ("bytes", request(Movement::Measure { bytes: u64::MAX })),
            ("target", to(Target::Profile(String::new()))),
            ("target", to(Target::Profile("x".repeat(300)))),
            ("target", address("", 1)),
            ("target", address("a b", 1)),
            ("target", address("h", 0)),
            ("chunk_bytes", options(|options| options.chunk_bytes = 0)),
            ("chunk_bytes", options(|options| options.chunk_bytes = 1)),
            ("chunk_bytes", options(|options| options.chunk_bytes = u32::MAX)),
            ("flows", options(|options| options.flows = u16::MAX)),
            ("rate_bits_per_second", options(|options| options.rate_bits_per_second = Some(0))),
            ("mode", options(|options| options.mode = Mode::Fixed)),
            ("overwrite", options(|options| (options.overwrite, options.checksum) = (Overwrite::Content, false))),
        ];
        for (field, bad) in cases {
            let text = check(&bad).unwrap_err();
            assert!(text.starts_with(&format!("{field}: ")), "{text}");
        }
    }
}
