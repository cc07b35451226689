//! Pages of lists: `cursor` and `limit`.

use culvert_portal_model::id::Id;
use culvert_portal_model::page::{PageRequest, ROWS_DEFAULT, ROWS_MAX};
use culvert_portal_service::fault::Fault;
use culvert_portal_service::input;
use serde::Deserialize;
use utoipa::IntoParams;

/// What the cursors of a list are. Others would begin somewhere without saying so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// Identifiers.
    Id,
    /// Names of people or groups.
    Name,
    /// Numbers of entries.
    Number,
}

/// Which page of a list in the order of identifiers.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PagingById {
    /// Where the page before ended, as its `next` said.
    #[param(pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
    cursor: Option<String>,
    /// At most so many rows, 1 to 200; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

/// Which page of a list in the order of names.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PagingByName {
    /// Where the page before ended, as its `next` said.
    #[param(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
    cursor: Option<String>,
    /// At most so many rows, 1 to 200; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

impl PagingById {
    /// Checks it.
    ///
    /// # Errors
    /// [`Fault`] of a field.
    pub fn checked(self) -> Result<PageRequest, Fault> {
        page(Cursor::Id, self.cursor, self.limit)
    }
}

impl PagingByName {
    /// Checks it.
    ///
    /// # Errors
    /// [`Fault`] of a field.
    pub fn checked(self) -> Result<PageRequest, Fault> {
        page(Cursor::Name, self.cursor, self.limit)
    }
}

/// Checks which page is asked for.
///
/// # Errors
/// [`Fault`] of a field.
pub fn page(kind: Cursor, cursor: Option<String>, limit: Option<u32>) -> Result<PageRequest, Fault> {
    let rows = limit.unwrap_or(ROWS_DEFAULT);
    if rows == 0 || rows > ROWS_MAX {
        return Err(Fault::of_field("limit", format!("limit is {rows}; it must be 1 to {ROWS_MAX}")));
    }
    if cursor.as_ref().is_some_and(|cursor| !kind.has_given(cursor)) {
        let detail = "the cursor is not one that a page of this list has given: begin without one";
        return Err(Fault::of_field("cursor", detail));
    }
    Ok(PageRequest { after: cursor, rows })
}

impl Cursor {
    fn has_given(self, text: &str) -> bool {
        match self {
            Self::Id => text.parse::<Id>().is_ok(),
            Self::Name => input::login_name("cursor", text).is_ok_and(|name| name == text),
            Self::Number => text.parse::<i64>().is_ok_and(|number| number > 0 && number.to_string() == text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_of_another_list_or_of_nobody_is_refused() {
        let id = "01a2315e-e8c2-7cc5-8f5e-401c4bd829e2";
        for (kind, good) in [(Cursor::Id, id), (Cursor::Name, "ada.l"), (Cursor::Number, "9007199254740993")] {
            assert_eq!(page(kind, Some(good.to_owned()), None).unwrap().after.as_deref(), Some(good));
            for bad in ["", "Ada", "-1", "0", "01", "1.0", "9223372036854775808", "' OR 1=1", &id.to_uppercase()] {
                let may_be = kind == Cursor::Name && bad.starts_with(|first: char| first.is_ascii_digit());
                let fault = page(kind, Some(bad.to_owned()), None);
                assert!(may_be || fault.is_err_and(|fault| fault.field == Some("cursor")), "{kind:?} {bad}");
            }
        }
        for bad in [0, 201, u32::MAX] {
            assert_eq!(page(Cursor::Id, None, Some(bad)).unwrap_err().field, Some("limit"));
        }
    }
}
