//! Publishes to a perfSONAR archive: documents in the form that its Logstash pipeline parses, a
//! bounded spool on disk, and delivery in order.

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
    /// The URL that documents are put to.
    pub url: String,
    /// User and password.
    pub login: Option<(String, String)>,
    /// This node's name, for the pipeline (`x-ps-observer`).
    pub observer: String,
    /// The client that reaches it.
    pub http: Client,
}

/// Why a document was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// HTTP.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The archive rejects this document; another attempt would not help.
    #[error("the archive rejects the document ({status}): {text}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The archive's message.
        text: String,
    },
    /// The archive refuses at present, or refuses this node.
    #[error("the archive accepts nothing at present ({status}): {text}")]
    Unavailable {
        /// The HTTP status.
        status: u16,
        /// The archive's message.
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
            // These statuses blame the document itself.
            400 | 413 | 415 | 422 => Err(DeliveryError::Refused { status, text }),
            _ => Err(DeliveryError::Unavailable { status, text }),
        }
    }

    /// Delivers waiting documents, the oldest first, until none is left or one fails. Returns the
    /// number delivered, and the error. A document that the archive rejects permanently is dropped
    /// and counted, so that it does not block the others.
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
