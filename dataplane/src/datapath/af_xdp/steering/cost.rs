//! What the steering program costs a packet: run by the kernel on packets of each fate, without a
//! network (`BPF_PROG_TEST_RUN`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use culvert_link::kernel_bypass::NextHop;
use culvert_protocol::wire::{HEADER_BYTES, Header, OVERHEAD_BYTES, SegmentKind};

use super::{Steering, SteeringError};
use crate::datapath::af_xdp::headers::Template;
use crate::datapath::af_xdp::socket::{SocketOptions, XdpSocket};
use crate::datapath::af_xdp::umem::{Umem, UmemLayout};

const LANE: u16 = 0;
const PORT: u16 = 7_273;
const FLOW: u32 = 1;
/// The flow of unrequested packets.
const OTHER_FLOW: u32 = 2;

/// What a run of the program takes, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// For a segment that goes to its lane's socket.
    pub redirected_ns: u64,
    /// For a packet to a port that is no lane's.
    pub passed_ns: u64,
    /// For a segment of an unknown flow, which is dropped and attributed.
    pub dropped_ns: u64,
}

/// Runs the program `repeat` times on a packet of each fate.
///
/// # Errors
/// [`SteeringError`], if it cannot be loaded or run, or a packet meets another fate.
pub fn measure(repeat: u32) -> Result<Cost, SteeringError> {
    const DROP: u32 = 1;
    const PASS: u32 = 2;
    const REDIRECT: u32 = 4;
    let other = |what: &dyn std::fmt::Display| SteeringError::Load(what.to_string());
    let layout = UmemLayout { receive_frames: 4, transmit_frames: 4, transmit_chunks: 1 };
    let umem = Umem::new(layout).map_err(|error| other(&error))?;
    let options = SocketOptions { ring_entries: 4, busy_poll_us: None, multi_buffer: true };
    let (socket, _rings) = XdpSocket::open(&umem, &options, false).map_err(|error| other(&error))?;
    let mut steering = Steering::load()?;
    let here = Ipv4Addr::new(10, 96, 0, 2).into();
    steering.register_queue(0, LANE, &socket)?;
    steering.register_port(PORT, LANE)?;
    steering.register_address(here)?;
    steering.add_flow(LANE, FLOW)?;
    let mut run = |port: u16, flow: u32, wanted: u32| {
        let frame = packet(here, port, flow).ok_or_else(|| other(&"no such packet"))?;
        let (action, ns) = steering.test_run(&frame, repeat)?;
        if action == wanted { Ok(ns) } else { Err(other(&format!("the program's answer is {action}, not {wanted}"))) }
    };
    Ok(Cost {
        redirected_ns: run(PORT, FLOW, REDIRECT)?,
        passed_ns: run(PORT + 1, FLOW, PASS)?,
        dropped_ns: run(PORT, OTHER_FLOW, DROP)?,
    })
}

/// A probe, the shortest segment: the program reads headers only, so its cost does not depend on
/// the length.
fn packet(to: IpAddr, port: u16, flow_id: u32) -> Option<Vec<u8>> {
    let source = Ipv4Addr::new(10, 96, 0, 1).into();
    let hop =
        NextHop { source_mac: [2, 0, 0, 0, 0, 1], destination_mac: [2, 0, 0, 0, 0, 2], vlan: None, source, mtu: 1_500 };
    let template = Template::new(&hop, 40_000, SocketAddr::new(to, port))?;
    let mut frame = vec![0; template.bytes() + OVERHEAD_BYTES];
    let header = Header {
        kind: SegmentKind::Probe,
        stride: 0,
        flow_id,
        packet_number: 1,
        chunk: 0,
        chunk_bytes: 0,
        index: 0,
        sent_us: 0,
    };
    header.write(frame[template.bytes()..].first_chunk_mut::<HEADER_BYTES>()?);
    template.write(&mut frame);
    Some(frame)
}
