//! Settings that administrators change while the portal runs.

use culvert_portal_model::event_kind::EventKind;
use culvert_portal_model::permission::Action;
use culvert_portal_model::settings::Settings;
use culvert_portal_store::settings;
use serde_json::json;

use crate::actor::Actor;
use crate::current_settings::NAME;
use crate::fault::Fault;
use crate::input;
use crate::portal::Portal;
use crate::trail::Change;

/// The settings and their version.
///
/// # Errors
/// [`Fault`].
pub async fn show(portal: &Portal, actor: &Actor) -> Result<(Settings, i64), Fault> {
    portal.permit(actor, Action::SettingsShow).await?;
    let found = settings::get(&mut portal.database.read().await?, NAME).await?;
    Ok(found.unwrap_or_default())
}

/// Replaces the settings of a version; gives the new version.
///
/// # Errors
/// [`Fault`].
pub async fn edit(portal: &Portal, actor: &Actor, new: &Settings, version: i64) -> Result<i64, Fault> {
    portal.permit(actor, Action::SettingsEdit).await?;
    if let Some((field, fault)) = new.fault() {
        return Err(Fault::of_field(field, fault));
    }
    new.notice.lines().try_for_each(|line| input::line("notice", line, 0, 1_000).map(drop))?;
    let mut writing = portal.database.write().await?;
    let (old, _): (Settings, i64) = settings::get(&mut writing, NAME).await?.unwrap_or_default();
    if !settings::put(&mut writing, NAME, new, version).await? {
        return Err(Fault::changed("settings"));
    }
    let change = Change::of_kind("settings").from(&old).to(new);
    portal.record(&mut writing, actor, Action::SettingsEdit, change).await?;
    portal.announce(&mut writing, EventKind::SettingsChanged, None, &json!({ "version": version + 1 })).await?;
    portal.commit(writing).await?;
    portal.settings.forget();
    Ok(version + 1)
}
