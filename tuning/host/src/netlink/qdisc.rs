//! Queueing disciplines of a link by rtnetlink, with their options as the kernel encoded them.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use serde::{Deserialize, Serialize};

use super::attributes::{Attributes, Body, u32_of};
use super::error::NetlinkError;
use super::numbers::{
    RTM_DELQDISC, RTM_GETQDISC, RTM_NEWQDISC, TC_H_INGRESS, TC_H_ROOT, TCA_FQ_FLOW_MAX_RATE, TCA_KIND, TCA_OPTIONS,
};
use super::sockets::Netlink;

/// Length of `struct tcmsg`.
const TCMSG_BYTES: usize = 20;

/// The queueing disciplines of one link, the root first, in the order of their parents.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QdiscTree(pub Vec<QdiscEntry>);

/// One queueing discipline.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QdiscEntry {
    /// `fq`, `mq`, `pfifo_fast`, …
    pub kind: String,
    /// `root`, or the class that it is attached to (`8001:3`), in hexadecimal as tc writes it.
    pub parent: String,
    /// Its handle (`8001:`); `0:` means that the kernel created it by default.
    pub handle: String,
    /// The content of `TCA_OPTIONS`, attributes or a structure, in hexadecimal.
    pub options: String,
}

impl QdiscEntry {
    /// Whether the kernel created it by default.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.handle == "0:"
    }

    /// The rate that fq allows each flow, in bits per second; `None` is no limit, or another kind.
    #[must_use]
    pub fn max_rate_bits_per_second(&self) -> Option<u64> {
        let options = from_hex(&self.options)?;
        let bytes_per_second = Attributes(&options).u32(TCA_FQ_FLOW_MAX_RATE)?;
        (self.kind == "fq" && bytes_per_second != u32::MAX).then(|| u64::from(bytes_per_second) * 8)
    }

    /// An fq with a rate for each flow. The attribute has 32 bits for bytes per second, so the rate
    /// is capped at 34 Gb/s.
    #[must_use]
    pub fn fq(parent: &str, max_rate_bits_per_second: Option<u64>) -> Self {
        let mut options = Body::default();
        if let Some(rate) = max_rate_bits_per_second {
            options.u32(TCA_FQ_FLOW_MAX_RATE, u32::try_from(rate / 8).unwrap_or(u32::MAX));
        }
        Self { kind: "fq".to_owned(), parent: parent.to_owned(), handle: String::new(), options: to_hex(&options.0) }
    }

    /// Whether these options include all of `wanted`: compared by attribute if both are attributes,
    /// else byte by byte.
    pub fn options_include(&self, wanted: &str) -> bool {
        if wanted.is_empty() || self.options == wanted {
            return true;
        }
        let (Some(found), Some(wanted)) = (from_hex(&self.options), from_hex(wanted)) else { return false };
        if !is_attributes(&found) || !is_attributes(&wanted) {
            return false;
        }
        Attributes(&wanted).iter().all(|(kind, value)| Attributes(&found).get(kind) == Some(value))
    }

    fn parse(message: &[u8]) -> Option<(u32, Self)> {
        let header = message.get(..TCMSG_BYTES)?;
        let attributes = Attributes(&message[TCMSG_BYTES..]);
        let parent = u32_of(&header[12..16])?;
        let entry = Self {
            kind: attributes.text(TCA_KIND)?,
            parent: if parent == TC_H_ROOT { "root".to_owned() } else { class_name(parent) },
            handle: handle_name(u32_of(&header[8..12])?),
            options: to_hex(attributes.get(TCA_OPTIONS).unwrap_or_default()),
        };
        // Ingress and clsact exist next to the root and stay unchanged.
        (parent != TC_H_INGRESS).then_some((u32_of(&header[4..8])?, entry))
    }
}

/// Whether the bytes are well-formed attributes; some kinds (pfifo, pfifo_fast) have a plain
/// structure instead.
fn is_attributes(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(length) = rest.get(..4).map(|head| usize::from(u16::from_ne_bytes([head[0], head[1]]))) {
        if length < 4 || length > rest.len() {
            return false;
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    rest.is_empty()
}

fn class_name(handle: u32) -> String {
    format!("{:x}:{:x}", handle >> 16, handle & 0xffff)
}

fn handle_name(handle: u32) -> String {
    format!("{:x}:", handle >> 16)
}

fn parse_class(text: &str) -> Option<u32> {
    if text == "root" {
        return Some(TC_H_ROOT);
    }
    let (major, minor) = text.split_once(':')?;
    let number = |part: &str| if part.is_empty() { Some(0) } else { u32::from_str_radix(part, 16).ok() };
    Some(number(major)? << 16 | number(minor)?)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || text.len() % 2 == 1 {
        return None;
    }
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()).collect()
}

fn message(index: u32, parent: u32, handle: u32) -> Body {
    let mut header = [0_u8; TCMSG_BYTES];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&handle.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    Body::with_header(&header)
}

impl Netlink {
    /// The queueing disciplines of a link.
    pub(crate) fn qdiscs(&mut self, index: u32) -> Result<QdiscTree, NetlinkError> {
        let messages = self.route.dump(RTM_GETQDISC, &message(index, 0, 0), "listing the queueing disciplines")?;
        let mut entries: Vec<QdiscEntry> = messages
            .iter()
            .filter_map(|message| QdiscEntry::parse(message))
            // Kernels before 4.20 ignore the index in the request.
            .filter(|(found, _)| *found == index)
            .map(|(_, entry)| entry)
            .collect();
        entries.sort_by_key(|entry| (entry.parent != "root", parse_class(&entry.parent)));
        Ok(QdiscTree(entries))
    }

    /// Attaches one queueing discipline to its parent, in place of the existing one.
    pub(crate) fn replace_qdisc(&mut self, index: u32, entry: &QdiscEntry) -> Result<(), NetlinkError> {
        let wrong = || NetlinkError {
            request: format!("attaching the queueing discipline {}", entry.kind),
            errno: None,
            reason: format!("parent '{}', handle '{}' or options are damaged", entry.parent, entry.handle),
        };
        let parent = parse_class(&entry.parent).ok_or_else(wrong)?;
        // Without a handle, or with that of a default one, the kernel chooses.
        let handle = if entry.handle.is_empty() { 0 } else { parse_class(&entry.handle).ok_or_else(wrong)? };
        let options = from_hex(&entry.options).ok_or_else(wrong)?;
        let mut body = message(index, parent, handle);
        body.text(TCA_KIND, &entry.kind);
        if !options.is_empty() {
            body.bytes(TCA_OPTIONS, &options);
        }
        let request = format!("attaching the queueing discipline {} at {}", entry.kind, entry.parent);
        self.route.change(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, &body, &request)
    }

    /// Removes the root, so that the kernel attaches its default.
    pub(crate) fn delete_root_qdisc(&mut self, index: u32) -> Result<(), NetlinkError> {
        let body = message(index, TC_H_ROOT, 0);
        match self.route.change(RTM_DELQDISC, 0, &body, "removing the root queueing discipline") {
            // Only the default is attached: nothing to remove.
            Err(error) if matches!(error.errno, Some(libc::ENOENT | libc::EINVAL)) => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_and_classes_are_written_as_tc_does() {
        assert_eq!(class_name(0x8001_0003), "8001:3");
        assert_eq!(parse_class("8001:3"), Some(0x8001_0003));
        assert_eq!(parse_class("8001:"), Some(0x8001_0000));
        assert_eq!(parse_class("root"), Some(TC_H_ROOT));
        assert_eq!(parse_class("x"), None);
    }

    #[test]
    fn the_rate_of_fq_is_read_and_compared() {
        let wanted = QdiscEntry::fq("root", Some(2_000_000_000));
        assert_eq!(wanted.max_rate_bits_per_second(), Some(2_000_000_000));
        let mut full = Body::default();
        full.u32(1, 10_000).u32(TCA_FQ_FLOW_MAX_RATE, 250_000_000).u32(2, 100);
        let found = QdiscEntry { options: to_hex(&full.0), ..wanted.clone() };
        assert!(found.options_include(&wanted.options));
        assert!(!found.options_include(&QdiscEntry::fq("root", Some(1_000_000_000)).options));
        assert!(found.options_include(""));
    }

    #[test]
    fn a_bare_structure_is_compared_byte_by_byte() {
        let entry = |options: &str| QdiscEntry { options: options.to_owned(), ..QdiscEntry::default() };
        assert!(entry("e8030000").options_include("e8030000"));
        assert!(!entry("e8030000").options_include("e9030000"));
    }
}
