//! Values of a row as the portal's types.

use std::str::FromStr;

use culvert_portal_model::id::Id;
use jiff::Timestamp;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use crate::error::StoreError;

/// An identifier.
pub fn id(row: &AnyRow, column: &str) -> Result<Id, StoreError> {
    parsed(row, column, "identifier")
}

/// An identifier, or nothing.
pub fn id_or_none(row: &AnyRow, column: &str) -> Result<Option<Id>, StoreError> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| parse(&text, "identifier")).transpose()
}

/// A text.
pub fn text(row: &AnyRow, column: &str) -> Result<String, StoreError> {
    Ok(row.try_get(column)?)
}

/// A text, or nothing.
pub fn text_or_none(row: &AnyRow, column: &str) -> Result<Option<String>, StoreError> {
    Ok(row.try_get(column)?)
}

/// A whole number.
pub fn number(row: &AnyRow, column: &str) -> Result<i64, StoreError> {
    Ok(row.try_get(column)?)
}

/// A whole number that is small and not below zero.
pub fn small(row: &AnyRow, column: &str, what: &'static str) -> Result<u32, StoreError> {
    let value = number(row, column)?;
    u32::try_from(value).map_err(|_| StoreError::Corrupt { what, value: value.to_string() })
}

/// A whole number, or nothing.
pub fn number_or_none(row: &AnyRow, column: &str) -> Result<Option<i64>, StoreError> {
    Ok(row.try_get(column)?)
}

/// Bytes.
pub fn bytes(row: &AnyRow, column: &str) -> Result<Vec<u8>, StoreError> {
    Ok(row.try_get(column)?)
}

/// Bytes, or nothing.
pub fn bytes_or_none(row: &AnyRow, column: &str) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(row.try_get(column)?)
}

/// A time.
pub fn time(row: &AnyRow, column: &str) -> Result<Timestamp, StoreError> {
    to_time(number(row, column)?)
}

/// A time, or nothing.
pub fn time_or_none(row: &AnyRow, column: &str) -> Result<Option<Timestamp>, StoreError> {
    number_or_none(row, column)?.map(to_time).transpose()
}

/// A value with one word.
pub fn parsed<T: FromStr>(row: &AnyRow, column: &str, what: &'static str) -> Result<T, StoreError> {
    parse(&text(row, column)?, what)
}

/// Values with a word each, in one text with spaces between.
pub fn words<T: FromStr>(row: &AnyRow, column: &str, what: &'static str) -> Result<Vec<T>, StoreError> {
    text(row, column)?.split_whitespace().map(|word| parse(word, what)).collect()
}

/// A value that has its word from a function.
pub fn word<T>(
    row: &AnyRow,
    column: &str,
    what: &'static str,
    of_word: impl Fn(&str) -> Option<T>,
) -> Result<T, StoreError> {
    let value = text(row, column)?;
    of_word(&value).ok_or(StoreError::Corrupt { what, value })
}

/// JSON.
pub fn json<T: serde::de::DeserializeOwned>(row: &AnyRow, column: &str, what: &'static str) -> Result<T, StoreError> {
    let value = text(row, column)?;
    serde_json::from_str(&value).map_err(|error| StoreError::Corrupt { what, value: error.to_string() })
}

/// The text in which [`words`] are kept.
pub fn join<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn parse<T: FromStr>(text: &str, what: &'static str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt { what, value: text.to_owned() })
}

fn to_time(microseconds: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_microsecond(microseconds)
        .map_err(|_| StoreError::Corrupt { what: "time", value: microseconds.to_string() })
}
