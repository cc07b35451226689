//! The log: to standard error, where systemd and containers expect it.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use crate::args::LogForm;

/// Begins to log. A second time it changes nothing.
pub fn begin(form: LogForm) {
    // The database's own remarks, such as that a table is there already, say nothing to anybody.
    let levels = Targets::new().with_default(LevelFilter::INFO).with_target("sqlx", LevelFilter::WARN);
    let registry = tracing_subscriber::registry().with(levels);
    let writer = std::io::stderr;
    let _ = match form {
        LogForm::Text => registry.with(fmt::layer().with_writer(writer).with_target(false).with_ansi(false)).try_init(),
        LogForm::Json => registry.with(fmt::layer().json().flatten_event(true).with_writer(writer)).try_init(),
    };
    std::panic::set_hook(Box::new(|panic| {
        // What panics is a fault of the program; its values may be secrets, its place is not.
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a task has panicked: please report this");
    }));
}
