//! What became of a step, in the portal's words.
//!
//! A server's words are shown, since they say most, but not all of them: it was given a password,
//! and some repeat what they were given.

use std::error::Error as StdError;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use culvert_portal_seams::mail::MailError;
use lettre::transport::smtp;

use super::server::Login;

/// The step by which the portal says who it is.
pub(super) const LOGIN: &str = "the login";
/// Answers to any step that are about who sends (RFC 4954, section 6).
const NEEDS_LOGIN: [u16; 4] = [530, 534, 535, 538];
/// The most letters of a server that are shown.
const LETTERS_MAX: usize = 300;

/// Turns what happened into errors.
pub(super) struct Answers {
    host: String,
    /// What no message may contain.
    secrets: Vec<String>,
}

impl Answers {
    /// For a server, and a login to it.
    pub(super) fn new(host: &str, login: Option<&Login>) -> Self {
        let secrets = login.map(|Login { user, password }| {
            let sent = format!("\0{user}\0{password}");
            vec![password.clone(), STANDARD.encode(password), STANDARD.encode(sent)]
        });
        Self { host: host.to_owned(), secrets: secrets.unwrap_or_default() }
    }

    /// After an answer that is not positive, or none.
    pub(super) fn negative(&self, step: &str, error: &smtp::Error) -> MailError {
        let Some(code) = error.status() else { return self.failure(step, error) };
        let words = error.source().map(ToString::to_string).unwrap_or_default();
        let told = format!("{} answered {step} with {code} {}", self.host, self.cleaned(&words));
        let is_about_login = step == LOGIN || NEEDS_LOGIN.contains(&u16::from(code));
        match (error.is_permanent(), is_about_login) {
            (true, true) => MailError::LoginRefused(told),
            (true, false) => MailError::Refused(told),
            (false, _) => MailError::Unreachable(told),
        }
    }

    /// After something that is not an answer.
    pub(super) fn failure(&self, step: &str, error: &(dyn StdError + 'static)) -> MailError {
        let mut error = error;
        while let Some(source) = error.source() {
            error = source;
        }
        MailError::Unreachable(format!("{}: {step}: {}", self.host, self.cleaned(&error.to_string())))
    }

    /// After a time without an answer.
    pub(super) fn late(&self, step: &str, limit: Duration) -> MailError {
        MailError::Unreachable(format!("{}: {step}: no answer within {:.1} s", self.host, limit.as_secs_f64()))
    }

    /// For a server that cannot be used as it is.
    pub(super) fn unusable(&self, reason: &str) -> MailError {
        MailError::Unreachable(format!("{}: {reason}", self.host))
    }

    /// For a message that this server never takes.
    pub(super) fn refusal(&self, reason: &str) -> MailError {
        MailError::Refused(format!("{}: {reason}", self.host))
    }

    /// Words from outside, short, on one line, without secrets.
    fn cleaned(&self, words: &str) -> String {
        if self.secrets.iter().any(|secret| words.contains(secret)) {
            return "(its words are withheld: they repeat the login)".to_owned();
        }
        let words: String = words.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        match words.char_indices().nth(LETTERS_MAX) {
            Some((end, _)) => format!("{}…", &words[..end]),
            None => words.trim().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_from_outside_are_short_and_have_no_secrets() {
        let login = Login { user: "ada".to_owned(), password: "hunter2".to_owned() };
        let answers = Answers::new("mail.example.org", Some(&login));
        assert_eq!(answers.cleaned("5.1.1 no\r\n such\u{1b}[31m user "), "5.1.1 no   such [31m user");
        assert!(answers.cleaned(&"\u{fc}".repeat(1_000)).chars().count() <= LETTERS_MAX + 1);
        for words in ["wrong: hunter2", "wrong: aHVudGVyMg==", "AUTH PLAIN AGFkYQBodW50ZXIy"] {
            assert!(answers.cleaned(words).contains("withheld"), "{words}");
        }
    }
}
