//! Where browsers find the portal: in links, and in what they are told of its security.

use std::net::{IpAddr, SocketAddr};

use anyhow::bail;
use axum::http::Uri;

use crate::args::Serve;

/// Checks what was asked for, before anything listens: passwords do not cross a network in clear
/// because somebody forgot a flag.
///
/// # Errors
/// If it is not safe, or is no address that a browser could open.
pub fn check(serve: &Serve) -> anyhow::Result<()> {
    let (listen, has_tls) = (serve.listen, serve.tls_cert.is_some());
    let is_here = listen.ip().to_canonical().is_loopback();
    match &serve.public_url {
        Some(url) => {
            let is_clear = parse(url)?;
            if is_clear && has_tls {
                bail!("--public-url '{url}' has no TLS, but the portal has (--tls-cert): use https://");
            }
            if is_clear && !is_here {
                tracing::warn!(%listen, "passwords cross the network in clear, unless only this host reaches this");
            }
            Ok(())
        }
        None if !is_here && !has_tls => bail!(
            "--listen {listen} has no TLS: passwords would cross the network in clear. Give --tls-cert and --tls-key, \
             or name with --public-url the https:// address of the proxy in front of the portal"
        ),
        None if listen.ip().is_unspecified() => bail!(
            "--listen {listen} is no address that a browser can open: name with --public-url where browsers find the \
             portal (https://HOST[:PORT])"
        ),
        None => Ok(()),
    }
}

/// Where browsers find the portal that listens on an address.
#[must_use]
pub fn of(serve: &Serve, address: SocketAddr) -> String {
    match &serve.public_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None if serve.tls_cert.is_some() => format!("https://{address}"),
        None => format!("http://{address}"),
    }
}

/// Whether an address is without TLS, which it may only be on this host.
fn parse(url: &str) -> anyhow::Result<bool> {
    let bad = || anyhow::anyhow!("--public-url must be https://HOST[:PORT], not '{url}'");
    let parsed: Uri = url.trim_end_matches('/').parse().map_err(|_| bad())?;
    let host = parsed.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
    let is_bare = parsed.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        && parsed.path().trim_end_matches('/').is_empty()
        && parsed.query().is_none()
        && !url.contains('#');
    if !is_bare {
        return Err(bad());
    }
    let is_here = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    match parsed.scheme_str() {
        Some("https") => Ok(false),
        Some("http") if is_here => Ok(true),
        Some("http") => {
            bail!("--public-url '{url}' has no TLS: passwords would cross the network in clear. Use https://")
        }
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_does_without_tls() {
        for (url, expected) in [
            ("https://portal.example.org", Some(false)),
            ("https://portal.example.org:8443/", Some(false)),
            ("http://localhost:7280", Some(true)),
            ("http://127.0.0.1:7280", Some(true)),
            ("http://[::1]:7280", Some(true)),
            ("http://[2001:db8::1]:7280", None),
            ("http://portal.example.org", None),
            ("http://localhost.example.org", None),
            ("portal.example.org", None),
            ("https://portal.example.org/below", None),
            ("https://ada@portal.example.org", None),
            ("https://portal.example.org?x=1", None),
            ("https://portal.example.org#x", None),
            ("ftp://portal.example.org", None),
        ] {
            assert_eq!(parse(url).ok(), expected, "{url}");
        }
    }
}
