//! What a sending flow remembers of a packet.

/// The segment that a packet number carried, in 64 bits: slot + 1, generation, index. Zero if it
/// carried none, or its loss was handled. A new window is thus zeroed memory, which costs nothing
/// before it is used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PacketRecord(u64);

impl PacketRecord {
    pub(super) const NONE: Self = Self(0);

    pub(super) const fn new(slot: u16, generation: u16, index: u32) -> Self {
        Self((slot as u64).wrapping_add(1) << 48 | (generation as u64) << 32 | index as u64)
    }

    /// Slot, generation and index; the slot of no segment is beyond every flow's.
    #[expect(clippy::cast_possible_truncation, reason = "each takes its bits out of the 64")]
    pub(super) const fn parts(self) -> (u16, u16, u32) {
        ((self.0 >> 48).wrapping_sub(1) as u16, (self.0 >> 32) as u16, self.0 as u32)
    }
}
