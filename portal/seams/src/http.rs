//! HTTP requests of the portal to other services: identity providers and webhooks.
//!
//! The addresses come from people, so whoever sends must not become their way into a network that
//! only the portal's host reaches: see [`Reach`].

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::Answer;

/// Which addresses a request may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Public addresses only: no loopback, private, link-local, multicast or otherwise reserved
    /// one. For what people enter.
    Public,
    /// Any address. For what an administrator has entered, and allowed to be inside.
    Inside,
}

/// A request. Redirects are never followed: a `Location` would choose another address.
#[derive(Debug, Clone)]
pub struct OutRequest {
    /// `GET`, `POST`, …
    pub method: String,
    /// An absolute `https:` URL; `http:` is for [`Reach::Inside`] only.
    pub url: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The content.
    pub body: Vec<u8>,
    /// Which addresses it may go to.
    pub reach: Reach,
    /// How long the whole exchange may take.
    pub timeout: Duration,
    /// The largest answer that is read, in bytes.
    pub answer_bytes_max: usize,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutResponse {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The content.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutError {
    /// The URL is not one that may be asked.
    #[error("'{url}' cannot be used: {reason}")]
    BadUrl {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The name leads to an address that the request may not go to.
    #[error("{host} leads to {address}, which is not a public address")]
    Forbidden {
        /// The host's name.
        host: String,
        /// The address.
        address: String,
    },
    /// No connection, no name, no TLS, or cut off.
    #[error("{host} cannot be reached: {reason}")]
    Unreachable {
        /// The host's name.
        host: String,
        /// What happened.
        reason: String,
    },
    /// It took longer than it may.
    #[error("{host} did not answer within {seconds} s")]
    Timeout {
        /// The host's name.
        host: String,
        /// The limit.
        seconds: u64,
    },
    /// The answer is larger than it may be.
    #[error("the answer of {host} is larger than {bytes_max} bytes")]
    TooLarge {
        /// The host's name.
        host: String,
        /// The limit.
        bytes_max: usize,
    },
}

/// Sends requests.
pub trait HttpOut: Send + Sync + std::fmt::Debug {
    /// Whether a URL may be asked, as far as can be told without looking up its name.
    ///
    /// # Errors
    /// [`OutError::BadUrl`] or [`OutError::Forbidden`].
    fn check(&self, url: &str, reach: Reach) -> Result<(), OutError>;

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// [`OutError`]. A status of 400 and above is an answer, not an error.
    fn send(&self, request: OutRequest) -> Answer<'_, Result<OutResponse, OutError>>;
}

/// Answers from a list, for tests, and keeps what was asked.
#[derive(Debug, Default)]
pub struct ScriptedHttp {
    answers: Mutex<VecDeque<Result<OutResponse, OutError>>>,
    asked: Mutex<Vec<OutRequest>>,
}

impl ScriptedHttp {
    /// Puts an answer behind those that wait.
    pub fn answer(&self, answer: Result<OutResponse, OutError>) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push_back(answer);
    }

    /// What was asked so far.
    #[must_use]
    pub fn asked(&self) -> Vec<OutRequest> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl HttpOut for ScriptedHttp {
    /// Takes every URL that begins as one.
    fn check(&self, url: &str, _reach: Reach) -> Result<(), OutError> {
        let bad = || OutError::BadUrl { url: url.to_owned(), reason: "it must begin with https://".to_owned() };
        if url.starts_with("https://") || url.starts_with("http://") { Ok(()) } else { Err(bad()) }
    }

    fn send(&self, request: OutRequest) -> Answer<'_, Result<OutResponse, OutError>> {
        let host = request.url.clone();
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        let answer = self.answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let none = || OutError::Unreachable { host, reason: "the test has no further answer".to_owned() };
        Box::pin(async move { answer.unwrap_or_else(|| Err(none())) })
    }
}
