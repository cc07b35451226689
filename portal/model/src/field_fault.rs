//! What is wrong with what somebody asks for.

/// A field that cannot mean anything as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct FieldFault {
    /// The field, by its path.
    pub field: &'static str,
    /// A sentence.
    pub detail: String,
}

impl FieldFault {
    /// A fault of a field.
    #[must_use]
    pub fn new(field: &'static str, detail: impl Into<String>) -> Self {
        Self { field, detail: detail.into() }
    }
}
