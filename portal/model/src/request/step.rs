//! What happens to a request, as one table: whatever changes a state looks it up here, and the
//! database changes it only if the state is still the one that the step begins from.

use super::RequestState;
use super::RequestState::{
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
