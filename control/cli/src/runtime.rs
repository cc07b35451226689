//! The runtime that commands run on.

use culvert_model::exit_code::ExitCode;

use crate::exit::CommandError;

/// Threads that may block on files at once: small files gain from a few, and none helps beyond
/// that.
const BLOCKING_THREADS: usize = 8;

/// Runs a command on a runtime of one thread: what it does is wait, and a lane has better use for
/// the cores.
///
/// # Errors
/// [`CommandError`]: the command's, or that there is no runtime.
pub fn block_on<T>(command: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    culvert_system::least_descriptors::require_least().map_err(|text| CommandError::new(ExitCode::BadHost, text))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(|error| CommandError::new(ExitCode::BadHost, format!("cannot start: {error}")))?;
    let result = runtime.block_on(command);
    culvert_objects::fs::destination::opened::close_all();
    // A helper that still reads a file does not keep the command.
    runtime.shutdown_background();
    result
}
