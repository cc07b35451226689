//! Netlink attributes: type, length, value, padded to four bytes (`include/uapi/linux/netlink.h`).

use netlink_packet_core::{NLA_F_NESTED, NlasIterator};

/// A sequence of attributes to read. Reading stops without an error at a malformed attribute, which
/// the kernel never sends.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// Type and value of each attribute; flags in the type are masked out.
    pub(super) fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        NlasIterator::new(self.0).map_while(Result::ok).map(|attribute| {
            // The value borrows from the message, not from the iterator's item.
            let value: &'a [u8] = &attribute.into_inner()[4..];
            (attribute.kind(), &value[..attribute.value_length()])
        })
    }

    /// The value of the first attribute of a type.
    pub(super) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// The attributes inside an attribute.
    pub(super) fn nest(self, kind: u16) -> Option<Attributes<'a>> {
        self.get(kind).map(Attributes)
    }

    /// A byte.
    pub(super) fn u8(self, kind: u16) -> Option<u8> {
        self.get(kind)?.first().copied()
    }

    /// A native 32-bit number.
    pub(super) fn u32(self, kind: u16) -> Option<u32> {
        u32_of(self.get(kind)?)
    }

    /// A native number of 4 or 8 bytes (the specs' `uint`, and plain `u64`).
    pub(super) fn number(self, kind: u16) -> Option<u64> {
        let value = self.get(kind)?;
        match value.len() {
            8 => Some(u64::from_ne_bytes(value.try_into().ok()?)),
            _ => u32_of(value).map(u64::from),
        }
    }

    /// A text that ends at a zero byte or at the end of the attribute.
    pub(super) fn text(self, kind: u16) -> Option<String> {
        let value = self.get(kind)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    }
}

/// The first four bytes as a native number.
pub(super) fn u32_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

/// A message body under construction.
#[derive(Clone, Debug, Default)]
pub(super) struct Body(pub(super) Vec<u8>);

impl Body {
    /// A body that starts with a fixed header.
    pub(super) fn with_header(header: &[u8]) -> Self {
        assert!(header.len().is_multiple_of(4), "a netlink header of {} bytes", header.len());
        Self(header.to_vec())
    }

    /// Appends an attribute.
    ///
    /// # Panics
    /// If the value exceeds the attribute's 16-bit length; no caller passes one.
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).expect("attributes written here are short");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        // Invariant I-netlink-alignment: The next attribute of a netlink message starts on a
        // multiple of four bytes.
        assert!(self.0.len().is_multiple_of(4), "a netlink attribute ends at byte {}", self.0.len());
        self
    }

    /// Appends a byte.
    pub(super) fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// Appends a native 32-bit number.
    pub(super) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Appends a text with a terminating zero.
    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Appends a nested attribute.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::default();
        fill(&mut inner);
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut body = Body::default();
        body.u8(1, 7).u32(2, 0x0102_0304).text(3, "eth0").nest(4, |inner| {
            inner.u32(9, 5);
        });
        body.bytes(5, &9_u64.to_ne_bytes());
        let read = Attributes(&body.0);
        assert_eq!(read.u8(1), Some(7));
        assert_eq!(read.u32(2), Some(0x0102_0304));
        assert_eq!(read.text(3).as_deref(), Some("eth0"));
        assert_eq!(read.nest(4).unwrap().u32(9), Some(5));
        assert_eq!((read.number(5), read.number(2)), (Some(9), Some(0x0102_0304)));
        assert_eq!(read.get(6), None);
    }

    #[test]
    fn a_cut_message_ends_quietly() {
        let mut body = Body::default();
        body.u32(1, 1).u32(2, 2);
        for length in 0..body.0.len() {
            assert!(Attributes(&body.0[..length]).iter().count() < 2);
        }
    }
}
