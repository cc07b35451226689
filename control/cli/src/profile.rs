//! `culvert profile`.

mod keys;
mod verify;

use std::net::Ipv6Addr;
use std::path::PathBuf;

use culvert_model::address::{DEFAULT_PORT, split_host_port};
use culvert_model::exit_code::ExitCode;
use culvert_model::profile::{PermittedRoot, Profile};
use culvert_node::profiles::{ProfileError, Profiles};
use culvert_node::settings::Settings;
use culvert_protocol::identity::PublicKey;
use culvert_state::{StateDirectory, StateError};
use serde::Serialize;

use crate::args::{EngineArgs, GlobalArgs, ProfileAction, ProfileArgs, ProfileChange};
use crate::exit::{CommandError, of_path};
use crate::report::{print_json, say};
use crate::state_to_read::state_to_read;

/// A profile with its name, as printed with `--json`.
#[derive(Debug, Serialize)]
struct Named<'a> {
    name: &'a str,
    fingerprint: String,
    words: String,
    #[serde(flatten)]
    profile: &'a Profile,
}

/// Runs `culvert profile`.
///
/// # Errors
/// [`CommandError`].
pub async fn run(global: GlobalArgs, args: ProfileArgs) -> Result<ExitCode, CommandError> {
    let settings = Settings::resolve(&global.flags(&EngineArgs::default()))?;
    let state = match args.action {
        // Made once the command line is known to mean something.
        ProfileAction::Add { .. } | ProfileAction::Invite { .. } => StateDirectory::at(settings.state.value.clone()),
        _ => state_to_read(&settings)?,
    };
    let profiles = Profiles::new(state.clone());
    match args.action {
        ProfileAction::List => list(&profiles, args.json)?,
        ProfileAction::Show { name } => show(&profiles, &name, args.json)?,
        ProfileAction::Add { name, key, change } => {
            let key = key.parse::<PublicKey>().map_err(CommandError::usage)?;
            let profile = Profile { key, addresses: addresses(&change)?, permit: permits(&change)? };
            create_first_key(&state)?;
            profiles.add(&name, &profile)?;
            show(&profiles, &name, args.json)?;
        }
        ProfileAction::Edit { name, key, change, forbid } => {
            edit(&profiles, &name, key, &change, &forbid)?;
            show(&profiles, &name, args.json)?;
        }
        ProfileAction::Remove { name } => {
            profiles.remove(&name)?;
            if args.json {
                print_json(&serde_json::json!({ "name": name, "removed": true }))?;
            } else if !global.quiet {
                say_aside!("culvert: the profile '{name}' is removed; its key is no longer known");
            }
        }
        ProfileAction::Pending => keys::pending(&profiles, args.json)?,
        ProfileAction::Approve { fingerprint, name, change } => {
            let profile = approved(&profiles, &fingerprint, &name, &change, global.quiet)?;
            create_first_key(&state)?;
            profiles.add(&name, &profile)?;
            show(&profiles, &name, args.json)?;
        }
        ProfileAction::Invite { name, addresses } => {
            let addresses = addresses.iter().map(|typed| address(typed)).collect::<Result<Vec<_>, _>>()?;
            let identity = StateDirectory::open(state.root())?.identity()?;
            keys::invite(&settings, identity.public_key(), name, addresses, args.json, global.quiet)?;
        }
        ProfileAction::Verify { name } => return verify::run(&profiles, &state, &settings, &name, args.json).await,
    }
    Ok(ExitCode::Done)
}

fn edit(
    profiles: &Profiles,
    name: &str,
    key: Option<String>,
    change: &ProfileChange,
    forbid: &[PathBuf],
) -> Result<(), CommandError> {
    let key = key.map(|key| key.parse::<PublicKey>().map_err(CommandError::usage)).transpose()?;
    let new_addresses = addresses(change)?;
    let mut profile = profiles.get(name)?;
    if let Some(key) = key {
        profile.key = key;
    }
    if !new_addresses.is_empty() {
        profile.addresses = new_addresses;
    }
    for root in permits(change)? {
        profile.permit.retain(|known| known.path != root.path);
        profile.permit.push(root);
    }
    for path in forbid {
        // As given, or with symlinks resolved.
        let target = path.canonicalize().unwrap_or_else(|_| path.clone());
        let before = profile.permit.len();
        profile.permit.retain(|root| root.path != *path && root.path != target);
        if profile.permit.len() == before {
            let (path, name, profile) = (path.clone(), name.to_owned(), Box::new(profile));
            return Err(ProfileError::NotPermitted { path, name, profile }.into());
        }
    }
    Ok(profiles.replace(name, &profile)?)
}

/// The profile of a pending key that is approved.
fn approved(
    profiles: &Profiles,
    fingerprint: &str,
    name: &str,
    change: &ProfileChange,
    quiet: bool,
) -> Result<Profile, CommandError> {
    let pending = profiles.find_pending(fingerprint)?;
    let mut addresses = addresses(change)?;
    if addresses.is_empty() {
        let address = pending.node_address();
        if pending.is_guest() && !quiet {
            keys::report_guessed_address(name, &address);
        }
        addresses.push(address);
    }
    Ok(Profile { key: pending.key, addresses, permit: permits(change)? })
}

/// Creates the state directory, and the key before the first profile: profiles without a key mean
/// that the key was lost.
fn create_first_key(state: &StateDirectory) -> Result<(), CommandError> {
    match StateDirectory::open(state.root())?.identity() {
        // While a node is being restored, profiles may be added before the key is.
        Err(StateError::LostKey { .. }) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn addresses(change: &ProfileChange) -> Result<Vec<String>, CommandError> {
    change.addresses.iter().map(|typed| address(typed)).collect()
}

/// An address as profiles store it: with a port, and an IPv6 address in brackets.
fn address(typed: &str) -> Result<String, CommandError> {
    let bare = typed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(typed);
    if bare.parse::<Ipv6Addr>().is_ok() {
        return Ok(format!("[{bare}]:{DEFAULT_PORT}"));
    }
    if bare == typed && !typed.is_empty() && !typed.contains([':', '/', ' ']) {
        return Ok(format!("{typed}:{DEFAULT_PORT}"));
    }
    match split_host_port(typed) {
        Some((_, 0)) => Err(CommandError::usage(format!("'{typed}' is not an address: nobody listens on port 0"))),
        Some((host, _)) if host.parse::<Ipv6Addr>().is_ok() && typed.starts_with('[') => Ok(typed.to_owned()),
        Some((host, _)) if !host.contains([':', '[', ']', '/', ' ']) && !typed.starts_with('[') => Ok(typed.to_owned()),
        _ => Err(CommandError::usage(format!(
            "'{typed}' is not an address: write HOST, HOST:PORT, or [ADDRESS]:PORT for IPv6"
        ))),
    }
}

fn permits(change: &ProfileChange) -> Result<Vec<PermittedRoot>, CommandError> {
    let permit = |text: &String| {
        let explain =
            || CommandError::usage(format!("'{text}' is not a permission: write PATH:read, PATH:write or PATH:both"));
        let (path, permission) = text.rsplit_once(':').ok_or_else(explain)?;
        let permission = permission.parse().map_err(|_| explain())?;
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            return Err(CommandError::usage(format!(
                "'{}' cannot be permitted: write an absolute path",
                path.display()
            )));
        }
        // Partners' paths are resolved beneath it, so it must be the directory itself, not a
        // symlink.
        let path = path.canonicalize().map_err(|error| {
            CommandError::new(of_path(&error), format!("'{}' cannot be permitted: {error}", path.display()))
        })?;
        if path.metadata().is_ok_and(|found| !found.is_dir()) {
            let above = path.parent().unwrap_or(&path);
            let text = format!(
                "'{}' cannot be permitted: it is not a directory; permit the one that it is in, with --permit {}:{}",
                path.display(),
                above.display(),
                text.rsplit_once(':').map_or("read", |(_, permission)| permission)
            );
            return Err(CommandError::usage(text));
        }
        Ok(PermittedRoot { path, permission })
    };
    change.permit.iter().map(permit).collect()
}

fn list(profiles: &Profiles, json: bool) -> Result<(), CommandError> {
    let (list, errors) = profiles.list()?;
    if json {
        let named: Vec<_> = list.iter().map(|(name, profile)| named(name, profile)).collect();
        print_json(&named)?;
    } else if list.is_empty() && errors.is_empty() {
        say("no profiles; 'culvert profile add' or 'culvert profile approve' creates one")?;
    } else {
        for (name, profile) in list {
            let addresses =
                if profile.addresses.is_empty() { "no address".to_owned() } else { profile.addresses.join(", ") };
            say(&format!("{name:16}  {}  {addresses}", profile.key.fingerprint()))?;
        }
    }
    // An unreadable profile does not hide the others.
    let mut errors = errors.into_iter();
    let Some(first) = errors.next() else { return Ok(()) };
    for error in errors {
        say_aside!("culvert: {error}");
    }
    Err(first.into())
}

fn named<'a>(name: &'a str, profile: &'a Profile) -> Named<'a> {
    Named { name, fingerprint: profile.key.fingerprint(), words: profile.key.words(), profile }
}

fn show(profiles: &Profiles, name: &str, json: bool) -> Result<(), CommandError> {
    let profile = profiles.get(name)?;
    if json {
        return print_json(&named(name, &profile));
    }
    let mut lines = vec![
        format!("name         {name}"),
        format!("fingerprint  {}", profile.key.fingerprint()),
        format!("words        {}", profile.key.words()),
        format!("key          {}", profile.key),
    ];
    lines.extend(profile.addresses.iter().map(|address| format!("address      {address}")));
    for root in &profile.permit {
        let permission = match root.permission {
            culvert_model::profile::Permission::Read => "may read",
            culvert_model::profile::Permission::Write => "may write",
            culvert_model::profile::Permission::Both => "may read and write",
        };
        lines.push(format!("permit       {permission} {}", root.path.display()));
    }
    if profile.permit.is_empty() {
        lines.push(format!(
            "permit       nothing here: 'culvert profile edit {name} --permit PATH:read' (or :write) changes that"
        ));
    }
    lines.push(format!("file         {}", profiles.path(name).display()));
    say(&lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in the documentation was refused.
    #[test]
    fn an_address_without_a_port_gets_the_default_port() {
        let right = [
            ("dtn.example.org", "dtn.example.org:7272"),
            ("dtn.example.org:7273", "dtn.example.org:7273"),
            ("192.0.2.1", "192.0.2.1:7272"),
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("2001:db8::1", "[2001:db8::1]:7272"),
            ("::1", "[::1]:7272"),
            ("[::1]", "[::1]:7272"),
            ("[::1]:80", "[::1]:80"),
        ];
        for (typed, meant) in right {
            assert_eq!(address(typed).unwrap(), meant, "{typed}");
        }
        let wrong = [
            "",
            ":",
            ":7272",
            "host:",
            "host:port",
            "host:99999",
            "host:0",
            "[::1]:0",
            "[host]",
            "[host]:1",
            "[::1",
            "[::1]:",
            "a b",
            "a/b:1",
            "2001:db8:::7272",
            "::1:99999",
            "[[::1]]:1",
            "culvert://host:1",
        ];
        for typed in wrong {
            let error = address(typed).unwrap_err();
            assert!(error.exit_code == ExitCode::Usage as u8 && error.text.contains(&format!("'{typed}'")), "{typed}");
        }
    }
}
