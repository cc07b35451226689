//! `culvert config`.

use culvert_model::exit_code::ExitCode;
use culvert_node::settings::{Origin, Settings};

use crate::args::{ConfigAction, ConfigArgs, EngineArgs, GlobalArgs};
use crate::exit::CommandError;
use crate::report::{print_json, say};

/// Shows every setting.
///
/// # Errors
/// [`CommandError`].
pub fn run(global: &GlobalArgs, args: &ConfigArgs) -> Result<ExitCode, CommandError> {
    let ConfigAction::Show { origin, json } = args.action;
    let settings = Settings::resolve(&global.flags(&EngineArgs::default()))?;
    // Only the file has tables.
    let of_paths = |is_set: bool| match &settings.file {
        Some(path) if is_set => Origin::File { path: path.clone(), line: None },
        _ => Origin::Default,
    };
    let paths = settings.paths.table().into_iter().map(|(name, value, is_set)| (name, value, of_paths(is_set)));
    let table: Vec<(&str, String, Origin)> = settings.table().into_iter().chain(paths).collect();
    if json {
        let entries: serde_json::Map<String, serde_json::Value> = table
            .into_iter()
            .map(|(name, value, from)| {
                (name.to_owned(), serde_json::json!({ "value": value, "origin": from.to_string() }))
            })
            .collect();
        print_json(&entries)?;
        return Ok(ExitCode::Done);
    }
    for (name, value, from) in table {
        let shown = if origin { format!("{name:28} {value:40} {from}") } else { format!("{name:28} {value}") };
        say(shown.trim_end())?;
    }
    Ok(ExitCode::Done)
}
