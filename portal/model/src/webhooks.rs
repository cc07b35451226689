//! Webhooks: where events are sent, and what became of each.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::Id;

/// Where events are sent, without the secret that they are signed with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Names it.
    pub id: Id,
    /// Whose it is.
    pub owner: Id,
    /// Where it goes: an `https:` URL.
    pub url: String,
    /// What it is for.
    pub description: String,
    /// Which events: their kinds, or `*` for all.
    pub events: Vec<String>,
    /// Whether it is in use.
    pub enabled: bool,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Counts changes; the `ETag` is made of it.
    pub version: i64,
}

/// A webhook with its secret: the only time that it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewWebhook {
    /// The webhook.
    pub webhook: Webhook,
    /// What deliveries are signed with, as Standard Webhooks has it: `whsec_` and Base64.
    pub secret: String,
}

/// What became of an event on its way to a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// Waits for its first or next attempt.
    Waiting,
    /// The receiver answered with 2xx.
    Delivered,
    /// All attempts failed; it goes again only when somebody asks for it.
    Dead,
}

impl DeliveryState {
    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    /// The state with that word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Waiting, Self::Delivered, Self::Dead].into_iter().find(|state| state.word() == word)
    }
}

/// An event on its way to a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// Names it; sent as `webhook-id`, by which the receiver knows repetitions.
    pub id: Id,
    /// The webhook.
    pub webhook: Id,
    /// The event's kind.
    pub event: String,
    /// What became of it.
    pub state: DeliveryState,
    /// Attempts so far.
    pub attempts: i64,
    /// When it goes next.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_at: Option<Timestamp>,
    /// When it was last tried.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub tried_at: Option<Timestamp>,
    /// The status of the last answer.
    pub status: Option<i64>,
    /// What was wrong at the last attempt.
    pub fault: Option<String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}
