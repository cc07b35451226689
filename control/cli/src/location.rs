//! Parses locations: distinguishes local paths from those on a partner, as scp and rsync do.
//!
//! ```text
//!  ./a:b  /a:b  a          a path on this host
//!  NAME:PATH               of the profile NAME; without one of that name, on the host NAME over ssh
//!  USER@HOST:PATH          over ssh
//!  USER@[ADDRESS]:PATH     over ssh, by an IPv6 address
//!  ssh://USER@HOST:PORT/PATH        over ssh, with sshd on another port; /~/PATH begins in the home directory
//!  culvert://HOST:PORT/PATH         of the node there; without a port on 7272
//! ```
//!
//! Ambiguous spellings, and those that would silently lead elsewhere than intended, are refused
//! with the unambiguous spelling.

#[cfg(test)]
mod spellings;

use std::ffi::OsStr;
use std::net::Ipv6Addr;
use std::os::unix::ffi::OsStrExt as _;

use culvert_model::address::{DEFAULT_PORT, join_host_port};
use culvert_model::typed_path::TypedPath;

use crate::exit::CommandError;

/// A path on this host or on a partner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// On this host.
    Local(TypedPath),
    /// On a partner with a profile or, if no profile has that name, on a host that ssh knows by it.
    Profile {
        /// The profile's name.
        name: String,
        /// The path there.
        path: TypedPath,
    },
    /// On a node at an address.
    Address {
        /// The host.
        host: String,
        /// The TCP port.
        port: u16,
        /// The path there.
        path: TypedPath,
    },
    /// On a host that is reached over ssh.
    Ssh {
        /// The host.
        host: SshHost,
        /// The path there.
        path: TypedPath,
    },
}

/// A host in ssh's notation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshHost {
    /// `user@host`, or `host` with the user of ssh's configuration.
    pub name: String,
    /// The port of its sshd, if one is given.
    pub port: Option<u16>,
    /// Whether the name could have been that of a profile.
    pub is_bare_name: bool,
}

impl SshHost {
    fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), port: None, is_bare_name: false }
    }

    /// The host without its user.
    #[must_use]
    pub fn host(&self) -> &str {
        self.name.rsplit_once('@').map_or(self.name.as_str(), |(_, host)| host)
    }

    /// The arguments of the scp command that copies this program there.
    #[must_use]
    pub fn for_scp(&self) -> String {
        let port = self.port.map(|port| format!("-P {port} ")).unwrap_or_default();
        let user = self.name.strip_suffix(self.host()).unwrap_or_default();
        format!("{port}\"$(command -v culvert)\" {user}{}:", in_brackets(self.host()))
    }
}

impl std::fmt::Display for SshHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => write!(f, "ssh://{}:{port}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl Location {
    /// The path on its host.
    #[must_use]
    pub const fn path(&self) -> &TypedPath {
        match self {
            Self::Local(path) | Self::Profile { path, .. } | Self::Address { path, .. } | Self::Ssh { path, .. } => {
                path
            }
        }
    }

    /// The partner without the path; none for local paths.
    #[must_use]
    pub fn partner(&self) -> Option<String> {
        match self {
            Self::Local(_) => None,
            Self::Profile { name, .. } => Some(name.clone()),
            Self::Address { host, port, .. } => Some(format!("culvert://{}", join_host_port(host, *port))),
            Self::Ssh { host, .. } => Some(host.to_string()),
        }
    }

    /// The same location, but over ssh if no profile has its name.
    #[must_use]
    pub fn or_over_ssh(self, has_profile: impl FnOnce(&str) -> bool) -> Self {
        match self {
            Self::Profile { name, path } if !has_profile(&name) => {
                Self::Ssh { host: SshHost { name, port: None, is_bare_name: true }, path }
            }
            location => location,
        }
    }
}

/// Parses a location. A path with a colon before its first slash is on a partner; `./a:b` is local.
///
/// # Errors
/// [`CommandError`] if it is ambiguous or invalid.
pub fn parse(text: &OsStr) -> Result<Location, CommandError> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err(CommandError::usage("a path is empty"));
    }
    if let Some(rest) = after_scheme(bytes, b"culvert://") {
        return parse_culvert_url(rest);
    }
    if let Some(rest) = after_scheme(bytes, b"ssh://") {
        return parse_ssh_url(rest);
    }
    refuse_other_urls(text)?;
    if let Some(location) = parse_bracketed(text)? {
        return Ok(location);
    }
    refuse_bare_v6(text)?;
    let colon = bytes.iter().position(|&byte| byte == b':');
    let slash = bytes.iter().position(|&byte| byte == b'/').unwrap_or(bytes.len());
    let Some(colon) = colon.filter(|&colon| colon < slash) else {
        return Ok(Location::Local(TypedPath(bytes.to_vec())));
    };
    let name =
        std::str::from_utf8(&bytes[..colon]).map_err(|_| CommandError::usage("a partner's name is not valid UTF-8"))?;
    check_host(name, text)?;
    let path = remote_path(name, &bytes[colon + 1..], text)?;
    if name.contains('@') {
        return Ok(Location::Ssh { host: SshHost::new(name), path });
    }
    Ok(Location::Profile { name: name.to_owned(), path })
}

/// A host as it is written before a port: an IPv6 address in brackets.
fn in_brackets(host: &str) -> std::borrow::Cow<'_, str> {
    if host.contains(':') { format!("[{host}]").into() } else { host.into() }
}

/// The rest after a scheme, which is case-insensitive (RFC 3986, section 3.1).
fn after_scheme<'a>(text: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    text.split_at_checked(scheme.len()).filter(|(begin, _)| begin.eq_ignore_ascii_case(scheme)).map(|(_, rest)| rest)
}

/// Refuses names that no host, user or profile can have.
fn check_host(name: &str, text: &OsStr) -> Result<(), CommandError> {
    let shown = text.display();
    let usage = |text: String| Err(CommandError::usage(text));
    if name.is_empty() {
        return usage(format!("'{shown}' names no partner before the colon: put ./ in front of a local name"));
    }
    // ssh would interpret it as an option.
    if name.starts_with('-') {
        return usage(format!("'{name}' cannot be a partner's name"));
    }
    if name.chars().any(|character| character.is_whitespace() || character.is_control()) {
        return usage(format!(
            "'{shown}' has a space before its colon, which host names cannot have: put ./ in front of a local name"
        ));
    }
    let (user, host) = name.rsplit_once('@').unwrap_or(("user", name));
    if user.is_empty() || host.is_empty() {
        return usage(format!("'{shown}' lacks a user or a host: write USER@HOST:PATH"));
    }
    Ok(())
}

/// A path on `host`. A path that starts with a number and a colon is refused, because users of scp
/// mean a port.
fn remote_path(host: &str, path: &[u8], text: &OsStr) -> Result<TypedPath, CommandError> {
    if let Some(module) = path.strip_prefix(b":") {
        return Err(CommandError::usage(format!(
            "'{}' is rsync's syntax for a module of its daemon, which Culvert does not have: write \
             {host}:PATH, or {host}:./:{} for a name that starts with a colon",
            text.display(),
            String::from_utf8_lossy(module)
        )));
    }
    let digits = path.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(path.len());
    let port = std::str::from_utf8(&path[..digits]).ok().and_then(|digits| digits.parse::<u16>().ok());
    let Some(port) = port.filter(|&port| port > 0 && path.get(digits) == Some(&b':')) else {
        return Ok(TypedPath(path.to_vec()));
    };
    let rest = String::from_utf8_lossy(&path[digits + 1..]).into_owned();
    let path_of_url = match rest.as_str() {
        absolute if absolute.starts_with('/') => absolute.to_owned(),
        home if home.starts_with('~') => format!("/{home}"),
        relative => format!("/~/{relative}"),
    };
    let node = if host.contains('@') || !rest.starts_with('/') {
        String::new()
    } else {
        format!(", or culvert://{host}:{port}{path_of_url} for a node that listens on that port")
    };
    Err(CommandError::usage(format!(
        "'{}' has {port} at the start of its path: for sshd on that port write ssh://{host}:{port}{path_of_url} or \
         --ssh 'ssh -p {port}'{node}; for a path that starts with it write {host}:./{port}:{rest}",
        text.display()
    )))
}

/// Refuses URLs of other programs.
fn refuse_other_urls(text: &OsStr) -> Result<(), CommandError> {
    const OF_SSH: [&str; 3] = ["scp", "sftp", "rsync+ssh"];
    const OTHERS: [&str; 12] =
        ["ftp", "ftps", "globus", "gs", "gsiftp", "http", "https", "nfs", "rsync", "s3", "smb", "webdav"];
    let shown = text.to_string_lossy();
    let Some((scheme, rest)) = shown.split_once("://") else { return Ok(()) };
    let scheme = scheme.to_ascii_lowercase();
    let scheme = scheme.as_str();
    if OF_SSH.contains(&scheme) {
        return Err(CommandError::usage(format!(
            "'{shown}' is not a location that culvert supports: write ssh://{rest}"
        )));
    }
    if scheme == "file" {
        return Err(CommandError::usage(format!("'{shown}' is not a path: write the path alone")));
    }
    if OTHERS.contains(&scheme) {
        return Err(CommandError::usage(format!(
            "culvert does not speak {scheme}: '{shown}' must be NAME:PATH, USER@HOST:PATH, ssh://USER@HOST:PORT/PATH or \
             culvert://HOST:PORT/PATH"
        )));
    }
    Ok(())
}

/// Refuses an IPv6 address without brackets, because it is unclear where the address ends.
fn refuse_bare_v6(text: &OsStr) -> Result<(), CommandError> {
    let shown = text.to_string_lossy();
    let head = shown.split('/').next().unwrap_or_default();
    let (user, address) = head.rsplit_once('@').map_or(("", head), |(user, _)| head.split_at(user.len() + 1));
    let rest = &shown[head.len()..];
    let (address, path) = match address.rsplit_once(':') {
        Some((before, after)) if is_v6(before) => (before, format!("{after}{rest}")),
        _ if is_v6(address) => (address, if rest.is_empty() { "PATH".to_owned() } else { rest.to_owned() }),
        _ => return Ok(()),
    };
    Err(CommandError::usage(format!(
        "'{shown}' has an IPv6 address without brackets: write {user}[{address}]:{path}, or put ./ \
         in front of a local name"
    )))
}

/// Whether it is an IPv6 address, possibly with the zone of a link-local address.
fn is_v6(text: &str) -> bool {
    text.split_once('%').map_or(text, |(address, _)| address).parse::<Ipv6Addr>().is_ok()
}

/// Parses `[ADDRESS]:PATH` or `USER@[ADDRESS]:PATH`, which scp and rsync accept too.
fn parse_bracketed(text: &OsStr) -> Result<Option<Location>, CommandError> {
    let bytes = text.as_bytes();
    let Some(open) = bytes.iter().position(|&byte| matches!(byte, b'[' | b'/' | b':')).filter(|&at| bytes[at] == b'[')
    else {
        return Ok(None);
    };
    let (user, rest) = bytes.split_at(open);
    let is_user = user.is_empty() || user.ends_with(b"@") && !user.starts_with(b"-");
    let shown = text.display();
    if is_user && rest.ends_with(b"]") && std::str::from_utf8(&rest[1..rest.len() - 1]).is_ok_and(is_v6) {
        return Err(CommandError::usage(format!(
            "'{shown}' has no path: write {shown}:PATH, or {shown}: for the home directory there"
        )));
    }
    let Some(close) = rest.windows(2).position(|pair| pair == b"]:").filter(|_| is_user) else { return Ok(None) };
    let explain = || {
        CommandError::usage(format!(
            "'{shown}' has no IPv6 address in its brackets: write USER@[ADDRESS]:PATH, or put ./ in \
             front of a local name"
        ))
    };
    let address = std::str::from_utf8(&rest[1..close]).ok().filter(|address| is_v6(address)).ok_or_else(explain)?;
    let user = std::str::from_utf8(user).map_err(|_| explain())?;
    let host = format!("{user}{address}");
    check_host(&host, text)?;
    let path = remote_path(&format!("{user}[{address}]"), &rest[close + 2..], text)?;
    Ok(Some(Location::Ssh { host: SshHost::new(host), path }))
}

fn parse_culvert_url(rest: &[u8]) -> Result<Location, CommandError> {
    const SCHEME: &str = "culvert";
    let (authority, path) = split_url(rest).ok_or_else(|| not_a_url(SCHEME, rest))?;
    if authority.contains('@') {
        return Err(CommandError::usage(format!(
            "'culvert://{}' names a user, but a node has no users: write culvert://HOST:PORT/PATH, or \
             ssh://USER@HOST/PATH to log in over ssh",
            String::from_utf8_lossy(rest)
        )));
    }
    let (host, port) = host_and_port(authority).ok_or_else(|| not_a_url(SCHEME, rest))?;
    let path = TypedPath(path.to_vec());
    Ok(Location::Address { host: host.to_owned(), port: port.unwrap_or(DEFAULT_PORT), path })
}

/// Parses `ssh://USER@HOST:PORT/PATH` as git does: the path is absolute, or starts with `/~` for a
/// home directory.
fn parse_ssh_url(rest: &[u8]) -> Result<Location, CommandError> {
    const SCHEME: &str = "ssh";
    let explain = || not_a_url(SCHEME, rest);
    let (authority, path) = split_url(rest).ok_or_else(explain)?;
    let (user, host_and_its_port) =
        authority.rsplit_once('@').map_or((None, authority), |(user, rest)| (Some(user), rest));
    if user.is_some_and(|user| user.contains(':')) {
        return Err(CommandError::usage(
            "an address has a password in it, which other users of this host can see while the \
             command runs: leave it out, and ssh will ask for it",
        ));
    }
    let (host, port) = host_and_port(host_and_its_port).ok_or_else(explain)?;
    let name = user.map_or_else(|| host.to_owned(), |user| format!("{user}@{host}"));
    check_host(&name, OsStr::from_bytes(rest)).map_err(|_| explain())?;
    let path = if path.starts_with(b"/~") { &path[1..] } else { path };
    Ok(Location::Ssh { host: SshHost { name, port, is_bare_name: false }, path: TypedPath(path.to_vec()) })
}

/// The authority of a URL, and its path including the slash.
fn split_url(rest: &[u8]) -> Option<(&str, &[u8])> {
    let slash = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
    Some((std::str::from_utf8(&rest[..slash]).ok()?, &rest[slash..]))
}

/// `HOST`, `HOST:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`.
fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':').filter(|_| !authority.ends_with(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.parse().ok().filter(|&port| port > 0)?)),
        None => (authority, None),
    };
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => Some(address).filter(|address| is_v6(address)),
        None => Some(host).filter(|host| !host.contains([':', '[', ']'])),
    }?;
    let is_name = !host.is_empty() && !host.chars().any(|c| c.is_whitespace() || c.is_control());
    is_name.then_some((host, port))
}

fn not_a_url(scheme: &str, rest: &[u8]) -> CommandError {
    let shown = String::from_utf8_lossy(rest);
    let form = if scheme == "ssh" { "ssh://USER@HOST:PORT/PATH" } else { "culvert://HOST:PORT/PATH" };
    CommandError::usage(format!(
        "'{scheme}://{shown}' is not a valid location: write {form}, with an IPv6 address in brackets"
    ))
}
