//! Measurements: bytes that come from memory, and are verified and forgotten.

/// Chunks of a measurement of `bytes`.
#[must_use]
pub fn memory_chunks(bytes: u64, chunk_bytes: u32) -> u32 {
    u32::try_from(bytes.div_ceil(chunk_bytes.into())).unwrap_or(u32::MAX)
}
