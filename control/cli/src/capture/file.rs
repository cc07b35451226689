//! The output of a capture: a file, or standard output.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use culvert_model::exit_code::ExitCode;
use culvert_model::units::show_count;
use culvert_node::capture::Summary;
use culvert_protocol::counted::counted;

use crate::exit::{CommandError, of_path};

/// The output of a capture.
#[derive(Debug)]
pub enum CaptureFile {
    /// Standard output.
    Output,
    /// A file, and its name.
    Named(PathBuf, File),
}

impl CaptureFile {
    /// Opens `-` or a file by name. An existing file is overwritten; a new one is readable only by
    /// its owner, because it shows who communicates with whom.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn create(name: &Path) -> Result<Self, CommandError> {
        if name.as_os_str() != "-" {
            let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(name);
            let file = file.map_err(|error| {
                CommandError::new(of_path(&error), format!("cannot write the capture to {}: {error}", name.display()))
            })?;
            return Ok(Self::Named(name.to_owned(), file));
        }
        Self::check(name)?;
        Ok(Self::Output)
    }

    /// Checks an output's name before the capture starts.
    ///
    /// # Errors
    /// [`CommandError`] if the capture would be written to a terminal.
    pub fn check(name: &Path) -> Result<(), CommandError> {
        if name.as_os_str() == "-" && io::stdout().is_terminal() {
            return Err(CommandError::usage(
                "a capture is binary and is not written to a terminal: name a file, or pipe it into \
                 'tshark -r -' or 'wireshark -k -i -'",
            ));
        }
        Ok(())
    }

    /// Appends bytes; false if the reader of standard output has closed it.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<bool, CommandError> {
        let done = match self {
            Self::Output => {
                let mut output = io::stdout().lock();
                output.write_all(bytes).and_then(|()| output.flush())
            }
            Self::Named(_, file) => file.write_all(bytes),
        };
        match done {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(CommandError::failed(format!("cannot write the capture to {}: {error}", self.name()))),
        }
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Output => "standard output".to_owned(),
            Self::Named(name, _) => name.display().to_string(),
        }
    }
}

/// Reports the outcome of a capture, and returns the exit code.
///
/// # Errors
/// [`CommandError`] if the capture ended early.
pub fn conclude(summary: &Summary, name: &str, quiet: bool) -> Result<ExitCode, CommandError> {
    if !quiet || summary.dropped > 0 {
        let remedy = if summary.dropped > 0 { " (a smaller --snap or a faster reader loses fewer)" } else { "" };
        let (packets, dropped) = (counted(summary.packets, "packet"), show_count(summary.dropped));
        say_aside!("culvert: {packets} captured, {dropped} dropped because the buffer was full{remedy}");
    }
    match &summary.cut_short {
        Some(why) => Err(CommandError::new(
            ExitCode::Temporary,
            format!("{why}: {name} contains what was captured until then; start the capture again to continue"),
        )),
        None => Ok(ExitCode::Done),
    }
}
