//! Why the service did not do what it was asked.

use culvert_portal_model::problem::Problem;
use culvert_portal_store::StoreError;

/// A refusal or failure, with its stable code and a sentence for whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Fault {
    /// What kind of problem it is.
    pub problem: Problem,
    /// What, where, why, and what helps. No secrets, nothing that only operators may know.
    pub detail: String,
    /// The field that is wrong.
    pub field: Option<&'static str>,
    /// The place in the request, where it ended to be readable before any field was looked at.
    pub place: Option<String>,
    /// When trying again makes sense.
    pub retry_after_seconds: Option<u32>,
    /// What only the log is told.
    pub log: Option<String>,
}

impl Fault {
    /// A problem with a sentence.
    #[must_use]
    pub fn new(problem: Problem, detail: impl Into<String>) -> Self {
        Self { problem, detail: detail.into(), field: None, place: None, retry_after_seconds: None, log: None }
    }

    /// A field's value is not permitted.
    #[must_use]
    pub fn of_field(field: &'static str, detail: impl Into<String>) -> Self {
        Self { field: Some(field), ..Self::new(Problem::InvalidValue, detail) }
    }

    /// It does not exist, or belongs to somebody else.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(Problem::NotFound, format!("there is no such {what}"))
    }

    /// It was changed since the caller read it.
    #[must_use]
    pub fn changed(what: &str) -> Self {
        Self::new(Problem::Changed, format!("the {what} has changed since it was read: read it again"))
    }

    /// A fault of the portal, whose cause goes to the log.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "errors are handed over by map_err")]
    pub fn internal(cause: impl ToString) -> Self {
        Self {
            log: Some(cause.to_string()),
            ..Self::new(Problem::Internal, "the portal failed; its log has the cause under this request's number")
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        let unavailable = |detail: &str, seconds| Self {
            retry_after_seconds: Some(seconds),
            log: Some(error.to_string()),
            ..Self::new(Problem::Unavailable, detail)
        };
        match &error {
            StoreError::Taken => Self::new(Problem::Conflict, "something of that name is there already"),
            StoreError::Busy => unavailable("the database is busy: try again", 1),
            StoreError::Full => unavailable("the database's disk is full: tell an administrator", 60),
            StoreError::Unavailable(_) => unavailable("the database cannot be reached: try again in a moment", 5),
            StoreError::NoPortal | StoreError::Newer { .. } | StoreError::Corrupt { .. } | StoreError::Failed(_) => {
                Self::internal(&error)
            }
        }
    }
}
