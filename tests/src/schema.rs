//! The schemas of `docs/schemas`, and whether a document conforms to one.
//!
//! They use a small part of JSON Schema 2020-12; any other keyword is an error here, so that none
//! is silently ignored.

use std::path::Path;

use serde_json::Value;

/// Reads a schema by its file name.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn schema(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Checks that a document conforms to a schema (`status`, without `.json`).
///
/// # Panics
/// If it does not; the message has the first mismatch.
#[track_caller]
pub fn assert_valid(document: &Value, name: &str) {
    if let Err(why) = validate(document, &schema(&format!("{name}.json")), "") {
        panic!("it is not a {name}: {why}\n{document:#}");
    }
}

fn validate(document: &Value, schema: &Value, at: &str) -> Result<(), String> {
    let Some(keywords) = schema.as_object() else { return Err(format!("{at}: the schema is no object")) };
    for (keyword, wanted) in keywords {
        match keyword.as_str() {
            "$schema" | "$id" | "title" | "description" => {}
            "$ref" => validate(document, &self::schema(wanted.as_str().unwrap_or_default()), at)?,
            "type" => {
                let names: Vec<&str> = match wanted {
                    Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
                    name => name.as_str().into_iter().collect(),
                };
                if !names.iter().any(|name| is_of(document, name)) {
                    return Err(format!("{at}: {document} is not of type {names:?}"));
                }
            }
            "enum" => {
                if !wanted.as_array().is_some_and(|values| values.contains(document)) {
                    return Err(format!("{at}: {document} is none of {wanted}"));
                }
            }
            "anyOf" => {
                let tries: Vec<_> =
                    wanted.as_array().into_iter().flatten().map(|schema| validate(document, schema, at)).collect();
                if tries.iter().all(Result::is_err) {
                    return Err(format!("{at}: none fits: {tries:?}"));
                }
            }
            "minimum" | "maximum" => {
                let (Some(number), Some(bound)) = (document.as_f64(), wanted.as_f64()) else { continue };
                if if keyword == "minimum" { number < bound } else { number > bound } {
                    return Err(format!("{at}: {number} is beyond {keyword} {bound}"));
                }
            }
            "required" => {
                for name in wanted.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if document.is_object() && document.get(name).is_none() {
                        return Err(format!("{at}/{name} is missing"));
                    }
                }
            }
            "properties" => {
                for (name, schema) in wanted.as_object().into_iter().flatten() {
                    if let Some(value) = document.get(name) {
                        validate(value, schema, &format!("{at}/{name}"))?;
                    }
                }
            }
            "additionalProperties" => {
                let known = keywords.get("properties").and_then(Value::as_object);
                for (name, value) in document.as_object().into_iter().flatten() {
                    if !known.is_some_and(|known| known.contains_key(name)) {
                        validate(value, wanted, &format!("{at}/{name}"))?;
                    }
                }
            }
            "items" => {
                for (number, value) in document.as_array().into_iter().flatten().enumerate() {
                    validate(value, wanted, &format!("{at}/{number}"))?;
                }
            }
            other => return Err(format!("{at}: the schema has the keyword '{other}', which is not understood here")),
        }
    }
    Ok(())
}

fn is_of(document: &Value, name: &str) -> bool {
    match name {
        "object" => document.is_object(),
        "array" => document.is_array(),
        "string" => document.is_string(),
        "boolean" => document.is_boolean(),
        "null" => document.is_null(),
        "number" => document.is_number(),
        "integer" => document.is_u64() || document.is_i64(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_does_not_fit_is_named() {
        let failure = json!({"state": "failed", "error": {"code": "usage", "text": "no", "exit_code": 2}});
        assert_valid(&failure, "failure");
        for (change, told) in [
            (json!({"state": "failed"}), "/error is missing"),
            (json!({"state": "done", "error": failure["error"]}), "none of"),
            (json!({"state": "failed", "error": {"code": 1, "text": "", "exit_code": 2}}), "/error/code"),
            (json!({"state": "failed", "error": {"code": "", "text": "", "exit_code": 256}}), "maximum"),
            (json!([]), "not of type"),
        ] {
            let why = validate(&change, &schema("failure.json"), "").unwrap_err();
            assert!(why.contains(told), "{why}");
        }
    }
}
