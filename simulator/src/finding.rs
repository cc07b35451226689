//! The measured values of a run, and their bounds.

/// One measured value and its bound.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The group that it belongs to.
    pub group: &'static str,
    /// The run.
    pub run: String,
    /// What was measured.
    pub what: &'static str,
    /// The number.
    pub measured: f64,
    /// The bound.
    pub bound: f64,
    /// Whether the bound is a minimum (else a maximum).
    pub is_least: bool,
    /// Whether it is required. Otherwise it is only desirable: reported but not judged.
    pub is_required: bool,
}

impl Finding {
    /// Whether the number keeps its bound.
    #[must_use]
    pub fn holds(&self) -> bool {
        if self.is_least { self.measured >= self.bound } else { self.measured <= self.bound }
    }
}
