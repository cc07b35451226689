//! Tokens and passwords: read from files, standard input or the terminal, never from the command
//! line, which everybody on this host can see.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;

use culvert_system::regular_file;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde::{Deserialize, Serialize};

use crate::exit::{CommandError, of_path};

/// What each API token begins with.
const TOKEN_PREFIX: &str = "culvert_pat_";
/// The characters after that.
const TOKEN_CHARACTERS: usize = 43;
/// The longest secret that is read, in bytes: passwords have at most 1,024 characters.
const BYTES_MAX: u64 = 4_096;

/// A secret, which no message shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text, for the request that needs it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// An API token as it stands in a text, which blanks may surround. `whose` names the text in
    /// the error.
    ///
    /// # Errors
    /// [`CommandError`] if the text is something else; it is not shown.
    pub fn of_token(text: &str, whose: &str) -> Result<Self, CommandError> {
        let token = text.trim();
        let rest = token.strip_prefix(TOKEN_PREFIX).unwrap_or_default();
        let is_token = rest.len() == TOKEN_CHARACTERS
            && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if is_token {
            return Ok(Self(token.to_owned()));
        }
        let text =
            format!("{whose} has no API token, which begins with {TOKEN_PREFIX}: 'culvert token create' makes one");
        Err(CommandError::usage(text))
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// The API token in a file.
///
/// # Errors
/// [`CommandError`].
pub fn token_of_file(path: &Path) -> Result<Secret, CommandError> {
    Secret::of_token(&text_of_file(path)?, &path.display().to_string())
}

/// The API token that comes on standard input.
///
/// # Errors
/// [`CommandError`].
pub fn token_of_standard_input() -> Result<Secret, CommandError> {
    let mut text = String::new();
    let read = io::stdin().lock().take(BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| CommandError::failed(format!("cannot read standard input: {error}")))?;
    Secret::of_token(&text, "standard input")
}

/// The password in a file: all but one line end.
///
/// # Errors
/// [`CommandError`].
pub fn password_of_file(path: &Path) -> Result<Secret, CommandError> {
    let text = text_of_file(path)?;
    let password = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if password.is_empty() {
        return Err(CommandError::usage(format!("{} is empty: it must have the password", path.display())));
    }
    Ok(Secret(password.to_owned()))
}

/// Asks on the terminal for something that is not shown while it is typed. `instead` says how it is
/// given without a terminal.
///
/// # Errors
/// [`CommandError`] without a terminal.
pub async fn ask(question: &str, instead: &str) -> Result<Secret, CommandError> {
    let terminal = File::options().read(true).write(true).open("/dev/tty");
    let terminal = terminal.map_err(|_| CommandError::usage(format!("there is no terminal to ask on: {instead}")))?;
    let broken = |error: io::Error| CommandError::failed(format!("cannot ask on the terminal: {error}"));
    // Held by this function and not by the thread that reads: when it is interrupted, it ends here.
    let _silence = Silence::of(&terminal).map_err(broken)?;
    let mut reader = terminal.try_clone().map_err(broken)?;
    let question = question.to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        write!(reader, "{question}: ")?;
        let mut line = String::new();
        BufReader::new((&reader).take(BYTES_MAX)).read_line(&mut line)?;
        writeln!(reader)?;
        Ok::<_, io::Error>(line)
    });
    let line = asked.await.map_err(CommandError::failed)?.map_err(broken)?;
    let typed = line.trim_end_matches(['\n', '\r']);
    if typed.is_empty() { Err(CommandError::usage("nothing was typed")) } else { Ok(Secret(typed.to_owned())) }
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silence {
    terminal: File,
    before: Termios,
}

impl Silence {
    fn of(terminal: &File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal: terminal.try_clone()?, before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // Nothing can be done if the terminal has gone.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

fn text_of_file(path: &Path) -> Result<String, CommandError> {
    regular_file::read_named(path, BYTES_MAX, |line| say_aside!("culvert: {line}")).map_err(|error| {
        let text = format!("cannot read {}: {error}", path.display());
        CommandError::new(of_path(&error.into()), text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> String {
        format!("{TOKEN_PREFIX}{}", "aZ0_-".repeat(9).chars().take(TOKEN_CHARACTERS).collect::<String>())
    }

    #[test]
    fn a_token_is_found_between_blanks_and_nothing_else_is_one() {
        for text in [token(), format!("{}\n", token()), format!(" {}\r\n", token())] {
            assert_eq!(Secret::of_token(&text, "x").unwrap().text(), token());
        }
        for text in
            ["", "\n", "culvert_pat_", "culvert_ses_hidden", &format!("{}x", token()), &token().replace('Z', " ")]
        {
            let error = Secret::of_token(text, "the file x").unwrap_err();
            assert!(error.text.starts_with("the file x has no API token") && !error.text.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn no_message_shows_a_secret() {
        let secret = Secret::of_token(&token(), "x").unwrap();
        assert!(!format!("{secret:?}").contains(TOKEN_PREFIX));
    }

    #[test]
    fn one_line_end_is_not_of_the_password() {
        let room = tempfile::tempdir().unwrap();
        for (content, password) in
            [("x", "x"), ("x\n", "x"), ("x\r\n", "x"), ("x \n", "x "), (" x\n\n", " x\n"), ("x\r", "x\r")]
        {
            let path = room.path().join("password");
            std::fs::write(&path, content).unwrap();
            assert_eq!(password_of_file(&path).unwrap().text(), password);
        }
        for empty in ["", "\n", "\r\n"] {
            let path = room.path().join("empty");
            std::fs::write(&path, empty).unwrap();
            assert!(password_of_file(&path).is_err());
        }
        assert_eq!(password_of_file(&room.path().join("none")).unwrap_err().exit_code, 3);
    }
}
