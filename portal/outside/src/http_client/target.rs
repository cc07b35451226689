//! Where a request goes, as its URL says, checked before anything is looked up.

use std::net::IpAddr;

use culvert_portal_seams::http::{OutError, Reach};
use url::{Host, Url};

/// The longest URL, in bytes. Servers take no longer ones either.
const URL_BYTES_MAX: usize = 8_192;

/// A URL that may be asked, if its host's addresses may.
#[derive(Debug)]
pub(super) struct Target {
    /// The URL, in its one normal form.
    pub(super) url: Url,
    /// The host as messages name it.
    pub(super) host: String,
    /// The address, if the URL has one instead of a name, in whichever spelling.
    pub(super) literal: Option<IpAddr>,
}

impl Target {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`OutError::BadUrl`].
    pub(super) fn read(text: &str, reach: Reach) -> Result<Self, OutError> {
        // A parser would drop or replace these, and show another URL than it asks.
        if text.contains(|letter: char| letter.is_control() || letter.is_whitespace() || letter == '\\') {
            let shown = text.escape_debug().to_string();
            return Err(bad(&shown, "it contains blanks, control characters or backslashes"));
        }
        if text.len() > URL_BYTES_MAX {
            let start: String = text.chars().take(64).collect();
            return Err(bad(&format!("{start}…"), &format!("it is longer than {URL_BYTES_MAX} bytes")));
        }
        let url = Url::parse(text).map_err(|error| bad(text, &error.to_string()))?;
        check(&url, reach).map_err(|reason| bad(text, reason))?;
        let (host, literal) = match url.host() {
            Some(Host::Domain(name)) => (name.to_owned(), None),
            Some(Host::Ipv4(address)) => (address.to_string(), Some(address.into())),
            Some(Host::Ipv6(address)) => (address.to_string(), Some(address.into())),
            None => return Err(bad(text, "it names no host")),
        };
        Ok(Self { url, host, literal })
    }
}

fn check(url: &Url, reach: Reach) -> Result<(), &'static str> {
    match (url.scheme(), reach) {
        ("https", _) | ("http", Reach::Inside) => {}
        ("http", Reach::Public) => return Err("it must begin with https://"),
        _ => return Err("only https:// can be asked"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it must not contain a user or password");
    }
    if url.fragment().is_some() {
        return Err("it must not contain a fragment ('#')");
    }
    Ok(())
}

fn bad(url: &str, reason: &str) -> OutError {
    OutError::BadUrl { url: without_credentials(url), reason: reason.to_owned() }
}

/// A URL as messages may show it. What cannot be read as one may have a password anywhere before
/// an `@`.
fn without_credentials(url: &str) -> String {
    url.rfind('@').map_or_else(|| url.to_owned(), |at| format!("…{}", &url[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::is_public;

    #[test]
    fn urls_that_may_not_be_asked_are_told_why() {
        for (url, reason) in [
            ("", "relative URL without a base"),
            ("example.org", "relative URL without a base"),
            ("https://", "empty host"),
            ("https://exa mple.org", "blanks"),
            ("https://example.org/\n", "control characters"),
            ("https:\\\\example.org", "backslashes"),
            ("https://[::1", "invalid IPv6 address"),
            ("https://[fe80::1%25eth0]/", "invalid IPv6 address"),
            ("https://1.2.3.4.5/", "invalid IPv4 address"),
            ("https://256.1.1.1/", "invalid IPv4 address"),
            ("https://example.org:99999/", "invalid port number"),
            ("http://example.org", "https://"),
            ("ftp://example.org", "only https://"),
            ("file:///etc/passwd", "only https://"),
            ("data:text/plain,x", "only https://"),
            ("gopher://example.org", "only https://"),
            ("https://user@example.org", "user or password"),
            ("https://:secret@example.org", "user or password"),
            ("https://example.org/#top", "fragment"),
            ("https://example.org/#", "fragment"),
        ] {
            match Target::read(url, Reach::Public) {
                Err(OutError::BadUrl { reason: told, .. }) => assert!(told.contains(reason), "{url}: {told}"),
                other => panic!("{url}: {other:?}"),
            }
        }
        let long = format!("https://example.org/{}", "x".repeat(URL_BYTES_MAX));
        assert!(Target::read(&long, Reach::Public).unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn a_message_does_not_repeat_a_password() {
        for url in [
            "https://user:hunter2@example.org/x",
            "https://user:hunter2@exa mple.org/x",
            "https://user:hunter2@[example.org/x",
            "//user:hunter2@example.org/x",
            "user:hunter2@example.org/x",
            "ssh://user:hunter2@example.org",
            "https:/user:hunter2@example.org",
            "https://user:hunter2/x@example.org",
            "https://user:hunter2#x@example.org",
            "https://user:hunter2@example.org/#x",
        ] {
            let error = Target::read(url, Reach::Public).unwrap_err().to_string();
            assert!(error.contains("…@") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn http_is_for_targets_inside_only() {
        let inside = Target::read("http://idp.example/keys", Reach::Inside).unwrap();
        assert_eq!((inside.host.as_str(), inside.literal), ("idp.example", None));
        Target::read("ftp://idp.example/keys", Reach::Inside).unwrap_err();
    }

    #[test]
    fn addresses_are_recognized_in_every_spelling() {
        for (url, address) in [
            ("https://127.0.0.1/", "127.0.0.1"),
            ("https://127.1/", "127.0.0.1"),
            ("https://2130706433/", "127.0.0.1"),
            ("https://0x7f000001/", "127.0.0.1"),
            ("https://0x7f.0.0.1/", "127.0.0.1"),
            ("https://0177.0.0.1/", "127.0.0.1"),
            ("https://017700000001/", "127.0.0.1"),
            ("https://127.0.0.1./", "127.0.0.1"),
            ("https://%31%32%37.0.0.1/", "127.0.0.1"),
            ("https://１２７.０.０.１/", "127.0.0.1"),
            ("https://127。0。0。1/", "127.0.0.1"),
            ("https://①②⑦.0.0.1/", "127.0.0.1"),
            ("https://0/", "0.0.0.0"),
            ("https://0xa9fea9fe/", "169.254.169.254"),
            ("https://[::1]/", "::1"),
            ("https://[0:0:0:0:0:0:0:1]/", "::1"),
            ("https://[::ffff:127.0.0.1]/", "::ffff:127.0.0.1"),
            ("https://[::ffff:7f00:1]/", "::ffff:127.0.0.1"),
            ("https://[64:ff9b::a9fe:a9fe]/", "64:ff9b::169.254.169.254"),
        ] {
            let target = Target::read(url, Reach::Public).unwrap();
            assert_eq!(target.literal, Some(address.parse().unwrap()), "{url}");
            assert!(target.literal.is_some_and(|address| !is_public(address)), "{url}");
        }
    }
}
