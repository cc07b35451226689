//! Why five fields are not understood.

/// Why five fields are not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronFault {
    /// A nickname.
    #[error("'{0}' is not known here; write the five fields: minute, hour, day of the month, month, day of the week")]
    Nickname(String),
    /// Not five fields.
    #[error(
        "there must be five fields (minute, hour, day of the month, month, day of the week), not {0}; seconds and \
         years have no field"
    )]
    Fields(usize),
    /// Too long.
    #[error("there are {0} characters; at most 256 are permitted")]
    Long(usize),
    /// A field.
    #[error("{field} '{text}': {reason}")]
    Field {
        /// Which.
        field: &'static str,
        /// What stands in it.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// A step in one day field, a restriction in the other.
    #[error(
        "a step over all days ('{0}') beside a restriction in the other day field means one thing in some programs \
         and another in others; write the days out"
    )]
    Ambiguous(String),
    /// There is no such day.
    #[error("there is no such day: no month of '{months}' has a day '{days}'")]
    NoSuchDay {
        /// The day field.
        days: String,
        /// The month field.
        months: String,
    },
}

/// What somebody wrote, for a sentence: at most so much of it that one recognises it.
pub fn shown(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(64).collect()
}
