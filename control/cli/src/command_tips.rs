//! Tips for users of scp and rsync: Culvert's equivalents of their options and commands.
//!
//! They are shown with errors of the command line. Culvert never gives an option the meaning that
//! it has elsewhere: `-p` is a port in one program and preserves modes in another.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::Command;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use culvert_protocol::foreign_text::plain_lines;

/// Options of scp and rsync, and their equivalents.
const OPTIONS: &[(&[&str], &str)] = &[
    (&["-r", "-R", "--recursive"], "directories are always copied whole; leave it out"),
    (
        &["-a", "-p", "-t", "--archive", "--perms", "--times"],
        "'--preserve' keeps modes exactly; times of files are always kept",
    ),
    (&["-n"], "'--dry-run' transfers nothing and shows what would happen; '--dry-run -v' lists every file"),
    (&["-i"], "write --ssh 'ssh -i KEY'; a host's key may also be in ssh's configuration"),
    (&["-e", "-o", "-F", "-J", "--rsh"], "put options of ssh into its command, for example --ssh 'ssh -o OPTION'"),
    (&["-l", "--bwlimit"], "'--rate RATE' limits the rate, in bits per second: '--rate 1G'"),
    (&["-z", "-C", "--compress"], "there is no compression; leave it out"),
    (&["-u", "--update"], "'--overwrite changed' replaces files that differ in size or time"),
    (&["-c"], "'--overwrite content' compares files by their checksums"),
    (
        &["-P", "--partial", "--progress"],
        "leave it out: progress is shown on a terminal, and running the same command again resumes a transfer",
    ),
    (
        &["--exclude", "--include"],
        "Culvert has no --exclude and no --include: every file of a source is sent; name the files and directories to send",
    ),
    (&["--files-from"], "Culvert has no --files-from: name the sources on the command line"),
    (&["--delete"], "Culvert has no --delete: it never removes files at the destination"),
];
/// Options that set a port if a number follows.
const PORT_OPTIONS: &[&str] = &["-P", "-p", "--port"];
const PORT: &str = "give the port of sshd in the address: ssh://HOST:PORT/PATH";
/// Options whose value may follow in the same argument.
const WITH_VALUE: &[char] = &['P', 'p', 'i', 'e', 'o', 'F', 'J', 'l'];

/// Commands of other programs, and the equivalent here; `None` for those that copy in either
/// direction.
const COMMANDS: &[(&str, Option<&str>)] = &[
    ("cp", None),
    ("copy", None),
    ("scp", None),
    ("rsync", None),
    ("push", Some("send")),
    ("put", Some("send")),
    ("upload", Some("send")),
    ("pull", Some("get")),
    ("fetch", Some("get")),
    ("download", Some("get")),
];

/// Adds tips to an error of the command line, and removes those that name a hidden command.
#[must_use]
pub fn with_tips(mut error: Error, command: &Command, arguments: &[OsString]) -> Error {
    hide_hidden(&mut error, command);
    let tips = match error.kind() {
        ErrorKind::UnknownArgument => tips_for_options(command, arguments),
        ErrorKind::InvalidSubcommand if context(&error, ContextKind::InvalidSubcommand) == first(arguments) => {
            tips_for_command(arguments, error.get(ContextKind::SuggestedSubcommand).is_some())
        }
        _ => Vec::new(),
    };
    if !tips.is_empty() {
        // Suggestions by similar spelling would mislead.
        for kind in [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg] {
            error.remove(kind);
        }
        let tips = tips.into_iter().map(|tip| StyledStr::from(plain_lines(&tip).to_string())).collect();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    error
}

/// Whether a path was probably meant to be on another host and lacks the colon.
#[must_use]
pub fn lacks_colon(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let names_user = text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty());
    names_user && !text.contains(['/', ':']) && path.symlink_metadata().is_err()
}

fn context(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    }
}

fn hide_hidden(error: &mut Error, command: &Command) {
    let is_hidden = |name: &str| command.find_subcommand(name).is_some_and(Command::is_hide_set);
    let names_hidden = |text: &str| text.split(|c: char| !(c.is_alphanumeric() || c == '-')).any(is_hidden);
    match error.remove(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::String(name)) if is_hidden(&name) => {}
        Some(ContextValue::Strings(mut names)) => {
            names.retain(|name| !is_hidden(name));
            if !names.is_empty() {
                error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(names));
            }
        }
        Some(other) => drop(error.insert(ContextKind::SuggestedSubcommand, other)),
        None => {}
    }
    if let Some(ContextValue::StyledStrs(mut tips)) = error.remove(ContextKind::Suggested) {
        tips.retain(|tip| !names_hidden(&tip.to_string()));
        if !tips.is_empty() {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
        }
    }
}

/// The arguments that are neither options nor values of global options.
fn operands(arguments: &[OsString]) -> Vec<&OsStr> {
    let mut found = Vec::new();
    let mut is_value = false;
    for argument in arguments {
        if !std::mem::take(&mut is_value) && !argument.as_encoded_bytes().starts_with(b"-") {
            found.push(argument.as_os_str());
        }
        is_value = argument == "--state" || argument == "--config";
    }
    found
}

fn first(arguments: &[OsString]) -> Option<String> {
    operands(arguments).first().map(|word| word.to_string_lossy().into_owned())
}

/// Whether it is a path on a partner.
fn is_remote(path: &OsStr) -> bool {
    let bytes = path.as_encoded_bytes();
    let end = bytes.iter().position(|byte| b":/".contains(byte));
    end.is_some_and(|end| bytes[end] == b':')
}

fn tips_for_options(command: &Command, arguments: &[OsString]) -> Vec<String> {
    let words = operands(arguments);
    let name = words.first().and_then(|word| word.to_str()).unwrap_or_default();
    let mut tips = Vec::new();
    let copies = match name {
        "send" | "get" => true,
        "transfer" => words.get(1).is_some_and(|action| *action == "submit"),
        _ => command.find_subcommand(name).is_none(),
    };
    if !copies {
        return tips;
    }
    let typed: Vec<_> =
        arguments.iter().take_while(|argument| *argument != "--").map(|a| a.to_string_lossy()).collect();
    for (at, argument) in typed.iter().enumerate() {
        let next = typed.get(at + 1).map_or("", |next| next);
        for (option, tip) in foreign_options_in(argument, next) {
            let text = format!("'{option}': {tip}");
            if !tips.iter().any(|known: &String| known.ends_with(tip)) {
                tips.push(text);
            }
        }
    }
    let is_named = words.iter().any(|word| command.find_subcommand(word).is_some());
    if !tips.is_empty() && !is_named {
        tips.extend(tip_for_paths(&words, true));
    }
    tips
}

/// The known foreign options in one argument: a long option, or combined short ones.
fn foreign_options_in(argument: &str, next: &str) -> Vec<(String, &'static str)> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let tip = |option: &str, value: &str| {
        if PORT_OPTIONS.contains(&option) && is_number(value) {
            return Some(PORT);
        }
        OPTIONS.iter().find(|(options, _)| options.contains(&option)).map(|(_, tip)| *tip)
    };
    if argument.starts_with("--") {
        let (option, value) = argument.split_once('=').unwrap_or((argument, next));
        return tip(option, value).map(|tip| (option.to_owned(), tip)).into_iter().collect();
    }
    let Some(letters) = argument.strip_prefix('-') else { return Vec::new() };
    let mut found = Vec::new();
    for (at, letter) in letters.char_indices() {
        let rest = &letters[at + letter.len_utf8()..];
        let option = format!("-{letter}");
        if let Some(tip) = tip(&option, if rest.is_empty() { next } else { rest }) {
            found.push((option, tip));
            let is_flag = rest.starts_with(|letter: char| letter.is_ascii_alphabetic()) && "Ppl".contains(letter);
            if WITH_VALUE.contains(&letter) && !is_flag {
                break;
            }
        }
    }
    found
}

/// Tips for an unknown command. `is_misspelled`: a command of Culvert has a similar name.
fn tips_for_command(arguments: &[OsString], is_misspelled: bool) -> Vec<String> {
    let words = operands(arguments);
    let Some((name, paths)) = words.split_first() else { return Vec::new() };
    let known = COMMANDS.iter().find(|(known, _)| name == known);
    if is_misspelled && known.is_none() && !is_remote(name) && Path::new(name).symlink_metadata().is_err() {
        // If the paths show the direction, the command follows from it.
        let instead = |command| format!("write '{command}' instead of '{}'", name.to_string_lossy());
        return direction(paths).map(instead).into_iter().collect();
    }
    let Some((name, command)) = known else {
        return tip_for_paths(&words, words.len() < arguments.len()).into_iter().collect();
    };
    let command = command.unwrap_or_else(|| direction(paths).unwrap_or("send"));
    vec![format!("'culvert {command}' does that: write '{command}' instead of '{name}'")]
}

/// The command that copies between these paths.
fn direction(paths: &[&OsStr]) -> Option<&'static str> {
    let (last, sources) = paths.split_last()?;
    match (sources.iter().any(|path| is_remote(path)), is_remote(last)) {
        (false, true) => Some("send"),
        (true, false) => Some("get"),
        _ => None,
    }
}

/// The tip for paths without a command.
fn tip_for_paths(paths: &[&OsStr], has_options: bool) -> Option<String> {
    let [first, .., last] = paths else { return None };
    if let Some(command) = direction(paths) {
        if has_options {
            return Some(format!("did you mean 'culvert {command}'? Write '{command}' before the paths"));
        }
        let typed: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
        return Some(format!("did you mean 'culvert {command} {}'?", typed.join(" ")));
    }
    if is_remote(first) || Path::new(first).symlink_metadata().is_err() {
        return None;
    }
    let shown = last.to_string_lossy();
    if lacks_colon(Path::new(last)) {
        return Some(format!("for a path on another host write 'culvert send' first, and {shown}: with its colon"));
    }
    Some("'culvert send' copies to another host; for copies on this host use cp".to_owned())
}
