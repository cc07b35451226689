//! Where a request stands.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
}
