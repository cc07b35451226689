//! The portals that somebody is logged in to, with their tokens: `portals.json` in the state
//! directory, which its owner alone may read.
//!
//! The file is replaced in one step, under a lock, so that two logins at once are both in it. The
//! portal that was logged in to last stands last, and is the one that commands ask.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use culvert_model::exit_code::ExitCode;
use culvert_node::settings::Settings;
use culvert_state::{StateDirectory, StateError};
use culvert_system::file_lock::{FileLock, LockError, lock};
use culvert_system::regular_file::{self, Links, ReadError};
use serde::{Deserialize, Serialize};

use crate::args::{EngineArgs, GlobalArgs};
use crate::exit::CommandError;
use crate::portal::address::PortalUrl;
use crate::portal::documents::Token;
use crate::portal::secret::Secret;

/// The file.
const NAME: &str = "portals.json";
/// Held while the file is changed.
const LOCK: &str = "portals.lock";
const VERSION: u64 = 1;
/// How long another command may hold the lock: it writes one small file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Where they are kept.
///
/// # Errors
/// [`CommandError`] if the settings cannot be used.
pub fn state_directory(global: &GlobalArgs) -> Result<StateDirectory, CommandError> {
    let settings = Settings::resolve(&global.flags(&EngineArgs::default()))?;
    Ok(StateDirectory::at(settings.state.value))
}

/// A portal that somebody is logged in to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Login {
    /// The portal.
    pub url: PortalUrl,
    /// The file with the CA of its certificate, if this host does not trust it anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The account's name.
    pub account: String,
    /// The token, as it was when it was handed out.
    pub token: Token,
    /// The token's secret.
    pub secret: Secret,
}

/// The portals that somebody is logged in to.
#[derive(Debug)]
pub struct Credentials {
    state: StateDirectory,
    logins: Vec<Login>,
}

/// The credentials while nobody else can change them.
#[derive(Debug)]
pub struct Locked {
    credentials: Credentials,
    _file: File,
    _lock: FileLock,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u64,
    portals: Vec<Login>,
}

impl Credentials {
    /// Those in a state directory. What others may read is made private again, with a word.
    ///
    /// # Errors
    /// [`CommandError`] if the file is damaged, or cannot be read.
    pub fn read(state: &StateDirectory) -> Result<Self, CommandError> {
        make_private(state)?;
        let document: Option<Document> = state.read_json(NAME, VERSION)?;
        Ok(Self { state: state.clone(), logins: document.map_or_else(Vec::new, |document| document.portals) })
    }

    /// The login at a portal, or the one that commands use if none is named.
    ///
    /// # Errors
    /// [`CommandError`] if there is none.
    pub fn login(&self, portal: Option<&PortalUrl>) -> Result<&Login, CommandError> {
        if let Some(found) = self.find(portal) {
            return Ok(found);
        }
        let text = match (portal, &self.logins[..]) {
            (Some(url), []) => format!("you are not logged in to {url}: log in with 'culvert login {url}'"),
            (Some(url), _) => {
                let others: Vec<String> = self.logins.iter().map(|login| login.url.to_string()).collect();
                format!(
                    "you are not logged in to {url}, but to {}: log in with 'culvert login {url}'",
                    others.join(", ")
                )
            }
            (None, _) => "you are not logged in to any portal: log in with 'culvert login URL'".to_owned(),
        };
        Err(CommandError::new(ExitCode::NotPermitted, text))
    }

    /// As [`Credentials::login`], where it is no error if there is none.
    #[must_use]
    pub fn find(&self, portal: Option<&PortalUrl>) -> Option<&Login> {
        match portal {
            Some(url) => self.logins.iter().find(|login| login.url == *url),
            None => self.logins.last(),
        }
    }

    /// Waits until nobody else changes them, and reads them anew.
    ///
    /// # Errors
    /// [`CommandError`]: those of [`Credentials::read`], and if nothing can be written there.
    pub fn lock(state: &StateDirectory) -> Result<Locked, CommandError> {
        state.make_directory("")?;
        let file = state.open_lock(LOCK)?;
        let begun = Instant::now();
        let held = loop {
            match lock(&file) {
                Ok(held) => break held,
                Err(LockError::Held) if begun.elapsed() < LOCK_TIMEOUT => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => {
                    let text = format!("cannot lock {}: {error}; try again", state.path(LOCK).display());
                    return Err(CommandError::new(ExitCode::Temporary, text));
                }
            }
        };
        Ok(Locked { credentials: Self::read(state)?, _file: file, _lock: held })
    }
}

impl Locked {
    /// Writes a login down, which commands use from now on. Gives the one that it replaces.
    ///
    /// # Errors
    /// [`CommandError`] if the file cannot be written: it is as before.
    pub fn keep(mut self, login: Login) -> Result<Option<Login>, CommandError> {
        let before = self.take(&login.url);
        self.credentials.logins.push(login);
        self.write()?;
        Ok(before)
    }

    /// Makes a login the one that commands use.
    ///
    /// # Errors
    /// [`CommandError`] if there is none, or the file cannot be written.
    pub fn switch(mut self, url: &PortalUrl) -> Result<Login, CommandError> {
        let login = self.credentials.login(Some(url))?.clone();
        self.take(url);
        self.credentials.logins.push(login.clone());
        self.write()?;
        Ok(login)
    }

    /// Forgets a login, unless another token has been written down in the meantime.
    ///
    /// # Errors
    /// [`CommandError`] if the file cannot be written: it is as before.
    pub fn forget(mut self, login: &Login) -> Result<(), CommandError> {
        self.credentials.logins.retain(|known| known.url != login.url || known.secret != login.secret);
        self.write()
    }

    fn take(&mut self, url: &PortalUrl) -> Option<Login> {
        let at = self.credentials.logins.iter().position(|known| known.url == *url)?;
        Some(self.credentials.logins.remove(at))
    }

    fn write(self) -> Result<(), CommandError> {
        let Credentials { state, logins } = self.credentials;
        let document = Document { version: VERSION, portals: logins };
        let bytes = serde_json::to_vec_pretty(&document).map_err(CommandError::failed)?;
        Ok(state.write(NAME, &bytes)?)
    }
}

/// Takes from others what they may do with the file.
fn make_private(state: &StateDirectory) -> Result<(), CommandError> {
    let path = state.path(NAME);
    let file = match regular_file::open(&path, Links::Refused) {
        Ok(file) => file,
        // What is no file is told by whoever reads it.
        Err(ReadError::Os(error)) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(ReadError::Os(error)) => return Err(StateError::Os { what: "open", path, error }.into()),
        Err(_) => return Ok(()),
    };
    let os = |error| StateError::Os { what: "look at", path: path.clone(), error };
    let mode = file.metadata().map_err(os)?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let os = |error| StateError::Os { what: "make private", path: path.clone(), error };
    file.set_permissions(Permissions::from_mode(0o600)).map_err(os)?;
    say_aside!(
        "culvert: warning: other accounts could read {} (mode {mode:03o}), which has tokens; it is private again. If \
         somebody may have read it, log out and in again: that replaces the token",
        path.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(url: &str, secret: &str) -> Login {
        let token = serde_json::json!({
            "id": "01a00000-0000-7000-8000-000000000000", "name": "culvert on here", "scopes": ["people:read"],
            "expires_at": "2027-01-01T00:00:00Z"
        });
        Login {
            url: url.parse().unwrap(),
            ca_file: None,
            account: "ada".to_owned(),
            token: serde_json::from_value(token).unwrap(),
            secret: Secret::from(secret.to_owned()),
        }
    }

    fn room() -> (tempfile::TempDir, StateDirectory) {
        let room = tempfile::tempdir().unwrap();
        let state = StateDirectory::at(room.path().join("state"));
        (room, state)
    }

    fn keep(state: &StateDirectory, url: &str, secret: &str) -> Option<Login> {
        Credentials::lock(state).unwrap().keep(login(url, secret)).unwrap()
    }

    #[test]
    fn the_last_login_is_used_until_another_is_chosen() {
        let (_room, state) = room();
        assert!(Credentials::read(&state).unwrap().login(None).unwrap_err().text.contains("culvert login URL"));
        assert!(!state.root().exists(), "reading makes nothing");
        assert!(keep(&state, "a.example", "1").is_none() && keep(&state, "b.example", "2").is_none());
        let used = || Credentials::read(&state).unwrap().login(None).unwrap().secret.text().to_owned();
        assert_eq!(used(), "2");
        Credentials::lock(&state).unwrap().switch(&"a.example".parse().unwrap()).unwrap();
        assert_eq!(used(), "1");
        let other = "c.example".parse().unwrap();
        let error = Credentials::read(&state).unwrap().login(Some(&other)).unwrap_err();
        assert!(
            error.exit_code == 4 && error.text.contains("b.example") && error.text.contains("c.example"),
            "{error}"
        );
        assert_eq!(keep(&state, "b.example", "3").unwrap().secret.text(), "2");
        assert_eq!(used(), "3");
        // A login that somebody else has replaced is not forgotten.
        Credentials::lock(&state).unwrap().forget(&login("b.example", "2")).unwrap();
        assert_eq!(used(), "3");
        Credentials::lock(&state).unwrap().forget(&login("b.example", "3")).unwrap();
        assert_eq!(used(), "1");
    }

    #[test]
    fn the_file_is_private_and_made_private_again() {
        let (_room, state) = room();
        keep(&state, "a.example", "1");
        let path = state.path(NAME);
        let mode = || path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        for wide in [0o644, 0o660, 0o604] {
            std::fs::set_permissions(&path, Permissions::from_mode(wide)).unwrap();
            assert_eq!(Credentials::read(&state).unwrap().logins.len(), 1);
            assert_eq!(mode(), 0o600, "{wide:o}");
        }
    }

    #[test]
    fn what_is_damaged_or_newer_or_no_file_is_told_and_stays() {
        let (room, state) = room();
        keep(&state, "a.example", "1");
        let path = state.path(NAME);
        for (content, told) in [
            ("", "is damaged"),
            ("{\"version\": 1, \"portals\": [{}]}", "is damaged"),
            ("{\"version\": 1, \"portals\": 7}", "is damaged"),
            ("{\"version\": 2, \"portals\": []}", "newer Culvert"),
        ] {
            std::fs::write(&path, content).unwrap();
            for error in [Credentials::read(&state).unwrap_err(), Credentials::lock(&state).unwrap_err()] {
                assert!(error.exit_code == 7 && error.text.contains(told), "{content}: {error}");
            }
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        std::fs::remove_file(&path).unwrap();
        let other = room.path().join("other");
        std::fs::write(&other, "x").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let error = Credentials::read(&state).unwrap_err();
        assert!(error.exit_code == 7 && error.text.contains("a symlink"), "{error}");
    }

    #[test]
    fn of_many_logins_at_once_none_is_lost() {
        let (_room, state) = room();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let state = &state;
                scope.spawn(move || keep(state, &format!("portal-{number}.example"), "x"));
            }
        });
        assert_eq!(Credentials::read(&state).unwrap().logins.len(), 8);
    }
}
