//! `openapi`: the description of the API, as it is checked in.

use std::io::Write as _;

/// Prints it.
///
/// # Errors
/// If standard output is closed.
pub fn run() -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(culvert_portal_api::openapi::text().as_bytes())?)
}
