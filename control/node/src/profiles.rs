//! The profiles of a node's partners, and the keys that wait for approval.
//!
//! A profile is a TOML file that an admin can read and edit. Nothing on this node can be read or
//! written over the network unless a profile permits it.

mod error;
mod pending;

use std::path::{Path, PathBuf};

use culvert_engine::clock::unix_ms;
use culvert_engine::partners::Partners;
use culvert_model::profile::{NamedProfile, Profile};
use culvert_protocol::control::Refusal;
use culvert_protocol::identity::PublicKey;
use culvert_state::{StateDirectory, StateError};
use culvert_system::accounts::OwnedState;

pub use crate::profiles::error::ProfileError;

/// The version of profiles and of the table of pending keys. A file without a version has version
/// 1.
const VERSION: u64 = 1;

/// Reads a profile from its file's text.
///
/// # Errors
/// A sentence that says what is wrong and where.
pub fn profile_from_toml(text: &str) -> Result<Profile, String> {
    let profile = match version_of(text) {
        None => toml::from_str(text),
        Some(_) => toml::from_str(text).and_then(|mut table: toml::Table| {
            table.remove("version");
            table.try_into()
        }),
    };
    profile.map_err(|error| error.to_string())
}

/// The profiles of a node.
#[derive(Clone, Debug)]
pub struct Profiles {
    state: StateDirectory,
}

/// Whether a profile may have this name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    check_name(name).is_ok()
}

impl Profiles {
    /// The profiles in a state directory.
    #[must_use]
    pub const fn new(state: StateDirectory) -> Self {
        Self { state }
    }

    /// A profile by name; `None` if there is none.
    ///
    /// # Errors
    /// [`ProfileError`], for instance that its file does not parse.
    pub fn find(&self, name: &str) -> Result<Option<Profile>, ProfileError> {
        if check_name(name).is_err() {
            return Ok(None);
        }
        let Some(bytes) = self.state.read(file_of(name))? else { return Ok(None) };
        let damaged = |reason: String| StateError::Damaged { path: self.state.path(file_of(name)), reason };
        let text = String::from_utf8(bytes).map_err(|error| damaged(error.to_string()))?;
        if let Some(found) = version_of(&text).filter(|&found| found > VERSION) {
            return Err(StateError::Newer { path: self.state.path(file_of(name)), found, known: VERSION }.into());
        }
        let profile = profile_from_toml(&text).map_err(damaged)?;
        if let Some(root) = profile.permit.iter().find(|root| !root.path.is_absolute()) {
            return Err(ProfileError::RelativeRoot(root.path.clone()));
        }
        Ok(Some(profile))
    }

    /// Like [`Profiles::find`], but an invalid profile counts as none. If this process only lacks
    /// descriptors or memory to read it, that is an error: its partner is not a stranger.
    fn find_readable(&self, name: &str) -> Result<Option<Profile>, ProfileError> {
        match self.find(name) {
            Err(ProfileError::State(error)) if error.is_shortage() => Err(error.into()),
            found => Ok(found.ok().flatten()),
        }
    }

    /// A profile by name.
    ///
    /// # Errors
    /// [`ProfileError::NotFound`] among others.
    pub fn get(&self, name: &str) -> Result<Profile, ProfileError> {
        self.find(name)?.ok_or_else(|| self.not_found(name))
    }

    fn not_found(&self, name: &str) -> ProfileError {
        let hint = OwnedState::hint(self.state.root(), "profile list");
        ProfileError::NotFound { name: name.to_owned(), hint }
    }

    /// All profiles that can be read, by name, and why the others cannot.
    ///
    /// # Errors
    /// [`ProfileError`] if they cannot be listed.
    pub fn list(&self) -> Result<(Vec<NamedProfile>, Vec<ProfileError>), ProfileError> {
        let (mut profiles, mut errors) = (Vec::new(), Vec::new());
        for name in self.state.list("profiles", ".toml")?.into_iter().filter(|name| check_name(name).is_ok()) {
            match self.get(&name) {
                Ok(profile) => profiles.push((name, profile)),
                Err(error) => errors.push(error),
            }
        }
        Ok((profiles, errors))
    }

    /// All profiles that can be read, by name.
    #[must_use]
    pub fn readable(&self) -> Vec<(String, Profile)> {
        let names = self.state.list("profiles", ".toml").unwrap_or_default();
        names.into_iter().filter_map(|name| self.find(&name).ok().flatten().map(|profile| (name, profile))).collect()
    }

    /// The profile with a key. An unreadable profile does not affect the others.
    ///
    /// # Errors
    /// [`ProfileError`] if the profiles cannot be listed.
    pub fn with_key(&self, key: PublicKey) -> Result<Option<(String, Profile)>, ProfileError> {
        for name in self.state.list("profiles", ".toml")? {
            if let Some(profile) = self.find_readable(&name)?.filter(|profile| profile.key == key) {
                return Ok(Some((name, profile)));
            }
        }
        Ok(None)
    }

    /// The profile that names an address.
    ///
    /// # Errors
    /// [`ProfileError`] if the profiles cannot be listed.
    pub fn with_address(&self, address: &str) -> Result<Option<(String, Profile)>, ProfileError> {
        for name in self.state.list("profiles", ".toml")? {
            let is_named = |profile: &Profile| profile.addresses.iter().any(|known| known == address);
            if let Some(profile) = self.find_readable(&name)?.filter(is_named) {
                return Ok(Some((name, profile)));
            }
        }
        Ok(None)
    }

    /// At most `max` hosts that profiles name; `host` extracts the host from an address. Profiles
    /// that cannot be read are skipped.
    #[must_use]
    pub fn hosts(&self, max: usize, host: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let names = self.state.list("profiles", ".toml").unwrap_or_default();
        let profiles = names.iter().filter_map(|name| self.find(name).ok().flatten());
        profiles.flat_map(|profile| profile.addresses).filter_map(|address| host(&address)).take(max).collect()
    }

    /// Adds a profile.
    ///
    /// # Errors
    /// [`ProfileError`]: an invalid name, an existing profile, a key that another profile has.
    pub fn add(&self, name: &str, profile: &Profile) -> Result<(), ProfileError> {
        check_name(name)?;
        if self.state.read(file_of(name))?.is_some() {
            return Err(ProfileError::Exists(name.to_owned()));
        }
        if let Some((other, _)) = self.with_key(profile.key)? {
            return Err(ProfileError::KeyTaken(other));
        }
        self.write(name, profile)?;
        self.forget_pending(profile.key)
    }

    /// Replaces a profile.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn replace(&self, name: &str, profile: &Profile) -> Result<(), ProfileError> {
        self.get(name)?;
        self.write(name, profile)
    }

    fn write(&self, name: &str, profile: &Profile) -> Result<(), ProfileError> {
        if let Some(root) = profile.permit.iter().find(|root| !root.path.is_absolute()) {
            return Err(ProfileError::RelativeRoot(root.path.clone()));
        }
        let text = toml::to_string_pretty(profile)
            .map_err(|error| StateError::Damaged { path: self.state.path(file_of(name)), reason: error.to_string() })?;
        Ok(self.state.write(file_of(name), text.as_bytes())?)
    }

    /// Removes a profile.
    ///
    /// # Errors
    /// [`ProfileError::NotFound`] among others.
    pub fn remove(&self, name: &str) -> Result<(), ProfileError> {
        check_name(name)?;
        if self.state.remove(file_of(name))? { Ok(()) } else { Err(self.not_found(name)) }
    }

    /// The file of a profile.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.state.path(Path::new(&file_of(name)))
    }
}

impl Partners for Profiles {
    fn named(&self, name: &str) -> Result<Profile, Refusal> {
        self.get(name).map_err(|error| refusal(&error))
    }

    fn with_address(&self, address: &str) -> Result<Option<NamedProfile>, Refusal> {
        Self::with_address(self, address).map_err(|error| refusal(&error))
    }

    fn with_key(&self, key: PublicKey) -> Result<Option<NamedProfile>, Refusal> {
        Self::with_key(self, key).map_err(|error| refusal(&error))
    }

    fn note_stranger(&self, key: PublicKey, name: &str, address: &str) {
        // The table may be full or unwritable; the user sees the key in the error message anyway.
        let _ = self.note_pending(key, name, address, unix_ms() / 1_000);
    }
}

/// The version in a profile's file.
fn version_of(text: &str) -> Option<u64> {
    let table: toml::Table = toml::from_str(text).ok()?;
    table.get("version")?.as_integer()?.try_into().ok()
}

fn check_name(name: &str) -> Result<(), ProfileError> {
    let starts_well = name.starts_with(|character: char| character.is_ascii_alphanumeric());
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    if starts_well && name.len() <= 64 && name.chars().all(is_plain) {
        Ok(())
    } else {
        Err(ProfileError::BadName(name.to_owned()))
    }
}

fn file_of(name: &str) -> String {
    format!("profiles/{name}.toml")
}

fn refusal(error: &ProfileError) -> Refusal {
    Refusal::new(error.code(), error.to_string())
}

#[cfg(test)]
mod tests;
