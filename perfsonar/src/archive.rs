//! Publishing: documents of the shape that perfSONAR's Logstash pipeline takes apart, a bounded
//! spool on disk, and delivery in order.

pub mod document;
pub mod spool;

use std::time::Duration;

use base64::Engine as _;
use hyper::Method;

use crate::http::{Client, HttpError};
use spool::Spool;

/// The first pause after a failed delivery; each further one is twice as long.
pub const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(300);

/// An archive.
#[derive(Clone, Debug)]
pub struct Archive {
    /// Where documents are put.
    pub url: String,
    /// User and password.
    pub login: Option<(String, String)>,
    /// Who observes, for the pipeline.
    pub observer: String,
    /// How it is reached.
    pub http: Client,
}

/// A document that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// HTTP.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The archive refuses this one; another try would not help.
    #[error("the archive rejects the document ({status}): {text}")]
    Refused {
        /// How.
        status: u16,
        /// In its words.
        text: String,
    },
    /// The archive refuses at present, or refuses this node.
    #[error("the archive accepts nothing at present ({status}): {text}")]
    Unavailable {
        /// How.
        status: u16,
        /// In its words.
        text: String,
    },
}

impl Archive {
    /// Delivers one document.
    ///
    /// # Errors
    /// [`DeliveryError`].
    pub async fn deliver(&self, document: Vec<u8>) -> Result<(), DeliveryError> {
        let mut headers =
            vec![("content-type", "application/json".to_owned()), ("x-ps-observer", self.observer.clone())];
        if let Some((user, password)) = &self.login {
            let login = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            headers.push(("authorization", format!("Basic {login}")));
        }
        let answer = self.http.request(Method::PUT, &self.url, &headers, document, Duration::ZERO).await?;
        let (status, text) = (answer.status.as_u16(), answer.text());
        match status {
            200..300 => Ok(()),
            // Of these the document itself is the cause.
            400 | 413 | 415 | 422 => Err(DeliveryError::Refused { status, text }),
            _ => Err(DeliveryError::Unavailable { status, text }),
        }
    }

    /// Delivers waiting documents, the oldest first, until none is left or something fails. Returns
    /// how many were accepted, and what failed. A document that the archive rejects permanently is
    /// dropped and counted, so that it does not block the others.
    pub async fn drain(&self, spool: &Spool) -> (u64, Option<DeliveryError>) {
        let mut delivered = 0;
        loop {
            let (name, document) = match spool.oldest() {
                Ok(Some(oldest)) => oldest,
                Ok(None) => return (delivered, None),
                Err(error) => {
                    return (delivered, Some(DeliveryError::Unavailable { status: 0, text: error.to_string() }));
                }
            };
            match self.deliver(document).await {
                Ok(()) => {
                    delivered += 1;
                    spool.remove(&name);
                }
                Err(DeliveryError::Refused { status, text }) => {
                    spool.drop_document(&name);
                    return (delivered, Some(DeliveryError::Refused { status, text }));
                }
                Err(error) => return (delivered, Some(error)),
            }
        }
    }
}
