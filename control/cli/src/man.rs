//! Man pages: the definitions of the command line, and what a manual needs in addition.

mod configuration;
mod examples;

use std::path::Path;
use std::{fs, io};

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use culvert_model::exit_code::ExitCode;
use culvert_node::settings::SECTIONS;

/// When this version's pages were last changed. Not the day of the build: the same source makes the
/// same pages.
const DATE: &str = "2026-11-30";
const MANUAL: &str = "Culvert Manual";

/// Files of every command.
const FILES: &[(&str, &str)] = &[
    ("/etc/culvert/culvert.toml", "Settings of the system's node, see culvert.toml(5)."),
    ("$XDG_CONFIG_HOME/culvert/culvert.toml", "Settings of a user, read instead of the system's."),
    (
        "/var/lib/culvert",
        "State of the system's node: key, partners, records, receipts. Node commands run by root use it.",
    ),
    ("$XDG_STATE_HOME/culvert", "State of a user; ~/.local/state/culvert if the variable is not set."),
    ("portals.json", "In the state directory: the portals that one is logged in to, with their tokens."),
];

/// Writes a page for each command that is not hidden, and one for the configuration.
///
/// # Errors
/// The operating system's.
pub fn write_all(command: Command, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    write(&command, directory)?;
    fs::write(directory.join("culvert.toml.5"), tidy(&configuration::page(DATE, MANUAL, SECTIONS)?))
}

fn write(command: &Command, directory: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write(subcommand, directory)?;
    }
    let man = Man::new(command.clone()).date(DATE).manual(MANUAL);
    fs::write(directory.join(man.get_filename()), tidy(&page(&man, command)?))
}

fn page(man: &Man, command: &Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.get_subcommands().any(|command| !command.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let mut rest = Roff::default();
    if let Some(notes) = command.get_after_help() {
        rest.control("SH", ["NOTES"]);
        preformatted(&mut rest, notes.to_string().lines());
    }
    list(&mut rest, "EXIT STATUS", ExitCode::ALL.iter().map(|&code| ((code as u8).to_string(), exit_status(code))));
    list(&mut rest, "FILES", FILES.iter().map(|&(file, what)| (file.to_owned(), what.to_owned())));
    let examples = examples::of(name);
    if !examples.is_empty() {
        rest.control("SH", ["EXAMPLES"]);
        for (what, typed) in examples {
            rest.control("PP", []);
            rest.text([roman(format!("{what}:"))]);
            rest.control("RS", ["4"]);
            preformatted(&mut rest, [*typed]);
            rest.control("RE", []);
        }
    }
    rest.control("SH", ["SEE ALSO"]);
    let others = see_also(name);
    rest.text([roman(others.join(", "))]);
    rest.to_writer(&mut page)?;
    Ok(page)
}

/// The page above this one, and the settings.
fn see_also(name: &str) -> Vec<String> {
    let above = name.rsplit_once('-').map(|(above, _)| format!("{above}(1)"));
    above.into_iter().chain(["culvert.toml(5)".to_owned()]).collect()
}

/// What an exit code means, and what to do about it, as sentences without marks.
fn exit_status(code: ExitCode) -> String {
    let mut text = String::new();
    for sentence in [code.meaning(), code.remedy()].into_iter().filter(|sentence| !sentence.is_empty()) {
        let mut characters = sentence.chars().filter(|&character| character != '`');
        let begin = if text.is_empty() { "" } else { " " };
        text.push_str(begin);
        text.extend(characters.next().into_iter().flat_map(char::to_uppercase));
        text.extend(characters);
        text.push('.');
    }
    text
}

fn list(page: &mut Roff, heading: &str, entries: impl IntoIterator<Item = (String, String)>) {
    page.control("SH", [heading]);
    for (term, text) in entries {
        page.control("TP", []);
        page.text([bold(term)]);
        page.text([roman(text)]);
    }
}

fn preformatted<'a>(page: &mut Roff, lines: impl IntoIterator<Item = &'a str>) {
    page.control("nf", []);
    for line in lines {
        page.text([roman(line)]);
    }
    page.control("fi", []);
}

/// Without vertical space where there is some already, and without spaces at a line's end.
fn tidy(page: &[u8]) -> Vec<u8> {
    const SPACE: [&str; 3] = [".PP", ".sp", ".br"];
    let text = String::from_utf8_lossy(page);
    let mut tidied: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim_end).map(|line| if line.is_empty() { ".sp" } else { line }) {
        let follows_space = tidied.last().is_some_and(|last| {
            SPACE.contains(last) || [".SH", ".SS", ".RS"].iter().any(|heading| last.starts_with(heading))
        });
        if !(follows_space && SPACE.contains(&line)) {
            tidied.push(line);
        }
    }
    (tidied.join("\n") + "\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::args::Cli;

    #[test]
    fn examples_are_commands_that_there_are() {
        let mut command = Cli::command();
        command.build();
        let mut names = vec![];
        collect(&command, &mut names);
        for (name, examples) in examples::ALL {
            assert!(names.contains(&(*name).to_owned()), "{name}");
            for (_, typed) in *examples {
                let command = typed.split(" | ").next().unwrap().split(" > ").next().unwrap();
                let words: Vec<&str> = command.split_whitespace().collect();
                // What may stand before it is sudo, and the account.
                let begin = words.iter().rposition(|word| *word == "culvert").unwrap();
                assert!(Cli::try_parse_from(&words[begin..]).is_ok(), "{typed}");
            }
        }
    }

    fn collect(command: &Command, names: &mut Vec<String>) {
        names.push(command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned());
        command.get_subcommands().for_each(|command| collect(command, names));
    }
}
