//! A request as people write it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::config::Config;
use crate::field_fault::FieldFault;
use crate::id::Id;
use crate::schedule::document::ScheduleDocument;
use crate::schedule::plan::Schedule;
use crate::whole_number;

/// Sources that are written into a request. Longer lists are uploaded as files of the request.
pub const SOURCES_MAX: usize = 1_000;
/// Bytes of a path at most, as the kernel has it.
const PATH_BYTES_MAX: usize = 4_096;
/// Priorities are 0 to 9; the higher goes first.
const PRIORITY_MAX: u32 = 9;
/// Retries at most.
const RETRIES_MAX: u32 = 1_000;
/// Tags at most.
const TAGS_MAX: usize = 50;

/// What somebody is told of by mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Notify {
    /// Everything is stored and verified.
    Succeeded,
    /// It has failed, or some files have.
    Failed,
    /// A key has changed, or a node cannot be reached.
    Stopped,
}

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestDocument {
    /// What people call it.
    #[schema(max_length = 200, format = "line")]
    #[serde(default)]
    pub label: String,
    /// The profile that sends.
    pub sender: Id,
    /// The profile that receives.
    pub receiver: Id,
    /// Paths and patterns at the sender. One that ends in `/` means its contents.
    #[schema(max_items = 1_000)]
    #[serde(default)]
    pub sources: Vec<String>,
    /// A path at the receiver.
    #[schema(min_length = 1, max_length = 4_096)]
    pub destination: String,
    /// How the data is moved.
    #[serde(default)]
    pub config: Config,
    /// When it is started; by hand if absent.
    #[serde(default)]
    pub schedule: Option<ScheduleDocument>,
    /// When it is no longer wanted.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default)]
    pub deadline: Option<Timestamp>,
    /// Which goes first: 0 to 9, the higher before the lower; 5 if absent.
    #[schema(minimum = 0, maximum = 9)]
    #[serde(default = "middle", deserialize_with = "whole_number::of_json")]
    pub priority: u32,
    /// Attempts after the first, for failures that may pass; 5 if absent.
    #[schema(minimum = 0, maximum = 1_000)]
    #[serde(default = "middle", deserialize_with = "whole_number::of_json")]
    pub retries: u32,
    /// What its owner is told of by mail.
    #[schema(max_items = 3)]
    #[serde(default)]
    pub notify: Vec<Notify>,
    /// What people find it by.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

impl RequestDocument {
    /// Checks that it can mean something, as far as its words show.
    ///
    /// # Errors
    /// [`FieldFault`] of the first field that cannot.
    pub fn check(&self) -> Result<Option<Schedule>, FieldFault> {
        if self.sender == self.receiver {
            return Err(FieldFault::new("receiver", "sender and receiver are the same profile"));
        }
        if self.sources.len() > SOURCES_MAX {
            let detail = format!(
                "there are {}; a request has at most {SOURCES_MAX}: upload longer lists, or name the directories that \
                 they are in",
                self.sources.len()
            );
            return Err(FieldFault::new("sources", detail));
        }
        for source in &self.sources {
            check_path("sources", source)?;
        }
        check_path("destination", &self.destination)?;
        self.config.check()?;
        self.check_numbers()?;
        self.check_tags()?;
        self.schedule.as_ref().map(ScheduleDocument::checked).transpose()
    }

    fn check_numbers(&self) -> Result<(), FieldFault> {
        if self.priority > PRIORITY_MAX {
            return Err(FieldFault::new("priority", format!("the priority must be 0 to {PRIORITY_MAX}")));
        }
        if self.retries > RETRIES_MAX {
            return Err(FieldFault::new("retries", format!("the number of retries must be 0 to {RETRIES_MAX}")));
        }
        let mut notify = self.notify.clone();
        notify.sort_unstable();
        notify.dedup();
        if notify.len() < self.notify.len() {
            return Err(FieldFault::new("notify", "something is listed twice"));
        }
        Ok(())
    }

    fn check_tags(&self) -> Result<(), FieldFault> {
        if self.tags.len() > TAGS_MAX {
            let detail = format!("there are {}; at most {TAGS_MAX} are permitted", self.tags.len());
            return Err(FieldFault::new("tags", detail));
        }
        let is_name = |name: &str| {
            (1..=64).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let is_value = |value: &str| value.chars().count() <= 256 && !value.contains(char::is_control);
        match self.tags.iter().find(|(name, value)| !is_name(name) || !is_value(value)) {
            Some(_) => Err(FieldFault::new(
                "tags",
                "a tag's name has 1 to 64 letters, digits, dots, hyphens and underscores, and its value at most 256 \
                 characters on one line",
            )),
            None => Ok(()),
        }
    }
}

/// Checks a path at a node: absolute, and without what could lead elsewhere than it says. Whether
/// it is permitted there, its node decides.
///
/// # Errors
/// [`FieldFault`] of the field.
pub fn check_path(field: &'static str, path: &str) -> Result<(), FieldFault> {
    let fault = |detail: &str| Err(FieldFault::new(field, detail));
    if path.len() > PATH_BYTES_MAX {
        return fault("a path has at most 4096 bytes");
    }
    if !path.starts_with('/') {
        return fault("a path begins with '/'");
    }
    if path.contains('\0') {
        return fault("a path has no NUL");
    }
    if path.split('/').any(|part| part == "." || part == "..") {
        return fault("a path has no '.' and no '..' in it");
    }
    if path.split('/').any(|part| part.len() > 255) {
        return fault("a name in a path has at most 255 bytes");
    }
    Ok(())
}

const fn middle() -> u32 {
    5
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn document(changes: &Value) -> Result<RequestDocument, serde_json::Error> {
        let mut document = json!({
            "sender": "01930000-0000-7000-8000-000000000001",
            "receiver": "01930000-0000-7000-8000-000000000002",
            "sources": ["/data/run-7"],
            "destination": "/incoming",
        });
        for (name, value) in changes.as_object().unwrap() {
            document[name] = value.clone();
        }
        serde_json::from_value(document)
    }

    #[test]
    fn little_needs_to_be_said() {
        let document = document(&json!({})).unwrap();
        assert_eq!(document.check(), Ok(None));
        assert_eq!((document.priority, document.retries), (5, 5));
    }

    #[test]
    fn a_schedule_is_read_with_the_rest() {
        let daily = document(&json!({ "schedule": { "cron": "0 4 * * *", "zone": "Europe/Zurich" } })).unwrap();
        assert!(matches!(daily.check(), Ok(Some(Schedule::Repeated(_)))));
    }

    #[test]
    fn what_cannot_mean_anything_is_named() {
        let long = "x".repeat(256);
        let wrong = [
            (json!({ "receiver": "01930000-0000-7000-8000-000000000001" }), "receiver"),
            (json!({ "sources": vec!["/x"; 1_001] }), "sources"),
            (json!({ "sources": ["data"] }), "sources"),
            (json!({ "sources": [""] }), "sources"),
            (json!({ "sources": ["/data/../etc/passwd"] }), "sources"),
            (json!({ "sources": ["/data/a\u{0}b"] }), "sources"),
            (json!({ "destination": "incoming" }), "destination"),
            (json!({ "destination": "/incoming/.." }), "destination"),
            (json!({ "destination": format!("/{long}") }), "destination"),
            (json!({ "config": { "flows": 0 } }), "config.flows"),
            (json!({ "priority": 10 }), "priority"),
            (json!({ "retries": 1_001 }), "retries"),
            (json!({ "notify": ["failed", "failed"] }), "notify"),
            (json!({ "tags": { "": "x" } }), "tags"),
            (json!({ "tags": { "a": "x\ny" } }), "tags"),
            (json!({ "schedule": { "cron": "@daily" } }), "schedule.cron"),
            (json!({ "schedule": {} }), "schedule.at"),
        ];
        for (changes, field) in wrong {
            let fault = document(&changes).unwrap().check().unwrap_err();
            assert_eq!(fault.field, field, "{changes}");
        }
        for unknown in [json!({ "source": ["/x"] }), json!({ "priority": -1 }), json!({ "sender": "x" })] {
            assert!(document(&unknown).is_err(), "{unknown}");
        }
    }
}
