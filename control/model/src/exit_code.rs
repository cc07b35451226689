//! Exit codes, in one table: the source of the command, its manual pages and `docs/operations.md`.

/// Makes the enumeration and its table from one list, so that neither can lack an entry.
macro_rules! exit_codes {
    ($($name:ident = $number:literal, $word:literal, $meaning:literal, $remedy:literal;)*) => {
        /// The contract's exit codes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum ExitCode {
            $(#[doc = $meaning] $name = $number,)*
        }

        impl ExitCode {
            /// All of them. The manual pages and `docs/operations.md` have the same list.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word for programs: the `code` of an error with `--json`.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// The meaning, for users.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// The remedy; empty if there is nothing to do.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)* }
            }
        }
    };
}

exit_codes! {
    Done = 0, "done", "done, or nothing to do", "";
    Failed = 1, "failed", "failed", "see what the message says";
    Usage = 2, "usage", "the command line is wrong", "see `culvert COMMAND --help`";
    NotFound = 3, "not_found",
        "a source, destination, host name, profile, transfer or token does not exist",
        "check what the message names, on the host it names";
    NotPermitted = 4, "not_permitted",
        "not permitted: the partner refused or does not know this key, you are not logged in to the portal, an account lacks permissions, or ssh could not log in",
        "follow the message; ask the partner's admin to run `culvert profile pending`";
    Temporary = 5, "temporary",
        "temporary: the partner or the portal is unreachable or busy, ssh cannot connect, a name server does not answer, or a process or host is out of descriptors or memory",
        "try again, or let `--retries` do it. If the message names a limit, raise it on the host it names";
    SomeFailed = 6, "some_failed",
        "done, but some files failed or were left out",
        "fix the causes listed under `errors` in the result and run the same command again: only those files are sent";
    BadHost = 7, "bad_host",
        "the configuration or the host is unsuitable",
        "see `culvert config show --origin` and `culvert doctor`";
    NothingToDo = 9, "nothing_to_do",
        "nothing to do, with `--error-on-no-transfer` only; otherwise 0",
        "none is needed: the files already exist";
    TimedOut = 10, "timed_out",
        "timed out while waiting",
        "the transfer continues: run `culvert transfer wait ID` again; a login begins anew";
    Verification = 11, "verification",
        "verification failed",
        "memory or disk of one host is faulty: check both. If it is a certificate: follow the message";
    KeyChanged = 12, "key_changed",
        "the partner's key changed",
        "confirm the new key with the partner over another channel, then `culvert profile edit NAME --key KEY`";
    HungUp = 129, "hung_up", "the terminal was closed", "run the same command again to resume";
    Interrupted = 130, "interrupted",
        "interrupted or canceled",
        "run the same command again to resume";
    Terminated = 143, "terminated", "terminated", "run the same command again to resume";
}

impl ExitCode {
    /// Whether a signal ended the command.
    #[must_use]
    pub const fn is_interrupt(self) -> bool {
        matches!(self, Self::HungUp | Self::Interrupted | Self::Terminated)
    }

    /// The code of this number.
    #[must_use]
    pub fn of(code: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| *known as u8 == code)
    }
}
