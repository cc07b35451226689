//! The address of a portal: `https://HOST[:PORT]` in one spelling, so that it names one login.
//!
//! Plain HTTP is accepted for this host alone: whatever else is on the way would read the token.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use hyper::Uri;
use serde::{Deserialize, Serialize};

use crate::exit::CommandError;

/// The longest address that is looked at.
const BYTES_MAX: usize = 512;

/// A portal's address as somebody types it. The command line's own parser would repeat it in an
/// error, and a link may have a secret in it.
///
/// # Errors
/// [`CommandError`] with the right address, if there is one.
pub fn typed(text: &str) -> Result<PortalUrl, CommandError> {
    text.parse().map_err(|error| CommandError::usage(format!("the portal's address cannot be used: {error}")))
}

/// A portal's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortalUrl {
    is_tls: bool,
    /// In lower case; an IPv6 address in brackets.
    host: String,
    /// Unless it is the scheme's.
    port: Option<u16>,
}

/// Why a text is no address of a portal. No message repeats the text: links and logins in it are
/// secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is no URL of the web.
    #[error("this is not a portal's address: write for instance https://portal.example.org")]
    NoAddress,
    /// It has a user's name, and perhaps a password.
    #[error("a portal's address has no login in it: write {0}, and log in as it asks")]
    Login(PortalUrl),
    /// It leads to a page.
    #[error("this is the address of a page: write the portal's, {0}")]
    Page(PortalUrl),
    /// It is plain HTTP, and not to this host.
    #[error("over http everybody on the way could read the token: write {0}")]
    Plain(PortalUrl),
}

impl PortalUrl {
    /// The URL of something at the portal.
    #[must_use]
    pub fn with(&self, path: &str) -> String {
        format!("{self}{path}")
    }

    /// Whether what is sent there can be read on the way.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        !self.is_tls
    }

    /// The same place over plain HTTP, if that stays on this host.
    #[must_use]
    pub fn plain_here(&self) -> Option<Self> {
        let plain = Self { is_tls: false, port: self.port.or(Some(443)), ..self.clone() };
        is_this_host(&self.host).then_some(plain)
    }

    /// The portal that a page belongs to.
    #[must_use]
    pub fn of_page(url: &str) -> Option<Self> {
        match url.parse() {
            Ok(found) | Err(AddressError::Page(found) | AddressError::Login(found)) => Some(found),
            Err(AddressError::NoAddress | AddressError::Plain(_)) => None,
        }
    }
}

impl FromStr for PortalUrl {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        if text.len() > BYTES_MAX {
            return Err(AddressError::NoAddress);
        }
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let uri: Uri = with_scheme.parse().map_err(|_| AddressError::NoAddress)?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(AddressError::NoAddress),
        };
        let authority = uri.authority().ok_or(AddressError::NoAddress)?.as_str();
        let (login, place) =
            authority.rsplit_once('@').map_or((None, authority), |(login, place)| (Some(login), place));
        let (host, port) = host_and_port(place).ok_or(AddressError::NoAddress)?;
        let usual = if is_tls { 443 } else { 80 };
        let url = Self { is_tls, host, port: port.filter(|port| *port != usual) };
        if !is_tls && !is_this_host(&url.host) {
            return Err(AddressError::Plain(Self { is_tls: true, ..url }));
        }
        if login.is_some() {
            return Err(AddressError::Login(url));
        }
        let is_whole = uri.path_and_query().is_none_or(|path| path.as_str() == "/") && !with_scheme.contains('#');
        if is_whole { Ok(url) } else { Err(AddressError::Page(url)) }
    }
}

impl TryFrom<String> for PortalUrl {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<PortalUrl> for String {
    fn from(url: PortalUrl) -> Self {
        url.to_string()
    }
}

impl fmt::Display for PortalUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(formatter, "{scheme}://{}", self.host)?;
        self.port.map_or(Ok(()), |port| write!(formatter, ":{port}"))
    }
}

/// Separates a host, in lower case, from a port. Names have the characters that names have.
fn host_and_port(place: &str) -> Option<(String, Option<u16>)> {
    let end = if place.starts_with('[') { place.find(']')? + 1 } else { place.find(':').unwrap_or(place.len()) };
    let (host, rest) = place.split_at_checked(end)?;
    let port = match rest.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
        Some(_) => return None,
        None => rest.is_empty().then_some(None)?,
    };
    let is_name = |host: &str| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    let is_address = address_of(host).is_some_and(|address| address.is_ipv6()) && host.starts_with('[');
    (is_address || is_name(host)).then(|| (host.to_ascii_lowercase(), port.filter(|port| *port != 0)))
}

fn address_of(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

/// Whether nothing that is sent there leaves this host (RFC 6761, section 6.3).
fn is_this_host(host: &str) -> bool {
    let name = host.trim_end_matches('.');
    let is_loopback = address_of(host).is_some_and(|address| address.to_canonical().is_loopback());
    is_loopback || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<String, AddressError> {
        text.parse::<PortalUrl>().map(|url| url.to_string())
    }

    #[test]
    fn one_portal_has_one_spelling() {
        for (typed, url) in [
            ("portal.example.org", "https://portal.example.org"),
            ("HTTPS://Portal.Example.ORG/", "https://portal.example.org"),
            ("https://portal.example.org:443", "https://portal.example.org"),
            (" portal.example.org:8443/ ", "https://portal.example.org:8443"),
            ("http://127.0.0.1:7280", "http://127.0.0.1:7280"),
            ("http://localhost:80/", "http://localhost"),
            ("localhost:7280", "https://localhost:7280"),
            ("http://[::1]:7280", "http://[::1]:7280"),
            ("http://[::ffff:127.0.0.1]", "http://[::ffff:127.0.0.1]"),
            ("http://portal.localhost:1", "http://portal.localhost:1"),
            ("https://[2001:DB8::1]", "https://[2001:db8::1]"),
        ] {
            assert_eq!(parsed(typed).as_deref(), Ok(url), "{typed}");
        }
    }

    #[test]
    fn what_is_none_is_refused_with_the_right_one() {
        for none in [
            "",
            " ",
            "https://",
            "ftp://a",
            "a b",
            "https://a:x",
            "https://a:70000",
            "[::1",
            "https://a%41",
            "::1",
            "ä",
        ] {
            assert_eq!(parsed(none), Err(AddressError::NoAddress), "{none}");
        }
        for (typed, told) in [
            ("http://portal.example.org", "write https://portal.example.org"),
            ("http://portal.example.org:80/setup#culvert_lnk_x", "write https://portal.example.org"),
            ("http://portal.example.org:7280", "write https://portal.example.org:7280"),
            ("http://192.0.2.1", "write https://192.0.2.1"),
            ("http://localhost.example.org", "write https://localhost.example.org"),
            ("https://a.example/setup#culvert_lnk_secret", "the portal's, https://a.example"),
            ("https://a.example#culvert_lnk_secret", "the portal's, https://a.example"),
            ("https://a.example/?culvert_lnk_secret", "the portal's, https://a.example"),
            ("https://ada:secret@a.example", "write https://a.example"),
        ] {
            let error = parsed(typed).unwrap_err().to_string();
            assert!(error.contains(told) && !error.contains("secret"), "{typed}: {error}");
        }
        assert!("a".repeat(600).parse::<PortalUrl>().is_err());
    }

    proptest! {
        #[test]
        fn what_is_accepted_stays_as_it_is_and_is_safe(text in "(https?://)?[a-zA-Z0-9.:@/\\[\\]#?_-]{0,40}") {
            if let Ok(url) = text.parse::<PortalUrl>() {
                prop_assert_eq!(url.to_string().parse::<PortalUrl>(), Ok(url.clone()));
                prop_assert!(!url.is_plain() || is_this_host(&url.host));
                prop_assert_eq!(PortalUrl::of_page(&url.with("/a?b")), Some(url));
            }
        }

        #[test]
        fn no_text_is_too_much(text in "\\PC{0,80}") {
            let _ = text.parse::<PortalUrl>();
        }
    }
}
