//! Names of a transfer's phases.

use culvert_model::progress::Phase;

/// A phase as it is shown to people.
#[must_use]
pub const fn phase_words(phase: Phase) -> &'static str {
    match phase {
        Phase::Queued => "queued",
        Phase::Connecting => "connecting",
        Phase::Listing => "listing",
        Phase::Planning => "planning",
        Phase::Moving => "moving",
        Phase::Finishing => "finishing",
        Phase::Waiting => "waiting before the next attempt",
    }
}
