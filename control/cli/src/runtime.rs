//! The async runtime of commands.

use culvert_model::exit_code::ExitCode;

use crate::exit::CommandError;

/// Threads for blocking file operations: a few help with many small files, more do not.
const BLOCKING_THREADS: usize = 8;

/// Runs a command on a runtime with one thread: the control process mostly waits, and the cores are
/// for the lanes.
///
/// # Errors
/// [`CommandError`]: the command's, or that the runtime cannot be created.
pub fn block_on<T>(command: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    culvert_system::least_descriptors::require_least().map_err(|text| CommandError::new(ExitCode::BadHost, text))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(|error| CommandError::new(ExitCode::BadHost, format!("cannot start: {error}")))?;
    let result = runtime.block_on(command);
    culvert_objects::fs::destination::opened::close_all();
    // A thread that still reads a file does not delay the exit.
    runtime.shutdown_background();
    result
}
