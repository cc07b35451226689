//! The host as the plan, the transaction and the watcher see it: settings that are read and
//! written.
//!
//! [`RealHost`] is this machine; [`fake::FakeHost`] is a map with the same manners, for tests here
//! and elsewhere.

use crate::setting::Setting;

pub mod fake;
mod interface;
mod real;

pub(crate) use interface::OWNED_FILE_FIRST_LINE;
pub use interface::{Host, HostError, Place};
pub use real::RealHost;

/// Everything that a write of `setting` may disturb, the setting itself not among it.
///
/// # Errors
/// [`HostError::Missing`] if its link is not there.
pub fn disturbed_by(host: &mut dyn Host, setting: &Setting) -> Result<Vec<Setting>, HostError> {
    let mut disturbed = setting.disturbs_elsewhere();
    if let Some(link) = setting.link() {
        let of_link = host.settings_of_link(link)?;
        disturbed.extend(of_link.into_iter().filter(|other| other != setting && setting.disturbs(other)));
    }
    Ok(disturbed)
}
