//! A transfer request: where it stands, and what may happen to it next.

pub mod config;
pub mod document;
pub mod step;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use step::Step;

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident, $word:literal;)*) => {
        /// Where a request stands.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "kebab-case")]
        pub enum RequestState { $($(#[$doc])* $name,)* }

        impl RequestState {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its word.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

states! {
    /// It is put together; nothing has begun.
    Draft, "draft";
    /// It waits for its next date.
    Scheduled, "scheduled";
    /// It waits for its turn.
    Queued, "queued";
    /// The keys of both ends are being verified.
    VerifyingKeys, "verifying-keys";
    /// Data moves.
    Active, "active";
    /// Somebody has paused it.
    Paused, "paused";
    /// Everything has been sent; digests and receipt are being verified.
    Verifying, "verifying";
    /// An attempt has failed for a reason that may pass; another one follows.
    Retrying, "retrying";
    /// Everything is stored and verified.
    Succeeded, "succeeded";
    /// Everything but some files is stored and verified.
    SucceededWithErrors, "succeeded-with-errors";
    /// It has failed for good.
    Failed, "failed";
    /// Somebody has canceled it.
    Canceled, "canceled";
    /// Its deadline has passed.
    Expired, "expired";
}

impl RequestState {
    /// The state with that word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.word() == word)
    }

    /// Whether a run has ended, and nothing happens any more by itself but a next date.
    #[must_use]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Succeeded | Self::SucceededWithErrors | Self::Failed | Self::Canceled | Self::Expired)
    }

    /// Whether a run takes up a place on its nodes.
    #[must_use]
    pub const fn is_running(self) -> bool {
        matches!(self, Self::VerifyingKeys | Self::Active | Self::Paused | Self::Verifying)
    }

    /// Whether what is asked for may still be changed. Afterwards a copy is made.
    #[must_use]
    pub const fn is_editable(self) -> bool {
        matches!(self, Self::Draft | Self::Scheduled)
    }

    /// Where `step` leads from here; `None` if it is not permitted.
    #[must_use]
    pub fn after(self, step: Step) -> Option<Self> {
        step::TRANSITIONS.iter().find(|(from, by, _)| *from == self && *by == step).map(|(_, _, to)| *to)
    }

    /// The steps that are permitted here.
    pub fn steps(self) -> impl Iterator<Item = Step> {
        step::TRANSITIONS.iter().filter(move |(from, ..)| *from == self).map(|(_, step, _)| *step)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::RequestState::{Canceled, Draft, Failed, Scheduled};
    use super::*;

    fn reachable(from: RequestState, without: &[Step]) -> BTreeSet<RequestState> {
        let mut seen = BTreeSet::from([from]);
        let mut open = vec![from];
        while let Some(state) = open.pop() {
            for step in state.steps().filter(|step| !without.contains(step)) {
                let next = state.after(step).unwrap();
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        seen
    }

    #[test]
    fn words_are_read_back() {
        for state in RequestState::ALL {
            assert_eq!(RequestState::of_word(state.word()), Some(*state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.word());
        }
        assert_eq!(RequestState::of_word("Draft"), None);
    }

    #[test]
    fn every_step_leads_to_one_state() {
        let keys: BTreeSet<_> = step::TRANSITIONS.iter().map(|(from, step, _)| (*from, *step)).collect();
        assert_eq!(keys.len(), step::TRANSITIONS.len());
        assert!(step::TRANSITIONS.iter().all(|(from, _, to)| from != to));
        let used: BTreeSet<Step> = step::TRANSITIONS.iter().map(|(_, step, _)| *step).collect();
        assert_eq!(used.into_iter().collect::<Vec<_>>(), Step::ALL);
    }

    #[test]
    fn every_state_is_reached_from_a_draft_and_every_one_can_end() {
        assert_eq!(reachable(Draft, &[]).into_iter().collect::<Vec<_>>(), RequestState::ALL);
        for state in RequestState::ALL {
            assert!(reachable(*state, &[]).iter().any(|end| end.is_end()), "{state:?}");
        }
    }

    #[test]
    fn whatever_runs_can_be_canceled_and_fails_or_goes_on_when_its_node_is_lost() {
        for state in RequestState::ALL.iter().filter(|state| !state.is_end()) {
            assert_eq!(state.after(Step::Cancel), Some(Canceled), "{state:?}");
        }
        for state in RequestState::ALL.iter().filter(|state| state.is_running()) {
            assert_eq!(state.after(Step::Fail), Some(Failed), "{state:?}");
            assert_eq!(state.after(Step::Lose), Some(RequestState::Retrying), "{state:?}");
        }
    }

    #[test]
    fn what_has_ended_stays_ended_unless_somebody_or_a_date_starts_it_again() {
        for state in RequestState::ALL.iter().filter(|state| state.is_end()) {
            assert!(state.steps().all(|step| matches!(step, Step::Restart | Step::NextDate)), "{state:?}");
        }
        // What is late must not bring back what has ended.
        for step in [Step::Fail, Step::Lose, Step::Begin, Step::Pause, Step::Resume, Step::Succeed, Step::Expire] {
            assert!(RequestState::ALL.iter().filter(|state| state.is_end()).all(|state| state.after(step).is_none()));
        }
    }

    #[test]
    fn nothing_is_edited_once_it_may_run() {
        for state in RequestState::ALL.iter().filter(|state| state.is_editable()) {
            assert!(!state.is_running() && !state.is_end());
        }
        assert_eq!(Scheduled.after(Step::Edit), Some(Draft));
        assert!(
            RequestState::ALL.iter().filter(|state| state.is_running()).all(|state| state.after(Step::Edit).is_none())
        );
    }
}
