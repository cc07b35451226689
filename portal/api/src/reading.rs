//! What cannot be read of a content or a query: where, and why, in the API's own words.
//!
//! The libraries that read speak of their types; whoever sends a request knows only its fields. So
//! their sentences are told in those terms, and the place is the problem's `field`.

use culvert_portal_model::problem::Problem;
use culvert_portal_service::fault::Fault;
use serde_path_to_error::Path;

use crate::problem::Refusal;

/// The longest place, or name from a request, that is repeated.
const SHOWN_CHARACTERS_MAX: usize = 100;

/// A content that is JSON, and not what is expected.
#[must_use]
pub fn content(error: &serde_path_to_error::Error<serde_json::Error>) -> Refusal {
    let (line, column) = (error.inner().line(), error.inner().column());
    let said = error.inner().to_string();
    let reason = said.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&said);
    let where_it_is = format!(" (line {line}, column {column})");
    refusal("the content is not the JSON that is expected", error.path(), reason, &where_it_is)
}

/// A query that is not what is expected.
#[must_use]
pub fn query(error: &serde_path_to_error::Error<serde_urlencoded::de::Error>) -> Refusal {
    refusal("the query cannot be read", error.path(), &error.inner().to_string(), "")
}

fn refusal(what: &str, path: &Path, reason: &str, where_it_is: &str) -> Refusal {
    let (named, reason) = plain(reason);
    // What is missing, or comes twice, has no place of its own yet.
    let path = path.iter().next().map(|_| path.to_string());
    let places = [path.as_deref(), named];
    let place = places.into_iter().flatten().collect::<Vec<_>>().join(".");
    let place: String = place.chars().take(SHOWN_CHARACTERS_MAX).collect();
    let (place, told) =
        if place.is_empty() { (None, String::new()) } else { (Some(place.clone()), format!("{place}: ")) };
    Refusal(Fault { place, ..Fault::new(Problem::BadRequest, format!("{what}: {told}{reason}{where_it_is}")) })
}

/// A library's sentence in terms of fields; with the name of a field that has no place.
fn plain(reason: &str) -> (Option<&str>, String) {
    let named = |beginning: &str| reason.strip_prefix(beginning)?.split_once('`');
    if let Some((name, _)) = named("missing field `") {
        return (Some(name), "the field is missing".to_owned());
    }
    if let Some((name, _)) = named("duplicate field `") {
        return (Some(name), "the field comes twice".to_owned());
    }
    if let Some((name, others)) = named("unknown field `") {
        return (None, format!("there is no field '{}' here; there are: {}", shown(name), words(others)));
    }
    if let Some((word, others)) = named("unknown variant `") {
        return (None, format!("'{}' is none of: {}", shown(word), words(others)));
    }
    let typed = reason.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "));
    match typed {
        Some((found, expected)) => (None, format!("it is {}, and must be {}", shown(found), kind(expected))),
        None => (None, reason.to_owned()),
    }
}

/// The words between backquotes.
fn words(text: &str) -> String {
    let words: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// What a type of the program is in JSON.
fn kind(expected: &str) -> &str {
    match expected.split(' ').next().unwrap_or_default() {
        "struct" | "internally" => "an object",
        "u8" | "u16" | "u32" | "u64" | "i8" | "i16" | "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        _ => match expected {
            "a sequence" => "a list",
            "a map" => "an object",
            "string or map" => "a string",
            other => other,
        },
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARACTERS_MAX).flat_map(char::escape_debug).collect::<String>().replace("\\\"", "\"")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use culvert_portal_model::role::Role;
    use culvert_portal_model::settings::Settings;
    use serde::Deserialize;
    use serde_json::json;

    use crate::strict_json::parse;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only what cannot be read of it is looked at")]
    struct Outer {
        name: String,
        inner: Option<Inner>,
        roles: Option<Vec<Role>>,
        by_group: Option<BTreeMap<String, Vec<Role>>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only what cannot be read of it is looked at")]
    struct Inner {
        count: u32,
        is_on: bool,
    }

    #[test]
    fn the_place_and_the_reason_are_told_in_terms_of_fields() {
        let inner = |inner: &str| format!(r#"{{"name": "x", "inner": {inner}}}"#);
        for (text, place, reason) in [
            ("{}".to_owned(), "name", "the field is missing"),
            (inner(r#"{"count": 1}"#), "inner.is_on", "the field is missing"),
            (
                inner(r#"{"count": "1", "is_on": true}"#),
                "inner.count",
                r#"it is string "1", and must be a whole number"#,
            ),
            (inner(r#"{"count": 1, "is_on": 1}"#), "inner.is_on", "it is integer `1`, and must be a boolean"),
            (inner("7"), "inner", "it is integer `7`, and must be an object"),
            (inner(r#"{"ciunt": 1}"#), "inner.ciunt", "there is no field 'ciunt' here; there are: count, is_on"),
            (r#"{"name": null}"#.to_owned(), "name", "it is null, and must be a string"),
            (r#"{"name": "x", "roles": ["user", "king"]}"#.to_owned(), "roles[1]", "king"),
            (r#"{"name": "x", "roles": "user"}"#.to_owned(), "roles", "must be a list"),
            (r#"{"name": "x", "by_group": {"a b": [1]}}"#.to_owned(), "by_group.a b[0]", ""),
        ] {
            let fault = parse::<Outer>(text.as_bytes()).unwrap_err().0;
            assert_eq!(fault.place.as_deref(), Some(place), "{text}: {}", fault.detail);
            assert!(fault.detail.contains(&format!("{place}: ")) && fault.detail.contains(reason), "{}", fault.detail);
            assert!(fault.detail.contains("(line 1, column "), "{}", fault.detail);
        }
        let fault = parse::<Outer>(b"[]").unwrap_err().0;
        assert_eq!(fault.place, None, "{}", fault.detail);
    }

    #[test]
    fn a_word_that_is_none_of_those_that_there_are_is_told_with_them() {
        let mut settings = serde_json::to_value(Settings::default()).unwrap();
        settings["registration"] = json!("open");
        let fault = parse::<Settings>(settings.to_string().as_bytes()).unwrap_err().0;
        assert_eq!(fault.place.as_deref(), Some("registration"));
        assert!(fault.detail.contains("'open' is none of: closed, invitation, approval"), "{}", fault.detail);
    }
}
