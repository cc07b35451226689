//! What an administrator sets while the portal runs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::whole_number;

/// Who may make an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// Nobody: administrators make accounts.
    Closed,
    /// Who has an invitation.
    Invitation,
    /// Everybody; an administrator approves each.
    Approval,
}

/// The settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Who may make an account.
    pub registration: Registration,
    /// A session that is not used for so long ends, in seconds.
    #[schema(minimum = 60, maximum = 2_592_000)]
    #[serde(deserialize_with = "whole_number::of_json")]
    pub session_idle_seconds: u32,
    /// A session ends after so long however much it is used, in seconds.
    #[schema(minimum = 300, maximum = 7_776_000)]
    #[serde(deserialize_with = "whole_number::of_json")]
    pub session_absolute_seconds: u32,
    /// A proof of who one is counts for so long, in seconds.
    #[schema(minimum = 60, maximum = 86_400)]
    #[serde(deserialize_with = "whole_number::of_json")]
    pub step_up_seconds: u32,
    /// Whether administrators and operators must have a second factor.
    pub second_factor_for_staff: bool,
    /// A token lives for at most so many days.
    #[schema(minimum = 1, maximum = 3_650)]
    #[serde(deserialize_with = "whole_number::of_json")]
    pub token_days_max: u32,
    /// Whether webhooks may go to addresses inside the network, and by `http:`.
    #[serde(default)]
    pub webhooks_inside: bool,
    /// A message that every page shows; empty for none.
    #[schema(max_length = 1_000)]
    pub notice: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            registration: Registration::Closed,
            session_idle_seconds: 30 * 60,
            session_absolute_seconds: 12 * 3600,
            step_up_seconds: 15 * 60,
            second_factor_for_staff: false,
            token_days_max: 365,
            webhooks_inside: false,
            notice: String::new(),
        }
    }
}

impl Settings {
    /// The first field whose value is not permitted, and a sentence.
    #[must_use]
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let range = |name: &'static str, value: u32, least: u32, most: u32| {
            let outside = value < least || value > most;
            outside.then(|| (name, format!("{name} is {value}; it must be {least} to {most}")))
        };
        range("session_idle_seconds", self.session_idle_seconds, 60, 2_592_000)
            .or_else(|| range("session_absolute_seconds", self.session_absolute_seconds, 300, 7_776_000))
            .or_else(|| range("step_up_seconds", self.step_up_seconds, 60, 86_400))
            .or_else(|| range("token_days_max", self.token_days_max, 1, 3_650))
            .or_else(|| {
                let characters = self.notice.chars().count();
                let fault = || format!("notice has {characters} characters; at most 1000 are permitted");
                (characters > 1_000).then(|| ("notice", fault()))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_permitted_and_what_is_outside_is_named() {
        assert_eq!(Settings::default().fault(), None);
        let fault = Settings { step_up_seconds: 59, ..Settings::default() }.fault().unwrap();
        assert_eq!(fault, ("step_up_seconds", "step_up_seconds is 59; it must be 60 to 86400".to_owned()));
        let fault = Settings { notice: "x".repeat(1_001), ..Settings::default() }.fault();
        assert!(fault.is_some_and(|(field, _)| field == "notice"));
    }
}
