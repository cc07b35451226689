//! Telling local paths from those on a partner, the way people know it from scp and rsync.
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
//! What could be meant in two ways, and what would silently end in another place than the one that
//! was meant, is refused with the spelling that is clear.

#[cfg(test)]
mod spellings;

use std::ffi::OsStr;
use std::net::Ipv6Addr;
use std::os::unix::ffi::OsStrExt as _;

use culvert_model::address::{DEFAULT_PORT, join_host_port};
use culvert_model::typed_path::TypedPath;

use crate::exit::CommandError;

/// A path as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this host.
    Local(TypedPath),
    /// On a partner that has a profile, or, where no profile has that name, on a host that ssh
    /// knows by it.
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
        /// Where.
        host: SshHost,
        /// The path there.
        path: TypedPath,
    },
}

/// A host as ssh takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshHost {
    /// `user@host`, or `host` for the user that ssh's configuration has.
    pub name: String,
    /// The port of its sshd, if one was typed.
    pub port: Option<u16>,
    /// Whether a profile could have been meant.
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

    /// As scp takes it, for a command to copy.
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

impl Place {
    /// The path, wherever it is.
    #[must_use]
    pub const fn path(&self) -> &TypedPath {
        match self {
            Self::Local(path) | Self::Profile { path, .. } | Self::Address { path, .. } | Self::Ssh { path, .. } => {
                path
            }
        }
    }

    /// The partner, without the path: places on one partner have the same.
    #[must_use]
    pub fn partner(&self) -> Option<String> {
        match self {
            Self::Local(_) => None,
            Self::Profile { name, .. } => Some(name.clone()),
            Self::Address { host, port, .. } => Some(format!("culvert://{}", join_host_port(host, *port))),
            Self::Ssh { host, .. } => Some(host.to_string()),
        }
    }

    /// The same place, by way of ssh if no profile has its name.
    #[must_use]
    pub fn or_over_ssh(self, has_profile: impl FnOnce(&str) -> bool) -> Self {
        match self {
            Self::Profile { name, path } if !has_profile(&name) => {
                Self::Ssh { host: SshHost { name, port: None, is_bare_name: true }, path }
            }
            place => place,
        }
    }
}

/// Reads a path. What has a colon before its first slash is on a partner; `./a:b` is local.
///
/// # Errors
/// [`CommandError`] if it looks like a partner's and is none.
pub fn parse(text: &OsStr) -> Result<Place, CommandError> {
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
    if let Some(place) = parse_bracketed(text)? {
        return Ok(place);
    }
    refuse_bare_v6(text)?;
    let colon = bytes.iter().position(|&byte| byte == b':');
    let slash = bytes.iter().position(|&byte| byte == b'/').unwrap_or(bytes.len());
    let Some(colon) = colon.filter(|&colon| colon < slash) else {
        return Ok(Place::Local(TypedPath(bytes.to_vec())));
    };
    let name =
        std::str::from_utf8(&bytes[..colon]).map_err(|_| CommandError::usage("a partner's name is not valid UTF-8"))?;
    check_host(name, text)?;
    let path = remote_path(name, &bytes[colon + 1..], text)?;
    if name.contains('@') {
        return Ok(Place::Ssh { host: SshHost::new(name), path });
    }
    Ok(Place::Profile { name: name.to_owned(), path })
}

/// An IPv6 address as it stands before a port.
fn in_brackets(host: &str) -> std::borrow::Cow<'_, str> {
    if host.contains(':') { format!("[{host}]").into() } else { host.into() }
}

/// What follows a scheme, whose letters may be of either case (RFC 3986, section 3.1).
fn after_scheme<'a>(text: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    text.split_at_checked(scheme.len()).filter(|(begin, _)| begin.eq_ignore_ascii_case(scheme)).map(|(_, rest)| rest)
}

/// Refuses what no host, user or profile is called.
fn check_host(name: &str, text: &OsStr) -> Result<(), CommandError> {
    let shown = text.display();
    let usage = |text: String| Err(CommandError::usage(text));
    if name.is_empty() {
        return usage(format!("'{shown}' names no partner before the colon: put ./ in front of a local name"));
    }
    // ssh would take it for an option.
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

/// A path at `host`. One that begins with a port is refused: scp's users write it so and mean the
/// port.
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

/// Refuses addresses of other programs' making.
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

/// Refuses an IPv6 address without brackets, whose end would be ambiguous.
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

/// Whether it is an IPv6 address, perhaps with the interface that a link-local address is of.
fn is_v6(text: &str) -> bool {
    text.split_once('%').map_or(text, |(address, _)| address).parse::<Ipv6Addr>().is_ok()
}

/// `[ADDRESS]:PATH` or `USER@[ADDRESS]:PATH`, as scp and rsync take an IPv6 address; it is one of
/// ssh's.
fn parse_bracketed(text: &OsStr) -> Result<Option<Place>, CommandError> {
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
    Ok(Some(Place::Ssh { host: SshHost::new(host), path }))
}

fn parse_culvert_url(rest: &[u8]) -> Result<Place, CommandError> {
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
    Ok(Place::Address { host: host.to_owned(), port: port.unwrap_or(DEFAULT_PORT), path })
}

/// `ssh://USER@HOST:PORT/PATH`, as git has it: the path is absolute, and one that begins with `/~`
/// is in a home directory.
fn parse_ssh_url(rest: &[u8]) -> Result<Place, CommandError> {
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
    Ok(Place::Ssh { host: SshHost { name, port, is_bare_name: false }, path: TypedPath(path.to_vec()) })
}

/// What stands before an address's path, and the path with its slash.
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
