//! What a run showed, and what it should.

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
    /// Whether the bound is the least (else the most).
    pub is_least: bool,
    /// Whether it is a requirement. Otherwise it is a wish of users, reported but not judged.
    pub is_required: bool,
}

impl Finding {
    /// Whether the number keeps its bound.
    #[must_use]
    pub fn holds(&self) -> bool {
        if self.is_least { self.measured >= self.bound } else { self.measured <= self.bound }
    }
}
