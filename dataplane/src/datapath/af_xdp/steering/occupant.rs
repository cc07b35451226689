//! Which XDP program an interface has, for the message that names it.

use aya::programs::loaded_programs;
use culvert_link::rtnetlink::{LINK_BYTES, RouteSocket, attributes, u32_of};

// Attributes of include/uapi/linux/if_link.h.
const IFLA_XDP: u16 = 43;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;

/// The program at an interface, in words with a comma before them; nothing, if it cannot be told.
pub fn of(interface: u32) -> String {
    let Ok(links) = RouteSocket::open().and_then(|socket| socket.ask_links(Some(interface))) else {
        return String::new();
    };
    links.first().map(|link| said(link, name_of)).unwrap_or_default()
}

/// What an interface's entry says, with the programs' names by their ids.
fn said(link: &[u8], name_of: impl Fn(u32) -> Option<String>) -> String {
    let attached = attributes(link.get(LINK_BYTES..).unwrap_or_default()).find(|&(kind, _)| kind == IFLA_XDP);
    let programs = attached.into_iter().flat_map(|(_, attached)| attributes(attached)).filter_map(|(kind, id)| {
        let mode = match kind {
            IFLA_XDP_DRV_PROG_ID => "driver",
            IFLA_XDP_SKB_PROG_ID => "skb",
            IFLA_XDP_HW_PROG_ID => "hardware",
            _ => return None,
        };
        let id = u32_of(id)?;
        let name = name_of(id).unwrap_or_else(|| "one without a name".to_owned());
        Some(format!(", {name} (id {id}, {mode} mode)"))
    });
    programs.collect()
}

fn name_of(id: u32) -> Option<String> {
    let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id)?;
    program.name_as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn programs_are_named_with_their_modes() {
        let name_of = |id| (id == 7).then(|| "steer".to_owned());
        let link = |inner: &[Vec<u8>]| [vec![0; LINK_BYTES], attribute(IFLA_XDP, &inner.concat())].concat();
        // The mode of attachment, and the id again, as the kernel reports a single program.
        let (mode, id) = (attribute(2, &[1]), attribute(4, &7u32.to_ne_bytes()));
        let driver = attribute(IFLA_XDP_DRV_PROG_ID, &7u32.to_ne_bytes());
        let single = link(&[mode.clone(), id, driver.clone()]);
        assert_eq!(said(&single, name_of), ", steer (id 7, driver mode)");
        let hardware = attribute(IFLA_XDP_HW_PROG_ID, &9u32.to_ne_bytes());
        let both = said(&link(&[mode, driver, hardware]), name_of);
        assert_eq!(both, ", steer (id 7, driver mode), one without a name (id 9, hardware mode)");
        assert_eq!(said(&link(&[attribute(2, &[0])]), name_of), "");
        for length in 0..single.len() {
            assert!(!said(&single[..length], name_of).contains("id 7"), "{length} bytes");
        }
    }

    #[test]
    fn an_interface_without_a_program_has_none_to_name() {
        assert_eq!(of(999_999), "");
    }
}
