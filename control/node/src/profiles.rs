//! What a node knows of its partners, and the keys that would like to become partners.
//!
//! A profile is a TOML file that an admin can read and edit. Without a profile that permits it,
//! nothing of this node can be read or written over the network.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use culvert_engine::clock::unix_ms;
use culvert_engine::partners::Partners;
use culvert_model::profile::{NamedProfile, PendingKey, Profile};
use culvert_protocol::control::{Refusal, RefusalCode};
use culvert_protocol::identity::PublicKey;
use culvert_system::accounts::OwnedState;

use crate::host::Host;
use crate::state::{StateDirectory, StateError};

/// The version of profiles and of the table of keys that asked. A file without a version is of
/// version 1.
const VERSION: u64 = 1;
/// The table of keys that asked.
const PENDING: &str = "pending.json";
/// Strangers' keys that are kept for approval. More would let anybody fill the disk.
const PENDING_MAX: usize = 256;
/// Keys of one host among them: a host has one key, an institute behind one address a few.
const PENDING_OF_HOST_MAX: usize = 8;
/// A pending key that has been silent this long is evicted for a new one: its owner has given up,
/// or will come back.
const PENDING_SILENT_S: u64 = 7 * 24 * 60 * 60;

/// So many fingerprints are shown of those that begin alike.
const AMBIGUOUS_SHOWN_MAX: usize = 5;

/// Reads a profile from its file's text.
///
/// # Errors
/// What is wrong and where, in words.
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

/// The version that a profile's file says it has.
fn version_of(text: &str) -> Option<u64> {
    let table: toml::Table = toml::from_str(text).ok()?;
    table.get("version")?.as_integer()?.try_into().ok()
}

/// A profile that cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The files.
    #[error(transparent)]
    State(#[from] StateError),
    /// The name.
    #[error(
        "'{0}' is not a valid profile name: use at most 64 letters, digits, '-', '_' and '.', \
         starting with a letter or digit"
    )]
    BadName(String),
    /// No such profile.
    #[error("there is no profile '{name}': 'culvert profile list' lists all, 'culvert profile add' creates one{hint}")]
    NotFound {
        /// The name that was asked for.
        name: String,
        /// Where else there are profiles.
        hint: String,
    },
    /// It exists already.
    #[error("the profile '{0}' already exists; 'culvert profile edit {0}' changes it")]
    Exists(String),
    /// Another profile has the key.
    #[error("the profile '{0}' already has this key")]
    KeyTaken(String),
    /// A permitted directory that is not absolute.
    #[error("'{0}' cannot be permitted: write an absolute path")]
    RelativeRoot(PathBuf),
    /// No pending key with that fingerprint.
    #[error("no pending key has a fingerprint that starts with '{0}'; 'culvert profile pending' lists all")]
    NotPending(String),
    /// Several of them.
    #[error("more than one pending key has a fingerprint that starts with '{beginning}': {}; give \
        more of it", found.join(", "))]
    Ambiguous {
        /// What was given.
        beginning: String,
        /// Fingerprints that begin so.
        found: Vec<String>,
    },
    /// A directory that is not permitted cannot be forbidden.
    #[error("'{path}' is not permitted to '{name}' and cannot be forbidden; {}", permitted(.profile))]
    NotPermitted {
        /// What was to be forbidden.
        path: PathBuf,
        /// The profile's name.
        name: String,
        /// The profile.
        profile: Box<Profile>,
    },
}

fn permitted(profile: &Profile) -> String {
    let paths: Vec<String> = profile.permit.iter().map(|root| root.path.display().to_string()).collect();
    if paths.is_empty() { "nothing is permitted".to_owned() } else { format!("permitted: {}", paths.join(", ")) }
}

impl ProfileError {
    /// The kind that a transfer ends with because of it.
    #[must_use]
    pub fn code(&self) -> RefusalCode {
        match self {
            Self::State(error) => error.code(),
            Self::NotFound { .. } | Self::NotPending(_) | Self::NotPermitted { .. } => RefusalCode::NotFound,
            Self::Ambiguous { .. } | Self::BadName(_) | Self::Exists(_) | Self::KeyTaken(_) | Self::RelativeRoot(_) => {
                RefusalCode::Failed
            }
        }
    }
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

fn check_name(name: &str) -> Result<(), ProfileError> {
    let begins_well = name.starts_with(|character: char| character.is_ascii_alphanumeric());
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    if begins_well && name.len() <= 64 && name.chars().all(is_plain) {
        Ok(())
    } else {
        Err(ProfileError::BadName(name.to_owned()))
    }
}

/// What counts as one host among the pending keys: its address, or its name if this node's user
/// connected to it.
fn host_of(address: &str) -> Result<Host, &str> {
    let with_port = || address.parse::<std::net::SocketAddr>().map(|address| address.ip());
    let host = address.parse::<IpAddr>().or_else(|_| with_port()).map(Host::from);
    host.map_err(|_| address.rsplit_once(':').map_or(address, |(host, _)| host))
}

/// Earlier programs noted the port of the connection too: an IPv4 address in IPv6's form is only
/// ever one that came in.
fn with_plain_addresses(mut pending: Vec<PendingKey>) -> Vec<PendingKey> {
    for known in &mut pending {
        if let Ok(SocketAddr::V6(address)) = known.address.parse()
            && let Some(host) = address.ip().to_ipv4_mapped()
        {
            known.address = host.to_string();
        }
    }
    pending
}

const fn is_silent(known: &PendingKey, now_unix: u64) -> bool {
    now_unix.saturating_sub(known.last_seen_unix) > PENDING_SILENT_S
}

/// Forgets the key that is missed least.
fn make_room(pending: &mut Vec<PendingKey>, now_unix: u64) {
    let mut of_host: HashMap<Result<Host, &str>, usize> = HashMap::new();
    for known in pending.iter() {
        *of_host.entry(host_of(&known.address)).or_default() += 1;
    }
    let least = |(_, known): &(usize, &PendingKey)| {
        (is_silent(known, now_unix), of_host.get(&host_of(&known.address)).copied(), known.first_seen_unix)
    };
    let found = pending.iter().enumerate().max_by_key(least).map(|(at, _)| at);
    found.map(|at| pending.remove(at));
}

fn file_of(name: &str) -> String {
    format!("profiles/{name}.toml")
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

    /// As [`Profiles::find`]; one that is no good is none. One that this process only lacks the
    /// means to read may be good: its partner is not a stranger.
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
        self.find(name)?.ok_or_else(|| self.no_such(name))
    }

    fn no_such(&self, name: &str) -> ProfileError {
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

    /// The hosts that profiles name, as `host` finds them in addresses; at most `max`. A profile
    /// that cannot be read names none.
    #[must_use]
    pub fn hosts(&self, max: usize, host: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let names = self.state.list("profiles", ".toml").unwrap_or_default();
        let profiles = names.iter().filter_map(|name| self.find(name).ok().flatten());
        profiles.flat_map(|profile| profile.addresses).filter_map(|address| host(&address)).take(max).collect()
    }

    /// Makes a profile.
    ///
    /// # Errors
    /// [`ProfileError`]: the name, a profile that exists, a key that another has.
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
        if self.state.remove(file_of(name))? { Ok(()) } else { Err(self.no_such(name)) }
    }

    /// The file of a profile.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.state.path(Path::new(&file_of(name)))
    }

    /// Keys that asked.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn pending(&self) -> Result<Vec<PendingKey>, ProfileError> {
        Ok(with_plain_addresses(self.state.read_json(PENDING, VERSION)?.unwrap_or_default()))
    }

    /// Like [`Profiles::pending`], for a table that will be written again.
    fn pending_to_change(&self) -> Result<Vec<PendingKey>, ProfileError> {
        Ok(with_plain_addresses(self.state.read_json_or_set_aside(PENDING, VERSION)?.unwrap_or_default()))
    }

    /// Records that a key without a profile connected; false if there is no room for another of its
    /// host. The table is bounded: keys that have been silent for a week are evicted first, then
    /// the youngest key of the host with the most. A key whose owner waits for approval therefore
    /// stays, whatever comes after it.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn note_pending(&self, key: PublicKey, name: &str, address: &str, now_unix: u64) -> Result<bool, ProfileError> {
        let mut pending = self.pending_to_change()?;
        if let Some(known) = pending.iter_mut().find(|known| known.key == key) {
            // Once a minute is enough to know that it still asks.
            // Where its node listens is worth more than where it comes from.
            let is_better = known.is_guest() || address.parse::<IpAddr>().is_err();
            if now_unix.saturating_sub(known.last_seen_unix) < 60 && (!is_better || known.address == address) {
                return Ok(true);
            }
            known.last_seen_unix = now_unix;
            if is_better {
                known.address = address.to_owned();
            }
        } else {
            let host = host_of(address);
            let of_host = pending.iter().filter(|known| host_of(&known.address) == host).count();
            if of_host >= PENDING_OF_HOST_MAX {
                let is_old = |known: &PendingKey| host_of(&known.address) == host && is_silent(known, now_unix);
                let Some(at) = pending.iter().position(is_old) else { return Ok(false) };
                pending.remove(at);
            } else if pending.len() >= PENDING_MAX {
                make_room(&mut pending, now_unix);
            }
            let (name, address) = (name.to_owned(), address.to_owned());
            pending.push(PendingKey { key, name, address, first_seen_unix: now_unix, last_seen_unix: now_unix });
        }
        self.write_pending(&pending).map(|()| true)
    }

    /// The pending key whose fingerprint begins with `fingerprint` (with or without `SHA256:`).
    ///
    /// # Errors
    /// [`ProfileError::NotPending`], [`ProfileError::Ambiguous`].
    pub fn find_pending(&self, fingerprint: &str) -> Result<PendingKey, ProfileError> {
        let wanted = fingerprint.strip_prefix("SHA256:").unwrap_or(fingerprint);
        let matches = |pending: &PendingKey| pending.key.fingerprint()["SHA256:".len()..].starts_with(wanted);
        let mut found: Vec<PendingKey> = self.pending()?.into_iter().filter(matches).collect();
        match (found.pop(), found.as_slice()) {
            (Some(pending), []) if !wanted.is_empty() => Ok(pending),
            (Some(last), others) if !others.is_empty() => {
                let found = others.iter().chain([&last]).take(AMBIGUOUS_SHOWN_MAX).map(|known| known.key.fingerprint());
                Err(ProfileError::Ambiguous { beginning: fingerprint.to_owned(), found: found.collect() })
            }
            _ => Err(ProfileError::NotPending(fingerprint.to_owned())),
        }
    }

    fn forget_pending(&self, key: PublicKey) -> Result<(), ProfileError> {
        let mut pending = self.pending_to_change()?;
        let before = pending.len();
        pending.retain(|known| known.key != key);
        if pending.len() == before { Ok(()) } else { self.write_pending(&pending) }
    }

    fn write_pending(&self, pending: &[PendingKey]) -> Result<(), ProfileError> {
        let text = serde_json::to_vec_pretty(pending)
            .map_err(|error| StateError::Damaged { path: self.state.path(PENDING), reason: error.to_string() })?;
        Ok(self.state.write(PENDING, &text)?)
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
        // The table may be full or unwritable; what the user is told says all that matters.
        let _ = self.note_pending(key, name, address, unix_ms() / 1_000);
    }
}

fn refusal(error: &ProfileError) -> Refusal {
    Refusal::new(error.code(), error.to_string())
}

#[cfg(test)]
mod tests {
    use culvert_model::profile::{Permission, PermittedRoot};

    use super::*;

    fn profiles() -> (tempfile::TempDir, Profiles) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        (directory, Profiles::new(state))
    }

    fn profile(byte: u8) -> Profile {
        Profile {
            key: PublicKey([byte; 32]),
            addresses: vec!["host:7272".into()],
            permit: vec![PermittedRoot { path: "/data".into(), permission: Permission::Write }],
        }
    }

    #[test]
    fn profiles_are_added_found_and_removed() {
        let (_directory, profiles) = profiles();
        profiles.add("lab", &profile(1)).unwrap();
        assert_eq!(profiles.get("lab").unwrap(), profile(1));
        assert_eq!(profiles.with_key(PublicKey([1; 32])).unwrap().unwrap().0, "lab");
        assert_eq!(profiles.with_address("host:7272").unwrap().unwrap().0, "lab");
        assert!(matches!(profiles.add("lab", &profile(2)), Err(ProfileError::Exists(_))));
        assert!(matches!(profiles.add("other", &profile(1)), Err(ProfileError::KeyTaken(_))));
        profiles.remove("lab").unwrap();
        assert!(matches!(profiles.get("lab"), Err(ProfileError::NotFound { .. })));
    }

    #[test]
    fn names_stay_in_their_directory() {
        let (_directory, profiles) = profiles();
        for name in ["", "../x", "a/b", ".hidden", "a b", "ä"] {
            assert!(matches!(profiles.add(name, &profile(1)), Err(ProfileError::BadName(_))), "{name}");
        }
    }

    #[test]
    fn a_typo_in_a_profile_is_named() {
        let (_directory, profiles) = profiles();
        profiles.add("lab", &profile(1)).unwrap();
        std::fs::write(profiles.path("lab"), "key = 'xyz'\n").unwrap();
        let error = profiles.get("lab").unwrap_err().to_string();
        assert!(error.contains("lab.toml") && error.contains("64 hexadecimal"), "{error}");
        assert!(profiles.with_key(PublicKey([1; 32])).unwrap().is_none());
    }

    #[test]
    fn what_a_newer_program_wrote_is_left_as_it_is_and_what_is_damaged_is_set_aside() {
        let (_directory, profiles) = profiles();
        profiles.add("lab", &profile(1)).unwrap();
        let text = std::fs::read_to_string(profiles.path("lab")).unwrap();
        std::fs::write(profiles.path("lab"), format!("version = 1\n{text}")).unwrap();
        assert_eq!(profiles.get("lab").unwrap(), profile(1));
        let newer = format!("version = 2\nwhat = 'is not known'\n{text}");
        std::fs::write(profiles.path("lab"), &newer).unwrap();
        let error = profiles.get("lab").unwrap_err().to_string();
        assert!(error.contains("lab.toml has version 2") && error.contains("newer Culvert"), "{error}");
        assert!(profiles.with_key(PublicKey([1; 32])).unwrap().is_none());
        assert!(profiles.replace("lab", &profile(1)).is_err());
        assert_eq!(std::fs::read_to_string(profiles.path("lab")).unwrap(), newer);
        let (state, key) = (&profiles.state, PublicKey([7; 32]));
        let newer = r#"{"version": 2, "keys": []}"#;
        state.write(PENDING, newer.as_bytes()).unwrap();
        assert!(profiles.note_pending(key, "n", "a", 1).is_err() && profiles.pending().is_err());
        assert_eq!(state.read(PENDING).unwrap().unwrap(), newer.as_bytes());
        // Half a table was taken for none, and written over.
        state.write(PENDING, b"[{").unwrap();
        assert!(profiles.note_pending(key, "n", "a", 1).unwrap());
        assert_eq!(profiles.pending().unwrap().len(), 1);
        assert_eq!(state.read("pending.json.damaged").unwrap().unwrap(), b"[{");
    }

    fn numbered(number: u32) -> PublicKey {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        PublicKey(key)
    }

    fn address(host: u32) -> String {
        format!("{}:4000", std::net::Ipv4Addr::from_bits(0x0a00_0000 + host))
    }

    /// What is known of a key is where it comes from, until this node's user finds where its node
    /// listens.
    #[test]
    fn where_a_node_listens_is_kept_and_where_it_comes_from_has_no_port() {
        let (_directory, profiles) = profiles();
        let key = PublicKey([7; 32]);
        let address = || profiles.pending().unwrap()[0].address.clone();
        let earlier = r#"[{"key": "KEY", "name": "n", "address": "[::ffff:10.78.0.1]:45230", "first_seen_unix": 1, "last_seen_unix": 1}]"#;
        profiles.state.write(PENDING, earlier.replace("KEY", &key.to_string()).as_bytes()).unwrap();
        assert_eq!(address(), "10.78.0.1");
        assert_eq!(profiles.pending().unwrap()[0].node_address(), "10.78.0.1:7272");
        assert!(profiles.note_pending(key, "n", "2001:db8::1", 100).unwrap());
        assert_eq!(profiles.pending().unwrap()[0].node_address(), "[2001:db8::1]:7272");
        // At once, too.
        assert!(profiles.note_pending(key, "n", "dtn.example.org:99", 101).unwrap());
        assert!(profiles.note_pending(key, "n", "2001:db8::1", 900).unwrap());
        assert_eq!(address(), "dtn.example.org:99");
        assert_eq!(profiles.pending().unwrap()[0].last_seen_unix, 900);
    }

    #[test]
    fn strangers_cannot_fill_the_disk() {
        let (_directory, profiles) = profiles();
        for number in 0..PENDING_MAX as u32 + 10 {
            assert!(profiles.note_pending(numbered(number), "n", &address(number), u64::from(number)).unwrap());
        }
        assert_eq!(profiles.pending().unwrap().len(), PENDING_MAX);
        let last = profiles.pending().unwrap().pop().unwrap();
        assert_eq!(profiles.find_pending(&last.key.fingerprint()).unwrap(), last);
        assert!(profiles.find_pending("SHA256:").is_err());
        profiles.add("lab", &Profile { key: last.key, ..profile(1) }).unwrap();
        assert_eq!(profiles.pending().unwrap().len(), PENDING_MAX - 1);
    }

    /// Row 16: a new key a second took the place of one that a person waited to have approved.
    #[test]
    fn a_key_that_waits_for_approval_is_not_pushed_out_by_those_that_come_after_it() {
        let (_directory, profiles) = profiles();
        let (waiting, host) = (numbered(1_000_000), address(1_000_000));
        let is_there = |key| profiles.pending().unwrap().iter().any(|known| known.key == key);
        assert!(profiles.note_pending(waiting, "waiting", &host, 100).unwrap());
        // One host, behind whose address the honest one is too.
        let of_host = (0..50).filter(|&key| profiles.note_pending(numbered(key), "n", &host, 200).unwrap()).count();
        assert_eq!(of_host, PENDING_OF_HOST_MAX - 1);
        // Many hosts, with as many keys as each may have.
        for key in 100..100 + 2 * PENDING_MAX as u32 {
            let _ = profiles.note_pending(numbered(key), "n", &address(key / 8), u64::from(key) + 200).unwrap();
        }
        let newcomer = numbered(2_000_000);
        assert!(profiles.note_pending(newcomer, "new", &address(2_000_000), 900).unwrap());
        assert!(is_there(waiting) && is_there(newcomer));
        assert_eq!(profiles.pending().unwrap().len(), PENDING_MAX);
        // Hosts with one key each: the first ones stay, and a new one is recorded.
        for key in 10_000..10_000 + 2 * PENDING_MAX as u32 {
            assert!(profiles.note_pending(numbered(key), "n", &address(key), 1_000).unwrap());
        }
        assert!(is_there(newcomer));
        // After a week of silence they make room.
        let later = 1_000 + PENDING_SILENT_S + 1;
        assert!(profiles.note_pending(numbered(3_000_000), "n", &host, later).unwrap());
    }
}
