//! Mail to people.

use std::sync::{Mutex, PoisonError};

use crate::Answer;

/// A message to one person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The address it goes to.
    pub to: String,
    /// One line, without line breaks.
    pub subject: String,
    /// Plain text.
    pub body: String,
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailError {
    /// No server is configured.
    #[error("no mail server is configured; set one with --smtp")]
    NotConfigured,
    /// The server refused this message or its recipient for good; trying again cannot help.
    #[error("the mail server refused the message: {0}")]
    Refused(String),
    /// The server does not let the portal in. That is a fault of the configuration, not of the
    /// message: it goes once that is mended.
    #[error("the mail server does not let the portal log in; check the user in --smtp and its password: {0}")]
    LoginRefused(String),
    /// The server could not be reached, was too slow, or asked to try later.
    #[error("the mail server did not take the message: {0}")]
    Unreachable(String),
}

/// Sends mail.
pub trait Mailer: Send + Sync + std::fmt::Debug {
    /// Hands a message to the mail server.
    ///
    /// # Errors
    /// [`MailError`].
    fn send(&self, mail: Mail) -> Answer<'_, Result<(), MailError>>;

    /// Whether a server is configured, so that links can be mailed at all.
    fn is_configured(&self) -> bool;
}

/// For a portal without a mail server.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMailer;

impl Mailer for NoMailer {
    fn send(&self, _mail: Mail) -> Answer<'_, Result<(), MailError>> {
        Box::pin(async { Err(MailError::NotConfigured) })
    }

    fn is_configured(&self) -> bool {
        false
    }
}

/// Keeps what was sent, for tests, and fails when told to.
#[derive(Debug, Default)]
pub struct MemoryMailer {
    sent: Mutex<Vec<Mail>>,
    failure: Mutex<Option<MailError>>,
}

impl MemoryMailer {
    /// What was sent so far.
    #[must_use]
    pub fn sent(&self) -> Vec<Mail> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets every message fail from now on, or none.
    pub fn fail_with(&self, failure: Option<MailError>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }
}

impl Mailer for MemoryMailer {
    fn send(&self, mail: Mail) -> Answer<'_, Result<(), MailError>> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let result = failure.map_or(Ok(()), Err);
        if result.is_ok() {
            self.sent.lock().unwrap_or_else(PoisonError::into_inner).push(mail);
        }
        Box::pin(async { result })
    }

    fn is_configured(&self) -> bool {
        true
    }
}
