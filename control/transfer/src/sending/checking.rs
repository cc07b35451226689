//! Files are checked after their last chunk was delivered: did they change while they were read?

use std::sync::Arc;

use culvert_protocol::tree_hash::ChunkHash;

use crate::sending::done::Done;
use crate::sending::files::{OpenedFile, check};
use crate::sending::job::Job;
use crate::sending::payload::Payload;

/// Lets a helper check a file. `opened` is what it was read from, `hash` what was sent.
pub(super) fn begin_to_check(job: &Job, file: u32, opened: Option<Arc<OpenedFile>>, hash: Option<ChunkHash>) {
    let Payload::Files { tree, .. } = &job.payload else { return };
    let tree = tree.clone();
    job.help_blocking(move || {
        let result = check(&tree, file, opened.as_deref(), hash);
        Done::Checked { file, result }
    });
}
