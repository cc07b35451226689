//! What the journal says of a file that is stored.

use culvert_journal::{Record, change_time};
use culvert_objects::fs::destination::small_files::staged::StoredFile;
use culvert_objects::fs::sources::hash_of;
use culvert_protocol::manifest::Entry;
use culvert_protocol::tree_hash::ChunkHash;

/// The journal's records of a file that is stored: what it could not get, and that it is done.
pub fn records_of(entry: &Entry<'_>, hash: ChunkHash, stored: &StoredFile) -> impl Iterator<Item = Record> + use<> {
    let StoredFile { stat, refused, .. } = stored;
    let not_kept = (!refused.is_nothing()).then(|| Record::not_kept(entry.name, stat.st_ino, *refused));
    let done = Record::Done {
        name: hash_of(entry.name),
        bytes: stat.st_size as u64,
        modified: entry.modified,
        hash,
        inode: stat.st_ino,
        changed: change_time(stat),
    };
    not_kept.into_iter().chain([done])
}
