//! Unsigned LEB128 integers, the encoding of the reports' lists: most of their numbers are small.

/// The longest encoding of a 64-bit integer.
pub const VARINT_BYTES_MAX: usize = 10;

/// Writes integers into a bounded buffer and remembers whether all of them fitted.
#[derive(Debug)]
pub struct VarintWriter<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> VarintWriter<'a> {
    /// Writes into `out` from its beginning.
    pub fn new(out: &'a mut [u8]) -> Self {
        Self { out, len: 0 }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that are still free.
    #[must_use]
    pub fn room(&self) -> usize {
        self.out.len().saturating_sub(self.len)
    }

    /// Appends `value`. Callers check [`VarintWriter::room`] once per group of numbers; what has no
    /// room is cut off, and no reader takes it for whole.
    #[expect(clippy::cast_possible_truncation, reason = "the lowest seven bits are meant")]
    pub fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put_byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.put_byte(value as u8);
    }

    #[inline]
    fn put_byte(&mut self, byte: u8) {
        if let Some(place) = self.out.get_mut(self.len) {
            *place = byte;
            self.len = self.len.saturating_add(1);
        }
    }
}

/// Reads one integer from the front of `bytes` and moves `bytes` past it. `None` if it is
/// truncated, longer than 64 bits, or not the shortest encoding of its value.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let (mut value, mut shift, mut rest) = (0u64, 0u32, *bytes);
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits.unbounded_shl(shift);
        if byte & 0x80 == 0 {
            let shortest = byte != 0 || shift == 0;
            *bytes = rest;
            return shortest.then_some(value);
        }
        shift = shift.saturating_add(7);
        if shift > 63 {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(values in proptest::collection::vec(any::<u64>(), 0..20)) {
            let mut bytes = [0; 20 * VARINT_BYTES_MAX];
            let mut writer = VarintWriter::new(&mut bytes);
            for &value in &values {
                writer.put(value);
            }
            let len = writer.len();
            let mut rest = &bytes[..len];
            for &value in &values {
                prop_assert_eq!(take_varint(&mut rest), Some(value));
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut rest = bytes.as_slice();
            while let Some(value) = take_varint(&mut rest) {
                let mut again = [0; VARINT_BYTES_MAX];
                let mut writer = VarintWriter::new(&mut again);
                writer.put(value);
                prop_assert!(writer.len() <= VARINT_BYTES_MAX);
            }
        }
    }

    #[test]
    fn cut_off_overlong_and_padded_numbers_are_refused() {
        assert_eq!(take_varint(&mut [].as_slice()), None);
        assert_eq!(take_varint(&mut [0x80].as_slice()), None);
        assert_eq!(take_varint(&mut [0x80, 0x00].as_slice()), None);
        assert_eq!(take_varint(&mut [0xff; 10].as_slice()), None);
        assert_eq!(
            take_varint(&mut [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01].as_slice()),
            Some(u64::MAX)
        );
    }
}
