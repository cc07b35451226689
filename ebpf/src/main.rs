//! The XDP program that stands at a NIC's queue: segments of known flows go to the lane's AF_XDP socket, rubbish on the lanes' ports is dropped
//! here, and everything else goes through the kernel untouched.
//!
//! ```text
//! Ethernet (one 802.1Q tag) ── IPv4 without options and fragments, or IPv6 ── UDP ── to a registered port? ── no ──> PASS
//!     header malformed ──> DROP, counted        flow unknown on that lane ──> DROP, counted
//!     another lane's queue ──> PASS, counted: the kernel's socket of the right lane gets it
//!     else ──> the queue's AF_XDP socket; PASS if there is none
//! ```
//!
//! The header of a segment is read by the function that the lanes use, `culvert_protocol::wire`. The maps are filled by the
//! data plane (`dataplane/src/datapath/af_xdp/steering.rs`), which knows the layouts below by the same names.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_coarse_ns};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, XskMap};
use aya_ebpf::programs::XdpContext;
use culvert_protocol::wire::{HEADER_BYTES, Header};

/// Queues of a NIC that can have a socket.
const QUEUES_MAX: u32 = 256;
/// Lines of counters that each queue has. Cores beyond share lines; a queue is served by one core at a time but for skb mode.
const LINES_PER_QUEUE: u32 = 64;

/// Receive queue → AF_XDP socket.
#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(QUEUES_MAX, 0);

/// Receive queue → number of its lane plus one; 0 for a queue without a lane.
#[map]
static QUEUE_LANES: Array<u32> = Array::with_max_entries(QUEUES_MAX, 0);

/// UDP port → number of its lane plus one.
#[map]
static PORTS: HashMap<u16, u32> = HashMap::with_max_entries(QUEUES_MAX, 0);

/// Addresses of this host at which the ports are its own; IPv4 as mapped IPv6.
#[map]
static ADDRESSES: HashMap<[u8; 16], u8> = HashMap::with_max_entries(256, 0);

/// Lane plus one in the upper 32 bits, flow id in the lower → anything.
#[map]
static FLOWS: HashMap<u64, u8> = HashMap::with_max_entries(65_536, 0);

/// Who sent what was dropped: source address → packets. The least recent is evicted.
#[map]
static SOURCES: LruHashMap<[u8; 16], u64> = LruHashMap::with_max_entries(1_024, 0);

/// So many sources a second and core find their way into the table. Who is in it is always counted, so one that is loud takes nothing from others; and a
/// flood of forged sources does not spend the core on making room.
const NEW_SOURCES_PER_SECOND: u64 = 1_000;

/// The running second, and the sources that are new in it on this core.
#[map]
static ATTRIBUTION: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// Queue and core → what happened to packets there, by [`Verdict`], in a cache line of its own: a queue's lines lie in a row. No per-core map: reading
/// one takes the number of possible cores from a file, and the data plane opens no files any more when it reads this.
#[map]
static VERDICTS: Array<[u64; 8]> = Array::with_max_entries(QUEUES_MAX * LINES_PER_QUEUE, 0);

/// What happens to a packet.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Verdict {
    /// Not for a lane.
    Passed = 0,
    /// To the lane.
    Redirected = 1,
    /// For a lane, and no segment of this version: dropped.
    Malformed = 2,
    /// For a lane, of a flow that it does not have: dropped.
    UnknownFlow = 3,
    /// For another lane than this queue's: through the kernel.
    WrongQueue = 4,
    /// For this queue's lane, which has no socket: through the kernel.
    NoSocket = 5,
}

#[xdp(frags)]
pub fn steer(ctx: XdpContext) -> u32 {
    let (verdict, action) = match examine(&ctx) {
        Some(Packet { verdict: Verdict::Redirected, .. }) => {
            // The lower bits of the flags are what happens if the queue has no socket.
            match SOCKETS.redirect(queue_of(&ctx), XDP_PASS as u64) {
                Ok(action) if action != XDP_PASS => (Verdict::Redirected, action),
                _ => (Verdict::NoSocket, XDP_PASS),
            }
        }
        Some(Packet { verdict: Verdict::WrongQueue, .. }) => (Verdict::WrongQueue, XDP_PASS),
        Some(Packet { verdict, source }) => {
            attribute(&source);
            (verdict, XDP_DROP)
        }
        None => (Verdict::Passed, XDP_PASS),
    };
    // SAFETY: the helper has no arguments.
    let core = unsafe { bpf_get_smp_processor_id() };
    if let Some(counts) = VERDICTS.get_ptr_mut(queue_of(&ctx) * LINES_PER_QUEUE + core % LINES_PER_QUEUE) {
        // SAFETY: this core's own counters; an XDP program is not interrupted by another on its core.
        unsafe { (*counts)[verdict as usize] += 1 };
    }
    action
}

/// A packet to a lane's port.
struct Packet {
    verdict: Verdict,
    source: [u8; 16],
}

/// Where a UDP datagram's parts are.
struct Datagram {
    source: [u8; 16],
    destination: [u8; 16],
    /// Of the UDP header.
    offset: usize,
    /// Bytes from the UDP header on, by the IP header.
    bytes: usize,
}

/// What a packet is; `None` if it is none of the lanes' business.
#[inline(always)]
fn examine(ctx: &XdpContext) -> Option<Packet> {
    let datagram = find_datagram(ctx)?;
    let port = u16::from_be_bytes(read(ctx, datagram.offset + 2)?);
    // SAFETY: the value is copied at once.
    let lane = unsafe { *PORTS.get(&port)? };
    // SAFETY: only whether there is a value matters.
    unsafe { ADDRESSES.get(&datagram.destination)? };
    let source = datagram.source;
    let Some(header) = segment(ctx, &datagram) else {
        return Some(Packet { verdict: Verdict::Malformed, source });
    };
    let flow = (u64::from(lane) << 32) | u64::from(header.flow_id);
    // SAFETY: only whether there is a value matters.
    let verdict = if unsafe { FLOWS.get(&flow) }.is_none() {
        Verdict::UnknownFlow
    } else if QUEUE_LANES.get(queue_of(ctx)).copied() != Some(lane) {
        Verdict::WrongQueue
    } else {
        Verdict::Redirected
    };
    Some(Packet { verdict, source })
}

/// Finds a UDP datagram behind Ethernet, at most one VLAN tag, and a plain IPv4 or IPv6 header.
#[inline(always)]
fn find_datagram(ctx: &XdpContext) -> Option<Datagram> {
    const IPV4: u16 = 0x0800;
    const IPV6: u16 = 0x86dd;
    const VLAN: u16 = 0x8100;
    const SERVICE_VLAN: u16 = 0x88a8;
    match u16::from_be_bytes(read(ctx, 12)?) {
        IPV4 => find_in_ipv4(ctx, 14),
        IPV6 => find_in_ipv6(ctx, 14),
        VLAN | SERVICE_VLAN => match u16::from_be_bytes(read(ctx, 16)?) {
            IPV4 => find_in_ipv4(ctx, 18),
            IPV6 => find_in_ipv6(ctx, 18),
            _ => None,
        },
        _ => None,
    }
}

const UDP: u8 = 17;

#[inline(always)]
fn find_in_ipv4(ctx: &XdpContext, at: usize) -> Option<Datagram> {
    const IPV4_BYTES: usize = 20;
    let header: [u8; IPV4_BYTES] = read(ctx, at)?;
    // Version 4, no options; neither more fragments nor an offset; UDP.
    let is_plain = header[0] == 0x45 && u16::from_be_bytes([header[6], header[7]]) & 0x3fff == 0;
    if !is_plain || header[9] != UDP {
        return None;
    }
    let bytes = (u16::from_be_bytes([header[2], header[3]]) as usize).checked_sub(IPV4_BYTES)?;
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = header;
    let mapped = |a, b, c, d| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d];
    let (source, destination) = (mapped(s0, s1, s2, s3), mapped(d0, d1, d2, d3));
    Some(Datagram { source, destination, offset: at + IPV4_BYTES, bytes })
}

#[inline(always)]
fn find_in_ipv6(ctx: &XdpContext, at: usize) -> Option<Datagram> {
    const IPV6_BYTES: usize = 40;
    let [version, _, _, _, l0, l1, next_header, _]: [u8; 8] = read(ctx, at)?;
    if version >> 4 != 6 || next_header != UDP {
        return None;
    }
    let (source, destination) = (read(ctx, at + 8)?, read(ctx, at + 24)?);
    let bytes = u16::from_be_bytes([l0, l1]) as usize;
    Some(Datagram { source, destination, offset: at + IPV6_BYTES, bytes })
}

/// The segment's header, if the datagram is a segment by its header and all lengths agree.
#[inline(always)]
fn segment(ctx: &XdpContext, datagram: &Datagram) -> Option<Header> {
    const UDP_BYTES: usize = 8;
    let [l0, l1]: [u8; 2] = read(ctx, datagram.offset + 4)?;
    let udp_bytes = u16::from_be_bytes([l0, l1]) as usize;
    if udp_bytes != datagram.bytes {
        return None;
    }
    let bytes: [u8; HEADER_BYTES] = read(ctx, datagram.offset + UDP_BYTES)?;
    let header = Header::parse(&bytes).ok()?;
    header.announces(udp_bytes.checked_sub(UDP_BYTES)?).then_some(header)
}

/// Counts a dropped packet for its source.
#[inline(always)]
fn attribute(source: &[u8; 16]) {
    if let Some(count) = SOURCES.get_ptr_mut(source) {
        // SAFETY: the value stays where it is while the program runs. Two cores that count one source at once may lose a count.
        unsafe { *count += 1 };
        return;
    }
    // SAFETY: the helper has no arguments.
    let second = unsafe { bpf_ktime_get_coarse_ns() } >> 30;
    let Some(running) = ATTRIBUTION.get_ptr_mut(0) else { return };
    // SAFETY: this core's own value; an XDP program is not interrupted by another on its core.
    let [running_second, new_sources] = unsafe { &mut *running };
    if *running_second != second {
        (*running_second, *new_sources) = (second, 0);
    }
    if *new_sources >= NEW_SOURCES_PER_SECOND {
        return;
    }
    *new_sources += 1;
    // A table that cannot take it now costs an attribution, nothing else.
    let _ = SOURCES.insert(source, &1, 0);
}

#[inline(always)]
fn queue_of(ctx: &XdpContext) -> u32 {
    // SAFETY: the context is valid for the run of the program.
    unsafe { (*ctx.ctx).rx_queue_index }
}

/// `N` bytes of the packet from `offset` on, if its first buffer has them.
#[inline(always)]
fn read<const N: usize>(ctx: &XdpContext, offset: usize) -> Option<[u8; N]> {
    let begin = ctx.data() + offset;
    if begin + N > ctx.data_end() {
        return None;
    }
    // SAFETY: within the packet's first buffer, as just checked; an array of bytes has no alignment.
    Some(unsafe { *(begin as *const [u8; N]) })
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // A path to here that survives the optimizer is an endless loop, which the verifier refuses to load.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
