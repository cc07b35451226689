//! A chunk's range of an object that this process reads.

use culvert_objects::source::RangeReader;
use culvert_protocol::tree_hash::{ChunkHash, ChunkHasher};

/// A chunk's range of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// The object's size.
    pub(super) file_bytes: u64,
    /// Where the chunk begins.
    pub(super) offset: u64,
    /// Its size.
    pub(super) bytes: u32,
}

impl Range {
    /// Reads the range into the beginning of `place`, and hashes it if the transfer has hashes.
    pub(super) fn read(
        self,
        reader: &dyn RangeReader,
        place: &mut [u8],
        chunk_bytes: u32,
        checksum: bool,
    ) -> Result<ChunkHash, String> {
        let place = place.get_mut(..self.bytes as usize).ok_or("the buffer is too small")?;
        reader.read(self.offset, place)?;
        if !checksum {
            return Ok([0; 32]);
        }
        let mut hasher = ChunkHasher::new(self.file_bytes, self.offset, chunk_bytes);
        hasher.update(place);
        Ok(hasher.finish())
    }
}
