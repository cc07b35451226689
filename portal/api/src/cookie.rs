//! The cookie of a session.
//!
//! Over TLS its name has the prefix `__Host-`: browsers take such a cookie from no other host and
//! over no plain connection (RFC 6265bis, section 4.1.3).

use axum::http::{HeaderMap, HeaderValue, header};

/// The name over TLS.
pub const SECURE_NAME: &str = "__Host-culvert";
/// The name on loopback without TLS.
pub const PLAIN_NAME: &str = "culvert";

/// The secret in a request's cookie. One that comes twice is none: somebody has put it there.
#[must_use]
pub fn secret(headers: &HeaderMap, is_secure: bool) -> Option<String> {
    let wanted = name(is_secure);
    let texts = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut found = texts.flat_map(|text| text.split(';')).filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == wanted).then(|| value.to_owned())
    });
    let secret = found.next()?;
    found.next().is_none().then_some(secret)
}

/// The header that keeps a secret in a browser until it is closed, or ends the cookie.
#[must_use]
pub fn set(secret: Option<&str>, is_secure: bool) -> Option<HeaderValue> {
    let (name, secure) = (name(is_secure), if is_secure { "; Secure" } else { "" });
    let text = match secret {
        Some(secret) => format!("{name}={secret}; Path=/; HttpOnly; SameSite=Lax{secure}"),
        None => format!("{name}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0{secure}"),
    };
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

const fn name(is_secure: bool) -> &'static str {
    if is_secure { SECURE_NAME } else { PLAIN_NAME }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cookies: &[&'static str]) -> HeaderMap {
        cookies.iter().map(|text| (header::COOKIE, HeaderValue::from_static(text))).collect()
    }

    #[test]
    fn the_portals_own_cookie_is_found_once() {
        assert_eq!(secret(&headers(&["a=b; __Host-culvert=s; c=d"]), true).as_deref(), Some("s"));
        assert_eq!(secret(&headers(&["a=b", "culvert=s"]), false).as_deref(), Some("s"));
        assert_eq!(secret(&headers(&["culvert=s"]), true), None, "not the secure one");
        assert_eq!(secret(&headers(&["culvert=s; culvert=t"]), false), None);
        assert_eq!(secret(&headers(&[]), true), None);
    }

    #[test]
    fn it_is_for_this_host_and_no_script() {
        let text = set(Some("s"), true).unwrap();
        assert_eq!(text.to_str().unwrap(), "__Host-culvert=s; Path=/; HttpOnly; SameSite=Lax; Secure");
        assert!(set(None, false).unwrap().to_str().unwrap().contains("Max-Age=0"));
        assert!(set(Some("s\r\nX: y"), true).is_none());
    }
}
