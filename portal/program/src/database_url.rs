//! The address of the database: checked, given its password, and shown without it.

use anyhow::{Context as _, bail};

/// What an address of PostgreSQL may say behind its `?`. The driver passes over what it does not
/// know, also a misspelt `sslmode`.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "statement-cache-capacity",
];

/// Checks an address that somebody gave.
///
/// # Errors
/// If it is of no database that the portal can use.
pub fn check(url: &str) -> anyhow::Result<()> {
    let is_server = is_server(url);
    if !is_server && !url.starts_with("sqlite:") {
        bail!("--database must be postgresql://USER@HOST/NAME or sqlite:PATH, not '{}'", without_password(url));
    }
    let unknown = parameters(url).map(|(name, _)| name).find(|name| is_server && !PARAMETERS.contains(name));
    match unknown {
        Some(name) => bail!("--database has an unknown parameter '{name}': known are {}", PARAMETERS.join(", ")),
        None => Ok(()),
    }
}

/// Whether an address is of a server.
#[must_use]
pub fn is_server(url: &str) -> bool {
    url.starts_with("postgresql://") || url.starts_with("postgres://")
}

/// The file of SQLite that an address names.
#[must_use]
pub fn file(url: &str) -> Option<&std::path::Path> {
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    Some(std::path::Path::new(path.split('?').next().unwrap_or_default()))
}

/// Whether what is sent to the database may cross a network in clear: unless it is told otherwise,
/// the driver uses TLS only if the server offers it, whoever the server is.
#[must_use]
pub fn may_be_in_clear(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://").filter(|_| is_server(url)) else { return false };
    let value = |wanted| parameters(url).find(|(name, _)| *name == wanted).map(|(_, value)| value);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = value("hostaddr").or_else(|| value("host")).unwrap_or(host);
    let is_here = host.is_empty()
        || host.starts_with(['/', '%'])
        || ["localhost", "127.", "[::1]", "::1"].iter().any(|here| host.starts_with(here));
    !is_here && !value("sslmode").is_some_and(|mode| ["require", "verify-ca", "verify-full"].contains(&mode))
}

/// Puts a password into an address that has none.
///
/// # Errors
/// If it has one, or names no user.
pub fn with_password(url: &str, password: &str) -> anyhow::Result<String> {
    let (scheme, rest) = url.split_once("://").context("--database-password-file is for postgresql://")?;
    let password: String = password.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let has = |wanted| parameters(url).any(|(name, _)| name == wanted);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let user = authority.split_once('@').map(|(user, _)| user);
    if user.is_some_and(|user| user.contains(':')) || has("password") {
        bail!("--database has a password already: remove it there, or --database-password-file");
    }
    match rest.split_once('@').filter(|_| user.is_some()) {
        Some((user, rest)) => Ok(format!("{scheme}://{user}:{password}@{rest}")),
        // As it is for sockets, where the host is a parameter, too.
        None if has("user") => Ok(format!("{url}&password={password}")),
        None => bail!("--database names no user: postgresql://USER@HOST/NAME, or …?host=/run/postgresql&user=USER"),
    }
}

/// An address as it may be shown.
#[must_use]
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    match rest.rsplit_once('@') {
        Some((user, rest)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{}", rest.split('?').next().unwrap_or_default())
        }
        None => format!("{scheme}://{}", rest.split('?').next().unwrap_or_default()),
    }
}

fn parameters(url: &str) -> impl Iterator<Item = (&str, &str)> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_put_in_and_not_shown() {
        let url = with_password("postgresql://ada@db/culvert", "p@ss/w:d").unwrap();
        assert_eq!(url, "postgresql://ada:%70%40%73%73%2F%77%3A%64@db/culvert");
        assert_eq!(without_password(&url), "postgresql://ada@db/culvert");
        assert_eq!(without_password("postgresql://a:b@c@db/x?password=y"), "postgresql://a@db/x");
        let url = with_password("postgresql:///culvert?host=/run/postgresql&user=ada", "x").unwrap();
        assert_eq!(url, "postgresql:///culvert?host=/run/postgresql&user=ada&password=%78");
        assert_eq!(without_password(&url), "postgresql:///culvert");
        for wrong in ["postgresql://ada:x@db/culvert", "postgresql://db/culvert", "postgresql:///x?user=ada&password=y"]
        {
            assert!(with_password(wrong, "y").is_err(), "{wrong}");
        }
    }

    #[test]
    fn misspelt_parameters_are_refused_and_clear_text_is_known() {
        check("postgresql://ada@db/culvert?sslmode=verify-full&sslrootcert=/etc/ca.pem").unwrap();
        let told = check("postgresql://ada@db/culvert?sslmod=require").unwrap_err().to_string();
        assert!(told.contains("'sslmod'") && told.contains("sslmode"), "{told}");
        for (url, expected) in [
            ("postgresql://ada@db/culvert", true),
            ("postgresql://ada@db/culvert?sslmode=prefer", true),
            ("postgresql://ada@db/culvert?sslmode=require", false),
            ("postgresql://ada@127.0.0.1:5432/culvert", false),
            ("postgresql://ada@[::1]/culvert", false),
            ("postgresql:///culvert?host=/run/postgresql&user=ada", false),
            ("postgresql:///culvert?host=db.example.org&user=ada", true),
            ("postgresql://ada@%2Frun%2Fpostgresql/culvert", false),
            ("sqlite:/var/lib/x.db", false),
        ] {
            assert_eq!(may_be_in_clear(url), expected, "{url}");
        }
    }
}
