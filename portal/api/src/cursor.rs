//! Pages of lists: `cursor` and `limit`.

use culvert_portal_model::page::{PageRequest, ROWS_DEFAULT, ROWS_MAX};
use culvert_portal_service::fault::Fault;
use serde::Deserialize;
use utoipa::IntoParams;

/// Which page.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Paging {
    /// Where the page before ended, as its `next` said.
    #[param(max_length = 200)]
    pub cursor: Option<String>,
    /// At most so many rows, 1 to 200; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
}

impl Paging {
    /// Checks it.
    ///
    /// # Errors
    /// [`Fault`] of a field.
    pub fn checked(self) -> Result<PageRequest, Fault> {
        page(self.cursor, self.limit)
    }
}

/// Checks which page is asked for.
///
/// # Errors
/// [`Fault`] of a field.
pub fn page(cursor: Option<String>, limit: Option<u32>) -> Result<PageRequest, Fault> {
    let rows = limit.unwrap_or(ROWS_DEFAULT);
    if rows == 0 || rows > ROWS_MAX {
        return Err(Fault::of_field("limit", format!("limit is {rows}; it must be 1 to {ROWS_MAX}")));
    }
    if cursor.as_ref().is_some_and(|cursor| cursor.chars().count() > 200) {
        return Err(Fault::of_field("cursor", "the cursor is not one that a page has given"));
    }
    Ok(PageRequest { after: cursor, rows })
}
