//! The groups that a provider tells, and the roles that they give.
//!
//! A provider that says nothing about groups has not said that there are none: a login without the
//! claim changes nothing. One that says something that is no list of names has said nothing that
//! could give a role.

use std::collections::BTreeMap;

use culvert_portal_model::role::Role;
use serde_json::{Map, Value};

/// Groups of one person: more is no list of groups.
const GROUPS_MAX: usize = 10_000;

/// What a provider says about somebody's groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Groups {
    /// Nothing.
    Absent,
    /// Something that is no list of names.
    Malformed,
    /// Their names.
    Named(Vec<String>),
}

impl Groups {
    /// Reads a claim. Its name may be that of a field within fields, as `realm_access.roles`.
    #[must_use]
    pub fn read(claims: &Map<String, Value>, name: &str) -> Self {
        let Some(value) = claims.get(name).or_else(|| within(claims, name)) else { return Self::Absent };
        let Value::Array(items) = value else { return Self::Malformed };
        let names: Option<Vec<String>> = items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
        names.filter(|names| names.len() <= GROUPS_MAX).map_or(Self::Malformed, Self::Named)
    }

    /// The roles that they give; `None` if nothing was said about them.
    #[must_use]
    pub fn roles(&self, by_group: &BTreeMap<String, Vec<Role>>) -> Option<Vec<Role>> {
        let names = match self {
            Self::Absent => return None,
            Self::Malformed => &[],
            Self::Named(names) => names.as_slice(),
        };
        let mut roles: Vec<Role> = names.iter().filter_map(|name| by_group.get(name)).flatten().copied().collect();
        roles.sort_unstable();
        roles.dedup();
        Some(roles)
    }
}

fn within<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let (first, rest) = name.split_once('.')?;
    rest.split('.').try_fold(claims.get(first)?, |value, field| value.get(field))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn silence_is_not_none_and_nonsense_gives_nothing() {
        let table: BTreeMap<String, Vec<Role>> =
            [("ops".to_owned(), vec![Role::Operator, Role::User]), ("users".to_owned(), vec![Role::User])].into();
        let roles = |claims: Value, name| Groups::read(claims.as_object().unwrap(), name).roles(&table);
        assert_eq!(roles(json!({"groups": ["ops", "users", "x"]}), "groups"), Some(vec![Role::Operator, Role::User]));
        assert_eq!(roles(json!({}), "groups"), None);
        for nothing in [json!([]), json!("ops"), json!([{"name": "ops"}]), json!(["ops", 1]), json!(null), json!({})] {
            assert_eq!(roles(json!({ "groups": nothing }), "groups"), Some(vec![]), "{nothing}");
        }
        let many: Vec<String> = (0..5_000).map(|number| format!("g{number}")).chain(["users".to_owned()]).collect();
        assert_eq!(roles(json!({ "groups": many }), "groups"), Some(vec![Role::User]));
        let too_many = vec!["users"; 10_001];
        assert_eq!(roles(json!({ "groups": too_many }), "groups"), Some(vec![]));
        assert_eq!(roles(json!({"realm_access": {"roles": ["users"]}}), "realm_access.roles"), Some(vec![Role::User]));
        assert_eq!(roles(json!({"https://a.b/g": ["users"]}), "https://a.b/g"), Some(vec![Role::User]));
        assert_eq!(roles(json!({"realm_access": 1}), "realm_access.roles"), None);
    }
}
