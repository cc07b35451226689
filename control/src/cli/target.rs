//! Telling local paths from those on a partner, the way people know it from scp and rsync.

use std::ffi::OsStr;
use std::net::Ipv6Addr;
use std::os::unix::ffi::OsStrExt as _;

use crate::cli::exit::CommandError;
use crate::settings::DEFAULT_PORT;
use crate::typed_path::TypedPath;

/// A path as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this host.
    Local(TypedPath),
    /// On a partner that has a profile.
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
        /// `user@host`, as ssh takes it.
        host: String,
        /// The path there.
        path: TypedPath,
    },
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
            Self::Address { host, port, .. } => Some(format!("culvert://{host}:{port}")),
            Self::Ssh { host, .. } => Some(host.clone()),
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
    if let Some(rest) = bytes.strip_prefix(b"culvert://") {
        return parse_url(rest);
    }
    if let Some(place) = parse_bracketed(text)? {
        return Ok(place);
    }
    let colon = bytes.iter().position(|&byte| byte == b':');
    let slash = bytes.iter().position(|&byte| byte == b'/').unwrap_or(bytes.len());
    let Some(colon) = colon.filter(|&colon| colon < slash) else {
        return Ok(Place::Local(TypedPath(bytes.to_vec())));
    };
    let name = std::str::from_utf8(&bytes[..colon]).map_err(|_| CommandError::usage("a partner's name is not text"))?;
    let path = TypedPath(bytes[colon + 1..].to_vec());
    match name {
        "" => Err(CommandError::usage(format!("'{}' names no partner before the colon", text.display()))),
        // ssh would take it for an option.
        name if name.starts_with('-') => Err(CommandError::usage(format!("'{name}' cannot be a partner's name"))),
        name if name.contains('@') => Ok(Place::Ssh { host: name.to_owned(), path }),
        name => Ok(Place::Profile { name: name.to_owned(), path }),
    }
}

/// `[ADDRESS]:PATH` or `USER@[ADDRESS]:PATH`, as scp and rsync take an IPv6 address; it is one of ssh's.
fn parse_bracketed(text: &OsStr) -> Result<Option<Place>, CommandError> {
    let bytes = text.as_bytes();
    let Some(open) = bytes.iter().position(|&byte| matches!(byte, b'[' | b'/' | b':')).filter(|&at| bytes[at] == b'[')
    else {
        return Ok(None);
    };
    let (user, rest) = bytes.split_at(open);
    let is_user = user.is_empty() || user.ends_with(b"@") && !user.starts_with(b"-");
    let Some(close) = rest.windows(2).position(|pair| pair == b"]:").filter(|_| is_user) else { return Ok(None) };
    let explain = || {
        let shown = text.display();
        CommandError::usage(format!(
            "'{shown}' has no IPv6 address in its brackets: write USER@[ADDRESS]:PATH, or ./ before a name of this host"
        ))
    };
    let address = std::str::from_utf8(&rest[1..close]).map_err(|_| explain())?;
    let user = std::str::from_utf8(user).map_err(|_| explain())?;
    // The interface that a link-local address is of.
    let plain = address.split_once('%').map_or(address, |(plain, _)| plain);
    if plain.parse::<Ipv6Addr>().is_err() {
        return Err(explain());
    }
    let path = TypedPath(rest[close + 2..].to_vec());
    Ok(Some(Place::Ssh { host: format!("{user}{address}"), path }))
}

fn parse_url(rest: &[u8]) -> Result<Place, CommandError> {
    let explain = || {
        let shown = String::from_utf8_lossy(rest);
        CommandError::usage(format!("'culvert://{shown}' is not a place: write culvert://HOST:PORT/PATH"))
    };
    let slash = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
    let authority = std::str::from_utf8(&rest[..slash]).map_err(|_| explain())?;
    let path = TypedPath(rest[slash..].to_vec());
    let is_bare_v6 = authority.ends_with(']');
    let (host, port) = match authority.rsplit_once(':').filter(|_| !is_bare_v6) {
        Some((host, port)) => (host, port.parse().map_err(|_| explain())?),
        None => (authority, DEFAULT_PORT),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return Err(explain());
    }
    Ok(Place::Address { host: host.to_owned(), port, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        parse(OsStr::new(text)).unwrap()
    }

    fn path(text: &str) -> TypedPath {
        TypedPath(text.as_bytes().to_vec())
    }

    #[test]
    fn places_are_told_apart() {
        assert_eq!(place("./a:b"), Place::Local(path("./a:b")));
        assert_eq!(place("/a:b"), Place::Local(path("/a:b")));
        assert_eq!(place("dir"), Place::Local(path("dir")));
        assert_eq!(place("lab:in/x"), Place::Profile { name: "lab".into(), path: path("in/x") });
        assert_eq!(place("u@h:/x:y"), Place::Ssh { host: "u@h".into(), path: path("/x:y") });
        assert_eq!(place("u@h:"), Place::Ssh { host: "u@h".into(), path: path("") });
        let ssh = |host: &str, name: &str| Place::Ssh { host: host.into(), path: path(name) };
        assert_eq!(place("u@[::1]:/x:y"), ssh("u@::1", "/x:y"));
        assert_eq!(place("[2001:db8::1]:x"), ssh("2001:db8::1", "x"));
        assert_eq!(place("u@[fe80::1%eth1]:"), ssh("u@fe80::1%eth1", ""));
        assert_eq!(place("run[1]"), Place::Local(path("run[1]")));
        assert_eq!(place("./[a]:b"), Place::Local(path("./[a]:b")));
        assert_eq!(place("lab:[::1]:x"), Place::Profile { name: "lab".into(), path: path("[::1]:x") });
        let address = |host: &str, port| Place::Address { host: host.into(), port, path: path("/x") };
        assert_eq!(place("culvert://h/x"), address("h", DEFAULT_PORT));
        assert_eq!(place("culvert://h:99/x"), address("h", 99));
        assert_eq!(place("culvert://[::1]:99/x"), address("::1", 99));
        assert_eq!(place("culvert://[::1]/x"), address("::1", DEFAULT_PORT));
    }

    #[test]
    fn what_is_no_place_is_explained() {
        for text in
            ["", ":x", "culvert:///x", "culvert://h:port/x", "-oProxyCommand=x:y", "-u@[::1]:x", "u@[h]:x", "[a]:b"]
        {
            assert!(parse(OsStr::new(text)).is_err(), "{text}");
        }
    }
}
