//! The steering program seen from the data plane: loads it, attaches it, and enters queues, ports
//! and flows into its maps.
//!
//! The program (`ebpf/src/main.rs`) is committed as an object; `cargo xtask build-ebpf` makes it.
//! It is loaded and attached while the process has its capabilities. Its maps are changed later
//! through their descriptors, which needs no capability (Linux 5.19). The attachment is a BPF link:
//! it ends with the process, however that ends.

pub mod cost;
mod occupant;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{Array, MapData, MapError, XskMap};
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, TestRun as _, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfError};
use culvert_link::kernel_bypass::{ProgramCounters, Verdicts};

/// The object, compiled from `ebpf/`.
pub const OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../ebpf/steering.o");
/// The program's name in the object, and as `bpftool` shows it.
pub const PROGRAM: &str = "steer";

/// Why there is no steering.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// Capabilities are missing.
    #[error("{} missing: run as root, or grant the program the capabilities", .0.join(" and "))]
    NotPermitted(Vec<&'static str>),
    /// The kernel refuses the program.
    #[error("the kernel refuses the steering program: {0}")]
    Load(String),
    /// Another program is attached.
    #[error(
        "the interface already has an XDP program{program}: detach it (ip link set DEVICE xdp off, \
         or stop its owner), or leave the interface out"
    )]
    Occupied {
        /// Which, in words with a comma before them; empty if it cannot be told.
        program: String,
    },
    /// The driver has no XDP.
    #[error("the driver has no XDP")]
    NoXdp,
    /// The MTU is too large.
    #[error(
        "the driver refuses XDP at the interface's MTU: lower it (3498 bytes fit one page), or use \
         a kernel whose driver supports multi-buffer packets"
    )]
    MtuTooLarge,
    /// Receive merging, or the number of channels, prevents it.
    #[error(
        "the driver refuses XDP ({0}): some drivers need receive merging turned off (ethtool -K \
         DEVICE lro off gro-hw off), or half of their channels free (ethtool -L)"
    )]
    Refused(io::Error),
    /// The interface is gone.
    #[error("the interface is gone")]
    Gone,
    /// A map cannot be changed.
    #[error("the steering program's {map} cannot be changed: {error}")]
    Map {
        /// Which.
        map: &'static str,
        /// Why.
        error: String,
    },
}

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver.
    Driver,
    /// Behind it, on socket buffers.
    Skb,
}

/// Lines of counters that each queue has in the program's map.
const LINES_PER_QUEUE: u32 = 64;
/// Sources that [`Steering::census`] names: those that sent most.
const SOURCES_TOLD: usize = 16;

/// The loaded program and its maps.
pub struct Steering {
    /// Dropped first: detaches.
    links: Vec<FdLink>,
    sockets: XskMap<MapData>,
    queue_lanes: Array<MapData, u32>,
    ports: aya::maps::HashMap<MapData, u16, u32>,
    addresses: aya::maps::HashMap<MapData, [u8; 16], u8>,
    flows: aya::maps::HashMap<MapData, u64, u8>,
    sources: aya::maps::HashMap<MapData, [u8; 16], u64>,
    verdicts: Array<MapData, [u64; 8]>,
    /// How many flows of a lane have an id: partners choose the ids of sending flows, so two may be
    /// the same.
    bearers: HashMap<u64, u32>,
    lines: u32,
    /// Queues that are counted: those of the interface.
    queues: u32,
    ebpf: Ebpf,
}

impl fmt::Debug for Steering {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Steering")
            .field("links", &self.links)
            .field("bearers", &self.bearers)
            .finish_non_exhaustive()
    }
}

impl Steering {
    /// Loads the program; the verifier runs here.
    ///
    /// # Errors
    /// [`SteeringError`].
    pub fn load() -> Result<Self, SteeringError> {
        let mut ebpf = Ebpf::load(OBJECT).map_err(|error| load_error(&error))?;
        xdp(&mut ebpf)?.load().map_err(|error| load_error(&error.into()))?;
        let mut take = |map: &'static str| {
            ebpf.take_map(map).ok_or_else(|| SteeringError::Load(format!("the object has no map {map}")))
        };
        let not_the_kind = |error: MapError| SteeringError::Load(error.to_string());
        Ok(Self {
            links: Vec::new(),
            sockets: take("SOCKETS")?.try_into().map_err(not_the_kind)?,
            queue_lanes: take("QUEUE_LANES")?.try_into().map_err(not_the_kind)?,
            ports: take("PORTS")?.try_into().map_err(not_the_kind)?,
            addresses: take("ADDRESSES")?.try_into().map_err(not_the_kind)?,
            flows: take("FLOWS")?.try_into().map_err(not_the_kind)?,
            sources: take("SOURCES")?.try_into().map_err(not_the_kind)?,
            verdicts: take("VERDICTS")?.try_into().map_err(not_the_kind)?,
            bearers: HashMap::new(),
            lines: aya::util::nr_cpus().map_or(LINES_PER_QUEUE, |cores| LINES_PER_QUEUE.min(cores as u32)),
            queues: 1,
            ebpf,
        })
    }

    /// Attaches the program to an interface, until this value is dropped or the process ends.
    ///
    /// # Errors
    /// [`SteeringError`]; nothing stays attached then.
    pub fn attach(&mut self, interface: u32, mode: AttachMode) -> Result<(), SteeringError> {
        let program = xdp(&mut self.ebpf)?;
        let xdp_mode = match mode {
            AttachMode::Driver => XdpMode::Driver,
            AttachMode::Skb => XdpMode::Skb,
        };
        let id = program.attach_to_if_index(interface, xdp_mode).map_err(|error| attach_error(&error, interface))?;
        let link = program.take_link(id).map_err(|error| attach_error(&error, interface))?;
        // Without BPF links aya attaches by netlink, and that would outlive a killed process.
        let link =
            FdLink::try_from(link).map_err(|_| SteeringError::Refused(io::Error::from_raw_os_error(libc::EINVAL)))?;
        self.links.push(link);
        Ok(())
    }

    /// Takes the program off all interfaces.
    pub fn detach(&mut self) {
        self.links.clear();
    }

    /// Registers a lane's port.
    ///
    /// # Errors
    /// [`SteeringError::Map`].
    pub fn register_port(&mut self, port: u16, lane: u16) -> Result<(), SteeringError> {
        self.ports.insert(port, u32::from(lane) + 1, 0).map_err(map_error("ports"))
    }

    /// Registers a lane's socket on a queue.
    ///
    /// # Errors
    /// [`SteeringError::Map`].
    pub fn register_queue(&mut self, queue: u32, lane: u16, socket: &impl AsFd) -> Result<(), SteeringError> {
        self.sockets.set(queue, socket.as_fd().as_raw_fd(), 0).map_err(map_error("sockets"))?;
        self.queue_lanes.set(queue, u32::from(lane) + 1, 0).map_err(map_error("queues"))
    }

    /// Registers an address of this host.
    ///
    /// # Errors
    /// [`SteeringError::Map`].
    pub fn register_address(&mut self, address: IpAddr) -> Result<(), SteeringError> {
        self.addresses.insert(octets(address), 1, 0).map_err(map_error("addresses"))
    }

    /// Registers a flow of a lane.
    ///
    /// # Errors
    /// [`SteeringError::Map`].
    pub fn add_flow(&mut self, lane: u16, flow_id: u32) -> Result<(), SteeringError> {
        let key = flow_key(lane, flow_id);
        self.flows.insert(key, 1, 0).map_err(map_error("flows"))?;
        *self.bearers.entry(key).or_default() += 1;
        Ok(())
    }

    /// Removes a flow of a lane.
    pub fn remove_flow(&mut self, lane: u16, flow_id: u32) {
        let key = flow_key(lane, flow_id);
        let Some(bearers) = self.bearers.get_mut(&key) else { return };
        *bearers -= 1;
        if *bearers == 0 {
            self.bearers.remove(&key);
            // It was there; if it cannot be removed, its packets reach the lane, which rejects
            // them.
            let _ = self.flows.remove(&key);
        }
    }

    /// Sets how many queues the interface has; packets are counted for each.
    pub const fn count_queues(&mut self, queues: u32) {
        self.queues = if queues == 0 { 1 } else { queues };
    }

    /// What happened to packets of a queue since the program was loaded.
    #[must_use]
    pub fn queue_verdicts(&self, queue: u32) -> Verdicts {
        let mut sum = [0u64; 8];
        for line in 0..self.lines {
            let Ok(counts) = self.verdicts.get(&(queue * LINES_PER_QUEUE + line), 0) else { continue };
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        Verdicts::of(sum)
    }

    /// What happened to packets of all queues since the program was loaded.
    #[must_use]
    pub fn verdicts(&self) -> Verdicts {
        (0..self.queues).map(|queue| self.queue_verdicts(queue)).fold(Verdicts::default(), |sum, of_queue| Verdicts {
            passed: sum.passed + of_queue.passed,
            redirected: sum.redirected + of_queue.redirected,
            malformed: sum.malformed + of_queue.malformed,
            unknown_flow: sum.unknown_flow + of_queue.unknown_flow,
            wrong_queue: sum.wrong_queue + of_queue.wrong_queue,
            no_socket: sum.no_socket + of_queue.no_socket,
        })
    }

    /// All counters. The rules are not this program's and are left empty.
    #[must_use]
    pub fn census(&self) -> ProgramCounters {
        let mut sources = self.sources();
        sources.truncate(SOURCES_TOLD);
        let queues = (0..self.queues).map(|queue| self.queue_verdicts(queue)).collect();
        ProgramCounters { queues, sources, ..ProgramCounters::default() }
    }

    /// The sources of dropped packets, as far as they were attributed, most packets first.
    #[must_use]
    pub fn sources(&self) -> Vec<(IpAddr, u64)> {
        let mut sources: Vec<(IpAddr, u64)> = self
            .sources
            .iter()
            .filter_map(Result::ok)
            .map(|(address, packets)| (IpAddr::from(address).to_canonical(), packets))
            .collect();
        sources.sort_by_key(|&(_, packets)| std::cmp::Reverse(packets));
        sources
    }

    /// Runs the program on `frame` `repeat` times without a network. Returns its action (`XDP_*`)
    /// and the mean time of a run in nanoseconds.
    ///
    /// # Errors
    /// [`SteeringError::Load`], if the kernel refuses to run it.
    pub fn test_run(&mut self, frame: &[u8], repeat: u32) -> Result<(u32, u64), SteeringError> {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        let result = xdp(&mut self.ebpf)?.test_run(options).map_err(|error| SteeringError::Load(describe(&error)))?;
        Ok((result.return_value, result.duration.as_nanos() as u64))
    }
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, SteeringError> {
    let program = ebpf.program_mut(PROGRAM).ok_or_else(|| SteeringError::Load(format!("no program {PROGRAM}")))?;
    program.try_into().map_err(|error: ProgramError| SteeringError::Load(error.to_string()))
}

fn flow_key(lane: u16, flow_id: u32) -> u64 {
    ((u64::from(lane) + 1) << 32) | u64::from(flow_id)
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The chain of an error's causes; aya's own text stops at the first.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The error number at the end of a chain of causes.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        cause = error.source();
    }
    None
}

fn load_error(error: &EbpfError) -> SteeringError {
    match errno(error) {
        Some(libc::EPERM | libc::EACCES) if !super::privilege::missing().is_empty() => {
            SteeringError::NotPermitted(super::privilege::missing())
        }
        _ => SteeringError::Load(describe(error)),
    }
}

fn attach_error(error: &ProgramError, interface: u32) -> SteeringError {
    match errno(error) {
        Some(libc::EBUSY | libc::EEXIST) => SteeringError::Occupied { program: occupant::of(interface) },
        Some(libc::ERANGE) => SteeringError::MtuTooLarge,
        Some(libc::EOPNOTSUPP) => SteeringError::NoXdp,
        Some(libc::ENODEV | libc::ENXIO) => SteeringError::Gone,
        Some(libc::EPERM | libc::EACCES) => SteeringError::NotPermitted(super::privilege::missing()),
        Some(errno) => SteeringError::Refused(io::Error::from_raw_os_error(errno)),
        None => SteeringError::Load(describe(error)),
    }
}

fn map_error(map: &'static str) -> impl Fn(MapError) -> SteeringError {
    move |error| SteeringError::Map { map, error: describe(&error) }
}

#[cfg(test)]
mod tests;
