//! What a mailer is told: which server, as whom, how long to wait.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::authorities::TlsSetupError;

/// Which server takes mail, and from whom it comes.
#[derive(Clone)]
pub struct SmtpSettings {
    /// `smtp://[user[:password]@]host[:port]` with STARTTLS, which the server must offer;
    /// `smtps://…` with TLS from the start; `smtp+plain://…` without, to this host only. The ports
    /// are 587, 465 and 25 unless named. User and password are percent-encoded.
    pub url: String,
    /// A file with the password of the user in the URL, instead of one there. One line end behind
    /// it is not part of it.
    pub password_file: Option<PathBuf>,
    /// Where mail comes from: `noreply@example.org` or `Example <noreply@example.org>`.
    pub from: String,
    /// A PEM file of certificate authorities to trust besides the system's.
    pub extra_ca: Option<PathBuf>,
    /// How long to wait.
    pub timeouts: SmtpTimeouts,
}

impl fmt::Debug for SmtpSettings {
    /// Without the URL, which may have a password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SmtpSettings")
            .field("password_file", &self.password_file)
            .field("from", &self.from)
            .field("extra_ca", &self.extra_ca)
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

/// How long a mailer waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmtpTimeouts {
    /// For the server's address and a connection to it.
    pub connect: Duration,
    /// For the answer to each command.
    pub command: Duration,
    /// For a whole message.
    pub total: Duration,
}

impl Default for SmtpTimeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), command: Duration::from_secs(15), total: Duration::from_secs(30) }
    }
}

/// Why there can be no mailer.
///
/// No message has anything of the URL that could belong to a password.
#[derive(Debug, thiserror::Error)]
pub enum SmtpSetupError {
    /// The URL is not one of a mail server.
    #[error("the URL of the mail server cannot be used: {reason}; it must be like smtp://user@mail.example.org:587")]
    BadUrl {
        /// What is wrong with it.
        reason: String,
    },
    /// The sender is not an address.
    #[error("the sender's address cannot be used: {reason}")]
    BadFrom {
        /// What is wrong with it.
        reason: String,
    },
    /// The password is not to be had.
    #[error("the password of the mail server in {} cannot be used: {reason}", path.display())]
    BadPasswordFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no TLS, with which the server could be known.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
}
