//! What happens that others may want to hear of: those who follow events, and webhooks.
//!
//! An event names things and does not show them: whoever may see more reads it with their own
//! rights. `docs/portal.md` lists the table.

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $name:ident, $word:literal;)*) => {
        /// A kind of event.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventKind { $($(#[doc = $doc])* $name,)* }

        impl EventKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its word.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// What it says, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),*),)* }
            }
        }
    };
}

kinds! {
    /// An account was made: by an administrator, with an invitation, or by who registered.
    UserCreated, "user.created";
    /// An account's name, address, state or roles have changed.
    UserChanged, "user.changed";
    /// A group was made.
    GroupCreated, "group.created";
    /// A group's name, description or members have changed.
    GroupChanged, "group.changed";
    /// A group was deleted.
    GroupDeleted, "group.deleted";
    /// The portal's settings have changed.
    SettingsChanged, "settings.changed";
    /// A webhook was switched off: its receiver has said that it is gone.
    WebhookDisabled, "webhook.disabled";
    /// What the test button sends, to one webhook only.
    WebhookTest, "webhook.test";
}

impl EventKind {
    /// The kind with that word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.word() == word)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn words_are_unique_and_read_back() {
        let words: BTreeSet<&str> = EventKind::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!(words.len(), EventKind::ALL.len());
        for kind in EventKind::ALL {
            assert_eq!(EventKind::of_word(kind.word()), Some(*kind));
        }
        assert_eq!(EventKind::of_word("*"), None);
        assert_eq!(EventKind::GroupCreated.meaning().trim(), "A group was made.");
    }
}
