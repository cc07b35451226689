//! Who may do what: one table of actions and roles.
//!
//! The service asks the table at the beginning of every operation, whoever calls it: the API, a
//! page, or a command. What is not in the table cannot be done.

use crate::role::Role;
use crate::scope::Scope;

/// On whose things an action may be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// On nothing.
    None,
    /// On those of the person who asks. Those of others are as if they did not exist.
    Own,
    /// On those of everybody.
    Any,
}

/// What of its owner's rights a token needs for an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenAccess {
    /// A token with this scope will do.
    Scope(Scope),
    /// Every token will do: it shows only what the token's owner is.
    Every,
    /// No token will do: this is for a person who has logged in.
    Never,
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident, $word:literal, $token:expr, $step_up:literal,
       [$admin:ident $operator:ident $user:ident $viewer:ident $auditor:ident];)*) => {
        /// Something that a person does.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Action { $($(#[$doc])* $name,)* }

        impl Action {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its word, as the audit trail has it.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// Which tokens will do.
            #[must_use]
            pub const fn token(self) -> TokenAccess {
                match self { $(Self::$name => $token,)* }
            }

            /// Whether the person must have proved who they are a short while ago.
            #[must_use]
            pub const fn needs_step_up(self) -> bool {
                match self { $(Self::$name => $step_up,)* }
            }

            /// Whether that proof must be newer than the login: so a cookie that was stolen just
            /// after it does not take the account away from its owner.
            #[must_use]
            pub const fn needs_new_proof(self) -> bool {
                matches!(self, Self::SecondFactorRemove)
            }

            /// On whose things a role may carry it out.
            #[must_use]
            pub const fn access(self, role: Role) -> Access {
                let row = match self {
                    $(Self::$name => [
                        Access::$admin, Access::$operator, Access::$user, Access::$viewer, Access::$auditor,
                    ],)*
                };
                match role {
                    Role::Admin => row[0],
                    Role::Operator => row[1],
                    Role::User => row[2],
                    Role::Viewer => row[3],
                    Role::Auditor => row[4],
                }
            }
        }
    };
}

use Scope::{AuditRead, PeopleRead, PeopleWrite, SettingsRead, SettingsWrite, TransfersRead};
use TokenAccess::{Every, Never, Scope as Scoped};

actions! {
    // Action, word, token, recent proof; access of admin, operator, user, viewer, auditor.
    /// See oneself.
    SelfShow, "self.show", Every, false,                                   [Own Own Own Own Own];
    /// Change one's own name and address of mail.
    SelfEdit, "self.edit", Never, true,                                    [Own Own Own Own Own];
    /// Change one's own password.
    PasswordChange, "password.change", Never, true,                        [Own Own Own Own Own];
    /// Prove again who one is.
    StepUp, "self.step-up", Never, false,                                  [Own Own Own Own Own];
    /// Set up one's own second factor.
    SecondFactorChange, "second-factor.change", Never, true,               [Own Own Own Own Own];
    /// Remove one's own second factor or passkey, or replace the recovery codes.
    SecondFactorRemove, "second-factor.remove", Never, true,               [Own Own Own Own Own];
    /// See and end one's own sessions, or those of others.
    SessionList, "session.list", Never, false,                             [Any Own Own Own Own];
    /// End the session that asks.
    LogOut, "session.logout", Never, false,                                [Own Own Own Own Own];
    /// End a session.
    SessionRevoke, "session.revoke", Never, false,                         [Any Own Own Own Own];
    /// See API tokens.
    TokenList, "token.list", Never, false,                                 [Any Own Own Own Own];
    /// Make an API token for oneself.
    TokenCreate, "token.create", Never, true,                              [Own Own Own Own Own];
    /// Revoke an API token.
    TokenRevoke, "token.revoke", Never, false,                             [Any Own Own Own Own];
    /// Give up the token that asks.
    TokenGiveUp, "token.give-up", Every, false,                            [Own Own Own Own Own];
    /// See what a device without a browser wants.
    DeviceShow, "device.show", Never, false,                               [Own Own Own Own Own];
    /// Let a device without a browser log in as oneself.
    DeviceApprove, "device.approve", Never, true,                          [Own Own Own Own Own];
    /// Link or unlink one's account at an identity provider.
    IdentityLink, "identity.link", Never, true,                            [Own Own Own Own Own];
    /// See people.
    UserList, "user.list", Scoped(PeopleRead), false,                      [Any Any None None Any];
    /// See one person.
    UserShow, "user.show", Scoped(PeopleRead), false,                      [Any Any Own Own Any];
    /// Make a person's account.
    UserCreate, "user.create", Never, true,                                [Any None None None None];
    /// Change a person's name, address or state.
    UserEdit, "user.edit", Never, true,                                    [Any None None None None];
    /// Give or take roles.
    UserRoles, "user.roles", Never, true,                                  [Any None None None None];
    /// Make a link by which a person sets a new password.
    UserResetLink, "user.reset-link", Never, true,                         [Any None None None None];
    /// Remove somebody's second factor, who has lost it.
    UserSecondFactor, "user.second-factor", Never, true,                   [Any None None None None];
    /// See groups.
    GroupList, "group.list", Scoped(PeopleRead), false,                    [Any Any Own Own Any];
    /// Make, change or delete a group, or change who is in it.
    GroupEdit, "group.edit", Scoped(PeopleWrite), false,                   [Any None None None None];
    /// See invitations.
    InvitationList, "invitation.list", Scoped(PeopleRead), false,          [Any None None None Any];
    /// Invite somebody.
    InvitationCreate, "invitation.create", Never, true,                    [Any None None None None];
    /// Withdraw an invitation.
    InvitationRevoke, "invitation.revoke", Scoped(PeopleWrite), false,     [Any None None None None];
    /// See settings.
    SettingsShow, "settings.show", Scoped(SettingsRead), false,            [Any Any None None Any];
    /// Change settings.
    SettingsEdit, "settings.edit", Never, true,                            [Any None None None None];
    /// See identity providers.
    ProviderList, "provider.list", Scoped(SettingsRead), false,            [Any None None None Any];
    /// Make, change or delete an identity provider.
    ProviderEdit, "provider.edit", Never, true,                            [Any None None None None];
    /// See webhooks and what was delivered.
    WebhookList, "webhook.list", Scoped(SettingsRead), false,              [Any Own Own None Any];
    /// Make, change, delete or try a webhook.
    WebhookEdit, "webhook.edit", Scoped(SettingsWrite), false,             [Any Own Own None None];
    /// Read the audit trail.
    AuditRead, "audit.read", Scoped(AuditRead), false,                     [Any None None None Any];
    /// Follow events.
    EventFollow, "event.follow", Scoped(TransfersRead), false,             [Any Any Own Any Any];
}

/// What somebody with these roles may do.
#[must_use]
pub fn access(roles: &[Role], action: Action) -> Access {
    roles.iter().map(|role| action.access(*role)).max().unwrap_or(Access::None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn words_are_unique() {
        let words: BTreeSet<&str> = Action::ALL.iter().map(|action| action.word()).collect();
        assert_eq!(words.len(), Action::ALL.len());
    }

    #[test]
    fn who_has_no_role_may_do_nothing_and_several_roles_add_up() {
        for action in Action::ALL {
            assert_eq!(access(&[], *action), Access::None, "{action:?}");
        }
        assert_eq!(access(&[Role::User, Role::Auditor], Action::UserShow), Access::Any);
        assert_eq!(access(&[Role::User, Role::Viewer], Action::AuditRead), Access::None);
    }

    /// What a stolen token must never be able to do: keep or widen its hold on the account.
    #[test]
    fn no_token_makes_credentials_or_gives_rights() {
        use Action::*;
        for action in [
            PasswordChange,
            SecondFactorChange,
            SecondFactorRemove,
            TokenCreate,
            TokenList,
            DeviceApprove,
            IdentityLink,
            UserRoles,
            UserResetLink,
            UserSecondFactor,
            InvitationCreate,
            ProviderEdit,
            SelfEdit,
            StepUp,
        ] {
            assert_eq!(action.token(), TokenAccess::Never, "{action:?}");
        }
    }

    /// A token proves nothing about who holds it now: what a person must prove first, none does.
    #[test]
    fn no_token_does_what_needs_a_recent_proof() {
        for action in Action::ALL.iter().filter(|action| action.needs_step_up()) {
            assert_eq!(action.token(), TokenAccess::Never, "{action:?}");
        }
    }

    #[test]
    fn only_administrators_change_what_belongs_to_nobody() {
        use Action::*;
        for action in [
            UserCreate,
            UserEdit,
            UserRoles,
            UserResetLink,
            UserSecondFactor,
            GroupEdit,
            InvitationCreate,
            InvitationRevoke,
            SettingsEdit,
            ProviderEdit,
        ] {
            for role in [Role::Operator, Role::User, Role::Viewer, Role::Auditor] {
                assert_eq!(action.access(role), Access::None, "{action:?} {role}");
            }
        }
    }
}
