//! The mail server as its URL names it, and the login to it.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;

use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, TlsParameters};
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::settings::SmtpSetupError;
use crate::authorities::{Authorities, TlsSetupError};

/// The largest file of a password, in bytes: a larger one is another file.
const PASSWORD_BYTES_MAX: u64 = 4_096;

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protection {
    /// With TLS, once the server was asked for it.
    StartTls,
    /// With TLS, from the start.
    Tls,
    /// Not at all, so that it must not leave this host.
    None,
}

/// A mail server.
pub(super) struct Server {
    pub(super) protection: Protection,
    /// A name in ASCII, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) login: Option<Login>,
}

/// Who sends. Neither `Debug` nor `Display`: nothing may show it.
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

impl Login {
    /// For the library.
    pub(super) fn credentials(&self) -> Credentials {
        Credentials::new(self.user.clone(), self.password.clone())
    }
}

impl Server {
    /// Reads a URL, and the password's file.
    ///
    /// # Errors
    /// [`SmtpSetupError::BadUrl`], [`SmtpSetupError::BadPasswordFile`].
    pub(super) fn read(text: &str, password_file: Option<&Path>) -> Result<Self, SmtpSetupError> {
        let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
        let (protection, port) = match url.scheme() {
            "smtp" => (Protection::StartTls, 587),
            "smtps" => (Protection::Tls, 465),
            "smtp+plain" => (Protection::None, 25),
            _ => return Err(bad("it must begin with smtp://, smtps:// or smtp+plain://")),
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(bad(
                "it must end behind the host and port; in a password, '/', '?' and '#' are %2F, %3F and %23",
            ));
        }
        let host = host_of(&url)?;
        let is_outside = host.parse().is_ok_and(|address: IpAddr| !address.to_canonical().is_loopback());
        if protection == Protection::None && is_outside {
            return Err(bad("smtp+plain:// is for a server on this host only, as nothing protects the connection"));
        }
        Ok(Self { protection, host, port: url.port().unwrap_or(port), login: login_of(&url, password_file)? })
    }
}

/// The library's settings for TLS to a server.
///
/// # Errors
/// [`TlsSetupError::Library`].
pub(super) fn starttls(host: &str, authorities: &Authorities) -> Result<TlsParameters, TlsSetupError> {
    let failed = |error: lettre::transport::smtp::Error| TlsSetupError::Library(error.to_string());
    let mut parameters = TlsParameters::builder(host.to_owned()).certificate_store(CertificateStore::None);
    for certificate in authorities.certificates() {
        parameters = parameters.add_root_certificate(Certificate::from_der(certificate.to_vec()).map_err(failed)?);
    }
    parameters.build().map_err(failed)
}

fn host_of(url: &Url) -> Result<String, SmtpSetupError> {
    let host = match url.host() {
        // The parser knows names only in URLs of the web: here it leaves them as they are.
        Some(Host::Domain(name)) => Host::parse(name).map_err(|error| bad(&error.to_string()))?,
        Some(other) => other.to_owned(),
        None => return Err(bad("it names no host")),
    };
    Ok(match host {
        Host::Domain(name) => name,
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    })
}

fn login_of(url: &Url, password_file: Option<&Path>) -> Result<Option<Login>, SmtpSetupError> {
    let user = decoded(url.username())?;
    let password = match (url.password(), password_file) {
        (Some(_), Some(_)) => return Err(bad("it has a password, and a file is named that has one too")),
        (Some(password), None) => Some(decoded(password)?),
        (None, Some(path)) => Some(read_password(path).map_err(|reason| bad_file(path, reason))?),
        (None, None) => None,
    };
    match (user.is_empty(), password) {
        (true, None) => Ok(None),
        (true, Some(_)) => Err(bad("it names no user whose password this is")),
        (false, None) => Err(bad("it names a user without a password")),
        (false, Some(password)) if password.is_empty() => Err(bad("its password is empty")),
        (false, Some(password)) => Ok(Some(Login { user, password })),
    }
}

fn decoded(text: &str) -> Result<String, SmtpSetupError> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| bad("its user or password is not UTF-8"))?;
    // It separates the two in what is sent.
    if text.contains('\0') { Err(bad("its user or password contains a zero byte")) } else { Ok(text.into_owned()) }
}

/// A file's text without one line end behind it. Other blanks may be meant.
fn read_password(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(PASSWORD_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    let password = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if text.len() as u64 > PASSWORD_BYTES_MAX {
        return Err(format!("it is larger than {PASSWORD_BYTES_MAX} bytes"));
    }
    if password.is_empty() {
        return Err("it is empty".to_owned());
    }
    if password.contains('\0') {
        return Err("it contains a zero byte".to_owned());
    }
    Ok(password.to_owned())
}

fn bad(reason: &str) -> SmtpSetupError {
    SmtpSetupError::BadUrl { reason: reason.to_owned() }
}

fn bad_file(path: &Path, reason: String) -> SmtpSetupError {
    SmtpSetupError::BadPasswordFile { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn read(url: &str) -> Server {
        Server::read(url, None).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    fn refused(url: &str) -> String {
        match Server::read(url, None) {
            Ok(_) => panic!("{url} is taken"),
            Err(error) => error.to_string(),
        }
    }

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn schemes_hosts_and_ports_are_read() {
        for (url, protection, host, port) in [
            ("smtp://mail.example.org", Protection::StartTls, "mail.example.org", 587),
            ("smtp://mail.example.org/", Protection::StartTls, "mail.example.org", 587),
            ("smtp://mail.example.org:25", Protection::StartTls, "mail.example.org", 25),
            ("smtps://mail.example.org", Protection::Tls, "mail.example.org", 465),
            ("SMTPS://MAIL.example.org", Protection::Tls, "mail.example.org", 465),
            ("smtps://b\u{fc}cher.example", Protection::Tls, "xn--bcher-kva.example", 465),
            ("smtps://192.0.2.1:2465", Protection::Tls, "192.0.2.1", 2465),
            ("smtps://[2001:db8::1]:2465", Protection::Tls, "2001:db8::1", 2465),
            ("smtp+plain://localhost", Protection::None, "localhost", 25),
            ("smtp+plain://127.0.0.1:1025", Protection::None, "127.0.0.1", 1025),
            ("smtp+plain://127.8.9.1", Protection::None, "127.8.9.1", 25),
            ("smtp+plain://[::1]:1025", Protection::None, "::1", 1025),
            ("smtp+plain://[::ffff:127.0.0.1]", Protection::None, "::ffff:127.0.0.1", 25),
        ] {
            let server = read(url);
            assert_eq!((server.protection, server.host.as_str(), server.port), (protection, host, port), "{url}");
            assert!(server.login.is_none());
        }
    }

    #[test]
    fn urls_that_name_no_server_are_refused() {
        for (url, reason) in [
            ("", "relative URL"),
            ("mail.example.org", "relative URL"),
            ("mail.example.org:25", "must begin with"),
            ("https://mail.example.org", "must begin with"),
            ("smtp:mail.example.org", "behind the host"),
            ("smtp://", "no host"),
            ("smtp://mail.example.org/path", "behind the host"),
            ("smtp://mail.example.org?tls=none", "behind the host"),
            ("smtp://mail.example.org#x", "behind the host"),
            ("smtp://mail.example.org:x", "invalid port"),
            ("smtp://mail.example.org:99999", "invalid port"),
            ("smtp://user@mail.example.org", "without a password"),
            ("smtp://:secret@mail.example.org", "names no user"),
            ("smtp://user:@mail.example.org", "without a password"),
            ("smtp://user:%FF@mail.example.org", "not UTF-8"),
            ("smtp://user:a%00b@mail.example.org", "zero byte"),
            ("smtp+plain://192.0.2.1", "this host only"),
            ("smtp+plain://10.0.0.1", "this host only"),
            ("smtp+plain://[2001:db8::1]", "this host only"),
            ("smtp+plain://0.0.0.0", "this host only"),
        ] {
            let told = refused(url);
            assert!(told.contains(reason), "{url}: {told}");
        }
    }

    #[test]
    fn user_and_password_are_decoded() {
        let login = read("smtps://user%40example.org:p%2Fa%3As%25s%20%C3%BC@mail.example.org").login.unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("user@example.org", "p/a:s%s \u{fc}"));
        let login = read("smtps://user:a:b@mail.example.org").login.unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("user", "a:b"));
    }

    #[test]
    fn no_error_repeats_a_password() {
        for url in [
            "smtp://user:hunter2/@mail.example.org",
            "smtp://user:hunter2/x@mail.example.org",
            "smtp://user:hunter2#x@mail.example.org",
            "smtp://user:hunter2?x@mail.example.org",
            "smtp://user:hunter2@mail.example.org/x",
            "smtp://user:hunter2@mail.example.org:x",
            "smtp://user:hunter2@ma il.example.org",
            "smtp+plain://user:hunter2@192.0.2.1",
            "hunter2://user:hunter2@mail.example.org",
        ] {
            let told = refused(url);
            assert!(!told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn one_line_end_of_a_password_file_is_not_part_of_it() {
        for (content, password) in [
            ("secret", "secret"),
            ("secret\n", "secret"),
            ("secret\r\n", "secret"),
            ("secret\n\n", "secret\n"),
            ("secret\r", "secret\r"),
            (" secret \t\n", " secret \t"),
            ("\nsecret", "\nsecret"),
            (" \n", " "),
            ("gehe\u{ee}m\n", "gehe\u{ee}m"),
        ] {
            let file = file(content.as_bytes());
            let server = Server::read("smtp://user@mail.example.org", Some(file.path()));
            assert_eq!(server.ok().and_then(|server| server.login).unwrap().password, password, "{content:?}");
        }
    }

    #[test]
    fn a_password_file_that_cannot_be_used_is_told() {
        let large = [b'x'; 5_000];
        for (content, reason) in [
            (b"".as_slice(), "empty"),
            (b"\n", "empty"),
            (b"a\0b", "zero byte"),
            (b"\xff", "UTF-8"),
            (large.as_slice(), "larger than 4096"),
        ] {
            let file = file(content);
            let told = Server::read("smtp://user@mail.example.org", Some(file.path())).err().unwrap().to_string();
            assert!(told.contains(reason) && told.contains(&file.path().display().to_string()), "{told}");
        }
        let missing = Some(Path::new("/no/such/file"));
        let told = Server::read("smtp://user@mail.example.org", missing).err().unwrap().to_string();
        assert!(told.contains("/no/such/file"), "{told}");
    }

    #[test]
    fn a_password_has_one_place_and_one_user() {
        let file = file(b"secret");
        for (url, reason) in
            [("smtp://user:other@mail.example.org", "a file is named"), ("smtp://mail.example.org", "names no user")]
        {
            let told = Server::read(url, Some(file.path())).err().unwrap().to_string();
            assert!(told.contains(reason), "{told}");
        }
    }
}
