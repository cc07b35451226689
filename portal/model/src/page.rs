//! Lists in pages.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most rows of a page.
pub const ROWS_MAX: u32 = 200;
/// Rows of a page if nobody says how many.
pub const ROWS_DEFAULT: u32 = 50;

/// Which page is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// Where the page before ended, as it said; `None` for the first.
    pub after: Option<String>,
    /// At most so many rows, 1 to [`ROWS_MAX`].
    pub rows: u32,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { after: None, rows: ROWS_DEFAULT }
    }
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Give this as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Makes a page of `rows + 1` rows or fewer: one more than asked for says that there is another
    /// page.
    #[must_use]
    pub fn of(mut items: Vec<T>, rows: u32, cursor: impl Fn(&T) -> String) -> Self {
        let more = items.len() > rows as usize;
        items.truncate(rows as usize);
        let next = if more { items.last().map(cursor) } else { None };
        Self { items, next }
    }

    /// Changes each row.
    #[must_use]
    pub fn map<U>(self, change: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(change).collect(), next: self.next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_last_page_has_no_next() {
        let page = |count: u32| Page::of((0..count).collect(), 3, ToString::to_string);
        assert_eq!(page(3), Page { items: vec![0, 1, 2], next: None });
        assert_eq!(page(4), Page { items: vec![0, 1, 2], next: Some("2".to_owned()) });
        assert_eq!(page(0), Page { items: vec![], next: None });
    }
}
