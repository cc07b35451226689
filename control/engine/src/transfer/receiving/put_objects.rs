//! Small objects that were given to a store.

use culvert_objects::sink::ObjectSink;
use culvert_protocol::control::FileError;

use crate::transfer::receiving::intake::Intake;

/// Small objects that were given to a store.
#[derive(Debug, Default)]
pub(super) struct Put {
    /// The pack that they came with; none if they came with none, being empty.
    pub(super) pack: Option<u32>,
    /// Whether bytes were not those that the sender hashed: then nothing was stored.
    pub(super) is_mismatched: bool,
    /// Those that are stored.
    pub(super) stored: Vec<u32>,
    /// Those that are not.
    pub(super) failed: Vec<FileError>,
}

impl Put {
    pub(super) fn one(&mut self, sink: &dyn ObjectSink, intake: &Intake, file: u32, bytes: &[u8]) {
        match sink.put(&intake.manifest, file, bytes) {
            Ok(()) => self.stored.push(file),
            Err(error) => self.failed.push(error),
        }
    }
}
