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
        self.out.len() - self.len
    }

    /// Appends `value`.
    ///
    /// # Panics
    /// If there is no room: callers check [`VarintWriter::room`] once per group of numbers.
    pub fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out[self.len] = value as u8 | 0x80;
            self.len += 1;
            value >>= 7;
        }
        self.out[self.len] = value as u8;
        self.len += 1;
    }
}

/// Reads one integer from the front of `bytes` and moves `bytes` past it. `None` if it is cut off, longer than 64
/// bits, or not the shortest encoding of its value.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (at, &byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if at == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * at);
        if byte & 0x80 == 0 {
            let shortest = byte != 0 || at == 0;
            *bytes = &bytes[at + 1..];
            return shortest.then_some(value);
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
