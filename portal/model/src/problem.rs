//! What can go wrong, as a stable code (RFC 9457).
//!
//! `docs/portal.md` lists the table. A code keeps its meaning and its status for ever; new ones may
//! come.

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident, $code:literal, $status:literal, $title:literal;)*) => {
        /// A kind of problem.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Problem { $($(#[$doc])* $name,)* }

        impl Problem {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its stable code.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The HTTP status that it is answered with.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// What it is in a few words, the same each time.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

problems! {
    /// The content is not JSON, or not of the shape that is asked for.
    BadRequest, "bad-request", 400, "The request cannot be understood";
    /// A field's value is not permitted.
    InvalidValue, "invalid-value", 422, "A value is not permitted";
    /// Nobody has logged in, or no longer is.
    NotLoggedIn, "not-logged-in", 401, "Log in first";
    /// Wrong name, password or code: which one is not said.
    WrongCredentials, "wrong-credentials", 401, "The name, password or code is wrong";
    /// The password was right; a code of the second factor is needed too.
    SecondFactorNeeded, "second-factor-needed", 401, "A code of the second factor is needed";
    /// The identity provider has not confirmed who somebody is.
    ProviderRefused, "provider-refused", 403, "The identity provider has not confirmed this";
    /// No account is linked to the identity.
    NotLinked, "not-linked", 403, "No account is linked to this identity";
    /// The account waits for approval or is deactivated.
    AccountInactive, "account-inactive", 403, "The account is not active";
    /// Administrators and operators need a second factor here, and there is none yet.
    SecondFactorMissing, "second-factor-missing", 403, "Set up a second factor first";
    /// The last proof is too long ago for this action.
    StepUpNeeded, "step-up-needed", 403, "Prove again who you are";
    /// The roles or the token's scopes do not include this.
    Forbidden, "forbidden", 403, "This is not permitted";
    /// A page of another site has sent this.
    CrossSite, "cross-site", 403, "The request comes from another site";
    /// It does not exist, or belongs to somebody else.
    NotFound, "not-found", 404, "There is no such thing";
    /// The path exists, the method there does not.
    MethodNotAllowed, "method-not-allowed", 405, "The method is not permitted here";
    /// None of the forms that the client accepts can be made.
    NotAcceptable, "not-acceptable", 406, "The answer has no form that is accepted";
    /// Its content did not come in time.
    SlowRequest, "slow-request", 408, "The request came too slowly";
    /// The name or address is taken, or the state does not permit this.
    Conflict, "conflict", 409, "This does not go with what is there";
    /// The same key came with another content, or is being worked on.
    IdempotencyConflict, "idempotency-conflict", 409, "The idempotency key was used for another request";
    /// A link, invitation or code was used, withdrawn or has expired.
    Spent, "spent", 410, "This is no longer valid";
    /// Somebody changed it since it was read.
    Changed, "changed", 412, "It has changed in the meantime";
    /// A device asks whether it was let in, and nobody has decided yet.
    AuthorizationPending, "authorization-pending", 400, "Nobody has let the device in yet";
    /// A device asks too often.
    SlowDown, "slow-down", 400, "The device asks too often";
    /// A device asks whether it was let in, and was not.
    AccessDenied, "access-denied", 400, "The device was not let in";
    /// A device asks with a code that was used or has expired.
    ExpiredToken, "expired-token", 400, "The device's code is no longer valid";
    /// The content is larger than it may be.
    TooLarge, "too-large", 413, "The content is too large";
    /// The content is not `application/json`.
    UnsupportedMediaType, "unsupported-media-type", 415, "The content must be application/json";
    /// A change must say which version it changes.
    PreconditionNeeded, "precondition-needed", 428, "If-Match is needed";
    /// Too many requests from this address or for this account.
    TooMany, "too-many", 429, "Too many requests";
    /// The headers are larger than they may be.
    HeadersTooLarge, "headers-too-large", 431, "The headers are too large";
    /// A fault of the portal.
    Internal, "internal", 500, "The portal failed";
    /// Another service that this needs did not answer as it should.
    BadGateway, "bad-gateway", 502, "Another service failed";
    /// The database cannot be reached, is busy, or has no room.
    Unavailable, "unavailable", 503, "The portal cannot do this now";
    /// It took longer than it may.
    Timeout, "timeout", 504, "It took too long";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_statuses_are_errors() {
        let codes: BTreeSet<&str> = Problem::ALL.iter().map(|problem| problem.code()).collect();
        assert_eq!(codes.len(), Problem::ALL.len());
        assert!(Problem::ALL.iter().all(|problem| (400..600).contains(&problem.status())));
    }
}
