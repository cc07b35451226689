//! What texts may look like, as the description says it.
//!
//! The service checks texts (`culvert_portal_service::input`); these patterns say the same to
//! whoever writes a client. A field names its rule by its format; a text without one may have every
//! character but NUL, which PostgreSQL cannot keep.

use std::collections::BTreeSet;

use serde_json::Value;

/// Characters that a line does not have: control characters, and those that turn the direction of
/// writing.
macro_rules! hidden {
    () => {
        r"\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    };
}

/// White space that is not hidden already.
macro_rules! space {
    () => {
        r" \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
    };
}

/// A character that a line begins and ends with.
macro_rules! visible {
    () => {
        concat!("[^", hidden!(), space!(), "]")
    };
}

/// An address of mail, without the blanks that may stand around it.
macro_rules! address {
    () => {
        concat!(
            "[^@",
            hidden!(),
            space!(),
            r#"<>(),;:"\[\]\\]{1,64}@"#,
            "[^@.",
            hidden!(),
            space!(),
            r#"<>(),;:"\[\]\\]+"#,
            r"(\.[^@.",
            hidden!(),
            space!(),
            r#"<>(),;:"\[\]\\]+)*"#
        )
    };
}

const ANY: &str = r"^[^\u0000]*$";
const LINE: &str = concat!("^ *", visible!(), "([^", hidden!(), "]*", visible!(), ")? *$");
const LINE_OR_NOTHING: &str = concat!("^ *(", visible!(), "([^", hidden!(), "]*", visible!(), ")?)? *$");
const ADDRESS: &str = concat!("^ *", address!(), " *$");
const ADDRESS_OR_NOTHING: &str = concat!("^$|^ *", address!(), " *$");
const ETAG: &str = r#"^"v(0|[1-9][0-9]{0,17})"$"#;

/// Adds the patterns to a description.
pub fn add(document: &mut Value) {
    let names = in_requests(document);
    if let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
        schemas.iter_mut().filter(|(name, _)| names.contains(*name)).for_each(|(_, schema)| add_to(schema));
    }
    for parameter in operations(document).filter_map(|operation| operation.get_mut("parameters")?.as_array_mut()) {
        for parameter in parameter {
            let is_if_match = parameter["name"] == "If-Match";
            let Some(schema) = parameter.get_mut("schema") else { continue };
            if is_if_match {
                schema["pattern"] = ETAG.into();
            }
            add_to(schema);
        }
    }
}

/// The schemas that requests consist of.
fn in_requests(document: &mut Value) -> BTreeSet<String> {
    let mut waiting: Vec<String> = Vec::new();
    operations(document).filter_map(|operation| operation.get("requestBody")).for_each(|body| note(body, &mut waiting));
    let mut names = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        if let Some(schema) = document.pointer(&format!("/components/schemas/{name}")) {
            note(schema, &mut waiting);
        }
        names.insert(name);
    }
    names
}

/// Notes the schemas that a part of the description refers to.
fn note(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let target = fields.get("$ref").and_then(Value::as_str);
            names.extend(target.and_then(|target| Some(target.rsplit_once('/')?.1.to_owned())));
            fields.values().for_each(|value| note(value, names));
        }
        Value::Array(items) => items.iter().for_each(|value| note(value, names)),
        _ => {}
    }
}

fn operations(document: &mut Value) -> impl Iterator<Item = &mut Value> {
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    paths.into_iter().flat_map(|paths| paths.values_mut()).filter_map(Value::as_object_mut).flat_map(|item| {
        let methods = item.iter_mut().filter(|(name, _)| name.as_str() != "parameters");
        methods.map(|(_, operation)| operation)
    })
}

fn add_to(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let kind = fields.get("type");
            let is_text =
                kind.is_some_and(|kind| kind == "string" || kind.as_array().is_some_and(|kinds| has_string(kinds)));
            let is_told = ["pattern", "enum", "const"].iter().any(|name| fields.contains_key(*name));
            if is_text && !is_told {
                let may_be_empty = fields.get("minLength").is_none();
                let pattern = match fields.get("format").and_then(Value::as_str) {
                    None => Some(ANY),
                    Some("line") if may_be_empty => Some(LINE_OR_NOTHING),
                    Some("line") => Some(LINE),
                    Some("mail-address") if may_be_empty => Some(ADDRESS_OR_NOTHING),
                    Some("mail-address") => Some(ADDRESS),
                    Some(_) => None,
                };
                fields.extend(pattern.map(|pattern| ("pattern".to_owned(), pattern.into())));
            }
            fields.values_mut().for_each(add_to);
        }
        Value::Array(items) => items.iter_mut().for_each(add_to),
        _ => {}
    }
}

fn has_string(kinds: &[Value]) -> bool {
    kinds.iter().any(|kind| kind == "string")
}
