//! Who asks, and what they may do.

use culvert_portal_model::audit::Who;
use culvert_portal_model::id::Id;
use culvert_portal_model::permission::{Access, Action, TokenAccess, access};
use culvert_portal_model::problem::Problem;
use culvert_portal_model::role::Role;
use culvert_portal_model::scope::Scope;
use culvert_portal_store::idempotency::Claim;
use jiff::Timestamp;

use crate::fault::Fault;

/// Whoever asks for something.
#[derive(Debug, Clone)]
pub struct Actor {
    /// Who it is.
    pub who: Who,
    /// What their account may do.
    pub roles: Vec<Role>,
    /// What the token may be used for; `None` without a token.
    pub scopes: Option<Vec<Scope>>,
    /// Whether their account has a second factor.
    pub has_second_factor: bool,
    /// When they last proved who they are.
    pub proved_at: Option<Timestamp>,
    /// Whether that was by logging in, and not since.
    pub has_only_logged_in: bool,
    /// The address that they ask from.
    pub address: Option<String>,
    /// The request's number in the log.
    pub request: Option<String>,
    /// The claim to a request that may be repeated: what it changes is marked as done with this.
    pub idempotency: Option<Claim>,
}

/// On whose things they may do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Everybody's.
    Any,
    /// Their own.
    Own(Id),
}

impl Reach {
    /// Refuses what belongs to somebody else, in the words of what does not exist.
    ///
    /// # Errors
    /// [`Problem::NotFound`].
    pub fn covers(self, owner: Id, what: &str) -> Result<(), Fault> {
        match self {
            Self::Any => Ok(()),
            Self::Own(own) if own == owner => Ok(()),
            Self::Own(_) => Err(Fault::not_found(what)),
        }
    }

    /// Whose things a list shows; `None` for everybody's.
    #[must_use]
    pub const fn owner(self) -> Option<Id> {
        match self {
            Self::Any => None,
            Self::Own(own) => Some(own),
        }
    }
}

impl Actor {
    /// Somebody who has not logged in.
    #[must_use]
    pub fn nobody(address: Option<String>, request: Option<String>) -> Self {
        Self { address, request, ..Self::of(Who::Nobody) }
    }

    /// Somebody at the portal's host, who could read its database as well.
    #[must_use]
    pub const fn host() -> Self {
        Self::of(Who::Host)
    }

    /// The portal itself.
    #[must_use]
    pub const fn portal() -> Self {
        Self::of(Who::Portal)
    }

    const fn of(who: Who) -> Self {
        Self {
            who,
            roles: Vec::new(),
            scopes: None,
            has_second_factor: false,
            proved_at: None,
            has_only_logged_in: false,
            address: None,
            request: None,
            idempotency: None,
        }
    }

    /// Their account.
    #[must_use]
    pub const fn user(&self) -> Option<Id> {
        match self.who {
            Who::Session { user, .. } | Who::Token { user, .. } => Some(user),
            Who::Host | Who::Portal | Who::Nobody => None,
        }
    }

    /// The session that asks, if one does.
    #[must_use]
    pub const fn session(&self) -> Option<Id> {
        match self.who {
            Who::Session { session, .. } => Some(session),
            _ => None,
        }
    }

    /// Their account, which an operation on oneself needs.
    ///
    /// # Errors
    /// [`Problem::NotLoggedIn`].
    pub fn oneself(&self) -> Result<Id, Fault> {
        self.user().ok_or_else(|| Fault::new(Problem::NotLoggedIn, "log in first"))
    }

    /// Refuses those who change what belongs to others, while they have no second factor, all but
    /// what leads to one, or gives rights up.
    ///
    /// # Errors
    /// [`Problem::SecondFactorMissing`].
    pub fn check_second_factor(&self, action: Action) -> Result<(), Fault> {
        let is_staff = self.roles.iter().any(|role| matches!(role, Role::Admin | Role::Operator));
        let leads_there =
            [Action::SelfShow, Action::StepUp, Action::LogOut, Action::TokenGiveUp, Action::SecondFactorChange]
                .contains(&action);
        if !is_staff || self.has_second_factor || leads_there {
            return Ok(());
        }
        let detail = "administrators and operators need a second factor here: set one up first";
        Err(Fault::new(Problem::SecondFactorMissing, detail))
    }

    /// Whether, and on whose things, they may do something.
    ///
    /// # Errors
    /// [`Problem::NotLoggedIn`], [`Problem::Forbidden`], or [`Problem::StepUpNeeded`].
    pub fn reach(&self, action: Action, now: Timestamp, step_up_seconds: u32) -> Result<Reach, Fault> {
        let user = match self.who {
            Who::Host | Who::Portal => return Ok(Reach::Any),
            _ => self.oneself()?,
        };
        if let Some(scopes) = &self.scopes {
            let permitted = match action.token() {
                TokenAccess::Every => true,
                TokenAccess::Scope(scope) => scopes.contains(&scope),
                TokenAccess::Never => false,
            };
            if !permitted {
                return Err(Fault::new(Problem::Forbidden, token_refusal(action)));
            }
        }
        let reach = match access(&self.roles, action) {
            Access::None => {
                let detail = format!("none of your roles permits {}", action.word());
                return Err(Fault::new(Problem::Forbidden, detail));
            }
            Access::Own => Reach::Own(user),
            Access::Any => Reach::Any,
        };
        if action.needs_new_proof() {
            self.check_own_proof()?;
        }
        if action.needs_step_up() && self.scopes.is_none() && !self.has_proved(now, step_up_seconds) {
            let detail = format!("{} needs your password or a code again", action.word());
            return Err(Fault::new(Problem::StepUpNeeded, detail));
        }
        Ok(reach)
    }

    /// Refuses whoever has proved who they are by logging in only: a cookie that was stolen just
    /// after that must not take the account away from its owner.
    ///
    /// # Errors
    /// [`Problem::StepUpNeeded`].
    pub fn check_own_proof(&self) -> Result<(), Fault> {
        if self.has_only_logged_in {
            let detail = "this needs your password or a code again, also shortly after logging in";
            return Err(Fault::new(Problem::StepUpNeeded, detail));
        }
        Ok(())
    }

    fn has_proved(&self, now: Timestamp, step_up_seconds: u32) -> bool {
        let limit = i64::from(step_up_seconds);
        // A proof from the future is of another portal's clock: it counts.
        self.proved_at.is_some_and(|at| now.as_second().saturating_sub(at.as_second()) <= limit)
    }
}

fn token_refusal(action: Action) -> String {
    match action.token() {
        TokenAccess::Scope(scope) => format!("{} needs a token with the scope {scope}", action.word()),
        _ => format!("{} is for people who have logged in, not for tokens", action.word()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> Id {
        Id::new(Timestamp::UNIX_EPOCH, &[number; 10])
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn actor(roles: &[Role], scopes: Option<Vec<Scope>>) -> Actor {
        let who = match scopes {
            None => Who::Session { user: id(1), session: id(2) },
            Some(_) => Who::Token { user: id(1), token: id(2) },
        };
        Actor { who, roles: roles.to_vec(), scopes, proved_at: Some(at(1_000)), ..Actor::host() }
    }

    #[test]
    fn a_person_reaches_what_the_table_says() {
        let problem = |actor: &Actor, action| actor.reach(action, at(1_000), 900).unwrap_err().problem;
        assert_eq!(actor(&[Role::User], None).reach(Action::UserShow, at(1_000), 900), Ok(Reach::Own(id(1))));
        assert_eq!(actor(&[Role::Auditor], None).reach(Action::UserShow, at(1_000), 900), Ok(Reach::Any));
        assert_eq!(problem(&actor(&[Role::User], None), Action::UserList), Problem::Forbidden);
        assert_eq!(problem(&Actor::nobody(None, None), Action::SelfShow), Problem::NotLoggedIn);
        assert_eq!(Actor::host().reach(Action::UserRoles, at(0), 900), Ok(Reach::Any));
    }

    #[test]
    fn a_proof_counts_for_its_time() {
        let admin = actor(&[Role::Admin], None);
        assert!(admin.reach(Action::UserRoles, at(1_900), 900).is_ok());
        assert_eq!(admin.reach(Action::UserRoles, at(1_901), 900).unwrap_err().problem, Problem::StepUpNeeded);
        assert!(admin.reach(Action::UserList, at(9_999), 900).is_ok());
    }

    #[test]
    fn a_token_needs_its_scope_and_its_owners_role() {
        let admin = actor(&[Role::Admin], Some(vec![Scope::PeopleRead]));
        assert!(admin.reach(Action::UserList, at(1_000), 900).is_ok());
        assert_eq!(admin.reach(Action::AuditRead, at(1_000), 900).unwrap_err().problem, Problem::Forbidden);
        assert_eq!(admin.reach(Action::UserRoles, at(1_000), 900).unwrap_err().problem, Problem::Forbidden);
        assert!(admin.reach(Action::SelfShow, at(1_000), 900).is_ok());
        let user = actor(&[Role::User], Some(Scope::ALL.to_vec()));
        assert_eq!(user.reach(Action::UserList, at(1_000), 900).unwrap_err().problem, Problem::Forbidden);
    }

    #[test]
    fn what_belongs_to_others_is_not_there() {
        assert!(Reach::Any.covers(id(9), "token").is_ok());
        assert!(Reach::Own(id(1)).covers(id(1), "token").is_ok());
        assert_eq!(Reach::Own(id(1)).covers(id(9), "token"), Err(Fault::not_found("token")));
    }
}
