//! Chooses the interface for AF_XDP: the named one, or the one that leads to the partner, or the
//! only candidate. An interface that carries the caller's own ssh connection must be named, so that
//! nobody locks themselves out by experimenting.

use std::io;
use std::net::IpAddr;

use culvert_link::kernel_bypass::AfXdpStart;

use crate::next_hop::constants::{IFF_LOOPBACK, IFF_UP};
use crate::next_hop::{Link, Tables};

/// Why no interface can be used for AF_XDP.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// The tables cannot be read.
    #[error("cannot read the kernel's tables of interfaces: {0}")]
    Tables(#[from] io::Error),
    /// No such interface.
    #[error("there is no interface '{0}': 'ip link' lists all")]
    Unknown(String),
    /// None or several are candidates.
    #[error("AF_XDP needs an interface, but {found}: name one with --interface")]
    Unclear {
        /// What was found, in words.
        found: String,
    },
}

/// The facts from which an interface is chosen.
#[derive(Debug, Default)]
struct InterfaceCandidates {
    links: Vec<Link>,
    /// Addresses, each with its interface.
    addresses: Vec<(u32, IpAddr)>,
    /// Interfaces with the local address of the caller's ssh connection, or leading to its client.
    ssh: Vec<u32>,
}

impl Tables {
    /// The parameters of AF_XDP on an interface: the named one; or else the one that leads to
    /// `partner`; or, if no partner is known either, the only candidate.
    ///
    /// # Errors
    /// [`InterfaceError`].
    pub fn interface(&self, name: Option<&str>, partner: Option<IpAddr>) -> Result<AfXdpStart, InterfaceError> {
        let mut candidates =
            InterfaceCandidates { links: self.links(None)?, addresses: self.addresses()?, ssh: Vec::new() };
        let link = match (name, partner) {
            (Some(name), _) => candidates.named(name)?,
            (None, partner) => {
                candidates.ssh = self.ssh_interfaces(&candidates.addresses)?;
                match partner.map(|partner| partner.to_canonical()) {
                    Some(partner) => candidates.towards(partner, self.route(partner)?.map(|route| route.interface))?,
                    None => candidates.only_candidate()?,
                }
            }
        };
        Ok(AfXdpStart {
            interface: link.index,
            name: link.name.clone(),
            queues: receive_queues(&link.name),
            mtu: link.mtu,
            addresses: candidates.addresses.iter().map(|&(_, address)| address).collect(),
            only: None,
            busy_poll_us: None,
        })
    }

    /// Interfaces that the caller's ssh connection needs. `SSH_CONNECTION` is the client's address
    /// and port, then the server's.
    fn ssh_interfaces(&self, addresses: &[(u32, IpAddr)]) -> io::Result<Vec<u32>> {
        let Ok(connection) = std::env::var("SSH_CONNECTION") else { return Ok(Vec::new()) };
        let mut words = connection.split(' ').map(|word| word.parse::<IpAddr>().ok());
        let (client, here) = (words.next().flatten(), words.nth(1).flatten());
        let with_address = addresses.iter().filter(|&&(_, address)| Some(address) == here).map(|&(index, _)| index);
        let mut interfaces: Vec<u32> = with_address.collect();
        if let Some(client) = client {
            interfaces.extend(self.route(client.to_canonical())?.map(|route| route.interface));
        }
        Ok(interfaces)
    }
}

impl InterfaceCandidates {
    fn named(&self, name: &str) -> Result<&Link, InterfaceError> {
        self.links.iter().find(|link| link.name == name).ok_or_else(|| InterfaceError::Unknown(name.to_owned()))
    }

    fn with_index(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// Whether the caller's ssh connection uses a link, a VLAN on it, or the bridge or bond that it
    /// belongs to.
    fn carries_ssh(&self, link: &Link) -> bool {
        self.ssh.iter().filter_map(|&index| self.with_index(index)).any(|on| {
            let below = on.vlan.map(|(below, _)| below);
            [Some(on.index), below].contains(&Some(link.index)) || link.master.is_some_and(|master| master == on.index)
        })
    }

    /// The interface through which packets to the partner leave.
    fn towards(&self, partner: IpAddr, leaves_by: Option<u32>) -> Result<&Link, InterfaceError> {
        let unclear = |found: String| InterfaceError::Unclear { found };
        let unreachable = || unclear(format!("no interface leads to {partner}"));
        let link = leaves_by.and_then(|index| self.with_index(index)).ok_or_else(unreachable)?;
        // A VLAN's packets leave through the link below it.
        let link = link.vlan.map_or(Some(link), |(below, _)| self.with_index(below)).ok_or_else(unreachable)?;
        if self.carries_ssh(link) {
            return Err(unclear(format!("{}, which leads to {partner}, carries this ssh connection", link.name)));
        }
        Ok(link)
    }

    /// The only candidate: up, with an address, neither loopback nor needed by the caller's ssh
    /// connection.
    fn only_candidate(&self) -> Result<&Link, InterfaceError> {
        let is_candidate = |link: &&Link| {
            link.flags & (IFF_UP | IFF_LOOPBACK) == IFF_UP
                && link.vlan.is_none()
                && self.addresses.iter().any(|&(index, _)| index == link.index)
                && !self.carries_ssh(link)
        };
        let candidates: Vec<&Link> = self.links.iter().filter(is_candidate).collect();
        let found = match candidates[..] {
            [link] => return Ok(link),
            [] => "no interface is up that does not carry this ssh connection".to_owned(),
            _ => {
                let names: Vec<&str> = candidates.iter().map(|link| link.name.as_str()).collect();
                format!("several are up ({})", names.join(", "))
            }
        };
        Err(InterfaceError::Unclear { found })
    }
}

/// The number of receive queues; 0 if it is unknown.
fn receive_queues(name: &str) -> u32 {
    let Ok(queues) = std::fs::read_dir(format!("/sys/class/net/{name}/queues")) else { return 0 };
    let queues = queues.flatten().filter(|queue| queue.file_name().to_string_lossy().starts_with("rx-")).count();
    u32::try_from(queues).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, flags: u32) -> Link {
        Link { index, name: format!("n{index}"), flags, ..Link::default() }
    }

    fn at(index: u32, last: u8) -> (u32, IpAddr) {
        (index, IpAddr::from([10, 0, 0, last]))
    }

    fn partner() -> IpAddr {
        IpAddr::from([10, 9, 9, 9])
    }

    #[test]
    fn an_unknown_interface_is_named_in_the_error() {
        let error = Tables::open().unwrap().interface(Some("nosuch0"), None).unwrap_err();
        assert!(error.to_string().contains("nosuch0"), "{error}");
    }

    #[test]
    fn without_a_partner_the_interface_must_be_clear() {
        let links = vec![link(1, IFF_UP | IFF_LOOPBACK), link(2, IFF_UP), link(3, IFF_UP), link(4, 0)];
        let with = |addresses: &[(u32, IpAddr)], ssh: &[u32]| InterfaceCandidates {
            links: links.clone(),
            addresses: addresses.to_vec(),
            ssh: ssh.to_vec(),
        };
        assert_eq!(with(&[at(1, 1), at(2, 2), at(4, 4)], &[]).only_candidate().unwrap().index, 2);
        let both = [at(2, 2), at(3, 3)];
        let error = with(&both, &[]).only_candidate().unwrap_err().to_string();
        assert!(error.contains("n2, n3") && error.contains("--interface"), "{error}");
        assert_eq!(with(&both, &[3]).only_candidate().unwrap().index, 2, "the other one carries ssh");
        assert!(with(&both, &[2, 3]).only_candidate().unwrap_err().to_string().contains("ssh"));
        assert!(with(&[], &[]).only_candidate().is_err());
    }

    #[test]
    fn a_partner_decides_unless_ssh_goes_the_same_way() {
        let vlan = Link { vlan: Some((2, 7)), ..link(5, IFF_UP) };
        let port = Link { master: Some(6), ..link(3, IFF_UP) };
        let links = vec![link(2, IFF_UP), port, link(4, IFF_UP), vlan, link(6, IFF_UP)];
        let with = |ssh: &[u32]| InterfaceCandidates { links: links.clone(), addresses: Vec::new(), ssh: ssh.to_vec() };
        assert_eq!(with(&[]).towards(partner(), Some(4)).unwrap().index, 4);
        assert_eq!(with(&[2]).towards(partner(), Some(4)).unwrap().index, 4);
        assert_eq!(with(&[]).towards(partner(), Some(5)).unwrap().index, 2, "the link below a VLAN");
        for (leaves_by, ssh) in [(4, 4), (5, 2), (2, 5), (5, 5), (3, 6)] {
            let error = with(&[ssh]).towards(partner(), Some(leaves_by)).unwrap_err().to_string();
            assert!(error.contains("ssh") && error.contains("10.9.9.9"), "{leaves_by}, ssh on {ssh}: {error}");
        }
        for leaves_by in [None, Some(99)] {
            let error = with(&[]).towards(partner(), leaves_by).unwrap_err().to_string();
            assert!(error.contains("no interface leads to 10.9.9.9"), "{error}");
        }
    }
}
