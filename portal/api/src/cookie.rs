//! The cookies: of a session, and of a login that is under way.
//!
//! Over TLS their names have the prefix `__Host-`: browsers take such a cookie from no other host
//! and over no plain connection (RFC 6265bis, section 4.1.3). They are sent when a link of another
//! site leads here, so that somebody who comes back from their identity provider is known.

use axum::http::{HeaderMap, HeaderValue, header};

/// The session's name over TLS.
pub const SECURE_NAME: &str = "__Host-culvert";
/// How long a login may be under way.
const LOGIN_SECONDS: u32 = 600;

/// Which cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// Of a session, until the browser is closed.
    Session,
    /// Of a login that is under way, for ten minutes.
    Login,
}

impl Name {
    /// What it is called.
    #[must_use]
    pub const fn text(self, is_secure: bool) -> &'static str {
        match (self, is_secure) {
            (Self::Session, true) => SECURE_NAME,
            (Self::Session, false) => "culvert",
            (Self::Login, true) => "__Host-culvert-login",
            (Self::Login, false) => "culvert-login",
        }
    }
}

/// The secret in a request's cookie. One that comes twice is none: somebody has put it there.
#[must_use]
pub fn secret(headers: &HeaderMap, name: Name, is_secure: bool) -> Option<String> {
    let wanted = name.text(is_secure);
    let texts = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut found = texts.flat_map(|text| text.split(';')).filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == wanted).then(|| value.to_owned())
    });
    let secret = found.next()?;
    found.next().is_none().then_some(secret)
}

/// The header that keeps a secret in a browser, or ends the cookie.
#[must_use]
pub fn set(name: Name, secret: Option<&str>, is_secure: bool) -> Option<HeaderValue> {
    let lasts = match (name, secret) {
        (_, None) => "; Max-Age=0".to_owned(),
        (Name::Session, Some(_)) => String::new(),
        (Name::Login, Some(_)) => format!("; Max-Age={LOGIN_SECONDS}"),
    };
    let (name, secret) = (name.text(is_secure), secret.unwrap_or_default());
    let secure = if is_secure { "; Secure" } else { "" };
    let text = format!("{name}={secret}; Path=/; HttpOnly; SameSite=Lax{lasts}{secure}");
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(cookies: &[&'static str], is_secure: bool) -> Option<String> {
        let headers = cookies.iter().map(|text| (header::COOKIE, HeaderValue::from_static(text))).collect();
        secret(&headers, Name::Session, is_secure)
    }

    #[test]
    fn the_portals_own_cookie_is_found_once() {
        assert_eq!(found(&["a=b; __Host-culvert=s; c=d"], true).as_deref(), Some("s"));
        assert_eq!(found(&["a=b", "culvert=s"], false).as_deref(), Some("s"));
        assert_eq!(found(&["culvert=s"], true), None, "not the secure one");
        assert_eq!(found(&["culvert=s; culvert=t"], false), None);
        assert_eq!(found(&["culvert-login=s"], false), None);
        assert_eq!(found(&[], true), None);
    }

    #[test]
    fn it_is_for_this_host_and_no_script() {
        let text = |name, secret| set(name, secret, true).unwrap().to_str().unwrap().to_owned();
        assert_eq!(text(Name::Session, Some("s")), "__Host-culvert=s; Path=/; HttpOnly; SameSite=Lax; Secure");
        assert_eq!(
            text(Name::Login, Some("s")),
            "__Host-culvert-login=s; Path=/; HttpOnly; SameSite=Lax; Max-Age=600; Secure"
        );
        assert!(text(Name::Login, None).contains("Max-Age=0"));
        assert!(set(Name::Session, Some("s\r\nX: y"), true).is_none());
    }
}
