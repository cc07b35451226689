//! What happens to a request, as one table: whatever changes a state looks it up here, and the
//! database changes it only if the state is still the one that the step begins from.

use super::state::RequestState;
use super::state::RequestState::{
    Active, Canceled, Draft, Expired, Failed, Paused, Queued, Retrying, Scheduled, Succeeded, SucceededWithErrors,
    Verifying, VerifyingKeys,
};

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident, $word:literal;)*) => {
        /// Something that happens to a request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Step { $($(#[$doc])* $name,)* }

        impl Step {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its word, as the audit trail and events have it.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

steps! {
    /// A person gives it dates.
    Schedule, "schedule";
    /// A person changes what was scheduled.
    Edit, "edit";
    /// A person starts it, or starts before its date what was scheduled.
    Start, "start";
    /// Its date has come.
    Date, "date";
    /// It is its turn.
    Take, "take";
    /// The keys are verified, and the sending node begins.
    Begin, "begin";
    /// A person pauses it.
    Pause, "pause";
    /// A person lets it go on.
    Resume, "resume";
    /// Everything has been sent.
    Check, "check";
    /// Everything is stored and verified.
    Succeed, "succeed";
    /// Everything but some files is.
    SucceedInPart, "succeed-in-part";
    /// It has failed for good.
    Fail, "fail";
    /// It has failed for a reason that may pass, or its node was lost.
    Lose, "lose";
    /// The time until the next attempt is over.
    TryAgain, "try-again";
    /// A person cancels it.
    Cancel, "cancel";
    /// Its deadline has passed.
    Expire, "expire";
    /// A person starts it again after its end.
    Restart, "restart";
    /// A run has ended, and there is a further date.
    NextDate, "next-date";
}

/// From which state which step leads where. What is not here is not permitted.
pub const TRANSITIONS: &[(RequestState, Step, RequestState)] = &[
    (Draft, Step::Schedule, Scheduled),
    (Draft, Step::Start, Queued),
    (Draft, Step::Cancel, Canceled),
    (Scheduled, Step::Edit, Draft),
    (Scheduled, Step::Start, Queued),
    (Scheduled, Step::Date, Queued),
    (Scheduled, Step::Cancel, Canceled),
    (Scheduled, Step::Expire, Expired),
    (Queued, Step::Take, VerifyingKeys),
    (Queued, Step::Cancel, Canceled),
    (Queued, Step::Expire, Expired),
    (VerifyingKeys, Step::Begin, Active),
    (VerifyingKeys, Step::Fail, Failed),
    (VerifyingKeys, Step::Lose, Retrying),
    (VerifyingKeys, Step::Cancel, Canceled),
    (VerifyingKeys, Step::Expire, Expired),
    (Active, Step::Pause, Paused),
    (Active, Step::Check, Verifying),
    (Active, Step::Fail, Failed),
    (Active, Step::Lose, Retrying),
    (Active, Step::Cancel, Canceled),
    (Active, Step::Expire, Expired),
    (Paused, Step::Resume, Active),
    (Paused, Step::Fail, Failed),
    (Paused, Step::Lose, Retrying),
    (Paused, Step::Cancel, Canceled),
    (Paused, Step::Expire, Expired),
    (Verifying, Step::Succeed, Succeeded),
    (Verifying, Step::SucceedInPart, SucceededWithErrors),
    (Verifying, Step::Fail, Failed),
    (Verifying, Step::Lose, Retrying),
    (Verifying, Step::Cancel, Canceled),
    (Retrying, Step::TryAgain, Queued),
    (Retrying, Step::Fail, Failed),
    (Retrying, Step::Cancel, Canceled),
    (Retrying, Step::Expire, Expired),
    (Succeeded, Step::Restart, Queued),
    (Succeeded, Step::NextDate, Scheduled),
    (SucceededWithErrors, Step::Restart, Queued),
    (SucceededWithErrors, Step::NextDate, Scheduled),
    (Failed, Step::Restart, Queued),
    (Failed, Step::NextDate, Scheduled),
    (Canceled, Step::Restart, Queued),
    (Canceled, Step::NextDate, Scheduled),
    (Expired, Step::Restart, Queued),
    (Expired, Step::NextDate, Scheduled),
];

impl RequestState {
    /// Where `step` leads from here; `None` if it is not permitted.
    #[must_use]
    pub fn after(self, step: Step) -> Option<Self> {
        TRANSITIONS.iter().find(|(from, by, _)| *from == self && *by == step).map(|(_, _, to)| *to)
    }

    /// The steps that are permitted here.
    pub fn steps(self) -> impl Iterator<Item = Step> {
        TRANSITIONS.iter().filter(move |(from, ..)| *from == self).map(|(_, step, _)| *step)
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
        let keys: BTreeSet<_> = TRANSITIONS.iter().map(|(from, step, _)| (*from, *step)).collect();
        assert_eq!(keys.len(), TRANSITIONS.len());
        assert!(TRANSITIONS.iter().all(|(from, _, to)| from != to));
        let used: BTreeSet<Step> = TRANSITIONS.iter().map(|(_, step, _)| *step).collect();
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
