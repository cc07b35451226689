//! The control process's end of the link: makes the shared memory, sends commands, reads events.
//!
//! Nothing here waits or needs a runtime. [`prepare`] makes everything that the data plane needs
//! and writes its first message into the caller's end of a socket; the data plane has the other end
//! as its standard input.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::command_rings::Commands;
use crate::commands::{Command, Event};
use crate::doorbell::doorbell;
use crate::handles::{LentBuffer, Place};
use crate::kernel_bypass::AfXdpStart;
use crate::layout::LaneLayout;
use crate::messages::{Start, ToDataPlane};
use crate::ring::{Broken, Consumer, RECORD_BYTES_MAX};
use crate::shared_memory::{SharedMemory, piece_bytes, piece_count};
use crate::socket::{DESCRIPTORS_MAX, LinkSocket};

/// How the data plane shall be.
#[derive(Clone, Debug)]
pub struct PlaneConfig {
    /// For each lane its core; `None` leaves it to the scheduler.
    pub cores: Vec<Option<usize>>,
    /// Bytes of chunk buffers of all lanes together.
    pub memory_bytes: usize,
    /// Bytes of each buffer: the largest chunk that a transfer may use.
    pub buffer_bytes: usize,
    /// The address that lanes bind.
    pub bind: IpAddr,
    /// The lanes' UDP ports; empty leaves them to the operating system.
    pub ports: Vec<u16>,
    /// Bytes of each lane's socket buffers.
    pub socket_buffer_bytes: usize,
    /// The interface for AF_XDP, if it shall be tried.
    pub af_xdp: Option<AfXdpStart>,
    /// Reasons, known before the start, why a better datapath cannot be used, in words.
    pub refusals: Vec<String>,
}

/// Fewer buffers than this in a lane and it cannot read, send and wait for reports at the same
/// time.
pub const BUFFERS_PER_LANE_MIN: usize = 4;

/// A configuration that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Too little memory for so many lanes.
    #[error(
        "{memory_bytes} B of buffers are too few: each lane needs {BUFFERS_PER_LANE_MIN} chunks of {buffer_bytes} bytes (lanes: {lanes}); raise --memory, or use fewer cores with --cores"
    )]
    TooLittleMemory {
        /// What there is.
        memory_bytes: usize,
        /// For how many lanes.
        lanes: usize,
        /// The size of a chunk.
        buffer_bytes: usize,
    },
    /// The limit on file sizes cuts the memory into more pieces than a message holds descriptors.
    #[error(
        "the limit on file sizes (ulimit -f) is too small for the memory that the processes share, \
         which would be split into {pieces} pieces: raise it, or lower --memory"
    )]
    TooManyPieces {
        /// How many they would be.
        pieces: usize,
    },
    /// The operating system refuses.
    #[error("cannot create the memory that the processes share: {0}")]
    Os(#[from] io::Error),
}

/// The control process's end of the link.
#[derive(Debug)]
pub struct PlaneHandle {
    /// Messages to the data plane, and from it.
    pub socket: LinkSocket,
    /// Commands to the lanes.
    pub commands: Arc<Commands>,
    /// Events from the lanes.
    pub events: Events,
    /// Becomes readable when an event comes while the reader sleeps; a socket rather than an
    /// eventfd, because that is what asynchronous runtimes wait for without unsafe code.
    /// Non-blocking.
    pub bell: UnixStream,
    /// Whether the chunk buffers lie on hugepages.
    pub on_hugepages: bool,
    /// Buffers of each lane.
    pub buffers_per_lane: usize,
}

/// Makes the link over a socket whose other end is the data plane's.
///
/// # Errors
/// [`PrepareError`].
pub fn prepare(config: &PlaneConfig, socket: LinkSocket) -> Result<PlaneHandle, PrepareError> {
    let lanes = config.cores.len();
    let buffers_per_lane =
        config.memory_bytes.checked_div(lanes).and_then(|bytes| bytes.checked_div(config.buffer_bytes)).unwrap_or(0);
    if lanes == 0 || buffers_per_lane < BUFFERS_PER_LANE_MIN {
        return Err(PrepareError::TooLittleMemory {
            memory_bytes: config.memory_bytes,
            lanes,
            buffer_bytes: config.buffer_bytes,
        });
    }
    // No more than the memory that was to be divided.
    let buffers_bytes = buffers_per_lane.saturating_mul(config.buffer_bytes);
    let of_lanes = piece_count(buffers_bytes).saturating_mul(lanes);
    let pieces = piece_count(LaneLayout::memory_bytes(lanes)).saturating_add(of_lanes);
    if pieces.saturating_add(1).saturating_add(lanes) > DESCRIPTORS_MAX {
        return Err(PrepareError::TooManyPieces { pieces });
    }
    let link = Arc::new(SharedMemory::create("culvert-link", LaneLayout::memory_bytes(lanes), false)?);
    let buffer_memory = (0..lanes)
        .map(|_| SharedMemory::create("culvert-buffers", buffers_bytes, true).map(Arc::new))
        .collect::<io::Result<Vec<_>>>()?;
    let (bell, lanes_bell) = UnixStream::pair()?;
    bell.set_nonblocking(true)?;
    lanes_bell.set_nonblocking(true)?;
    let lane_bells = (0..lanes).map(|_| doorbell()).collect::<io::Result<Vec<_>>>()?;

    let start = Start {
        cores: config.cores.clone(),
        piece_bytes: piece_bytes(),
        link_bytes: link.bytes(),
        buffer_memory_bytes: buffer_memory.first().map_or(0, |memory| memory.bytes()),
        buffer_bytes: config.buffer_bytes,
        bind: config.bind,
        ports: config.ports.clone(),
        socket_buffer_bytes: config.socket_buffer_bytes,
        af_xdp: config.af_xdp.clone(),
    };
    let memory = std::iter::once(&link).chain(&buffer_memory);
    let bells = std::iter::once(lanes_bell.as_fd()).chain(lane_bells.iter().map(AsFd::as_fd));
    let descriptors: Vec<_> = memory.flat_map(|memory| memory.fds()).chain(bells).collect();
    socket.send(&ToDataPlane::Start(start), &descriptors)?;

    let on_hugepages = buffer_memory.iter().all(|memory| memory.on_hugepages());
    let commands = Arc::new(Commands::new(link.clone(), lane_bells, buffers_per_lane));
    let events = Events {
        commands: commands.clone(),
        consumers: (0..lanes).map(|lane| Consumer::new(link.clone(), LaneLayout::of(lane).events)).collect(),
        buffer_memory,
        buffer_bytes: config.buffer_bytes,
        scratch: Box::new([0; RECORD_BYTES_MAX]),
    };
    Ok(PlaneHandle { socket, commands, events, bell, on_hugepages, buffers_per_lane })
}

/// Reads the lanes' events.
#[derive(Debug)]
pub struct Events {
    /// For buffers that are lent, to go back by.
    commands: Arc<Commands>,
    consumers: Vec<Consumer>,
    buffer_memory: Vec<Arc<SharedMemory>>,
    buffer_bytes: usize,
    scratch: Box<[u8; RECORD_BYTES_MAX]>,
}

impl Events {
    /// Hands up to `events_max` events to `each`: the lane, the event, and the buffer that it
    /// lends, if it lends one (an [`Event::Fill`] lends a whole buffer). Returns how many there
    /// were.
    ///
    /// # Errors
    /// [`Broken`] if a lane wrote nonsense: its process must be given up.
    pub fn drain(
        &mut self,
        events_max: usize,
        mut each: impl FnMut(usize, Event<'_>, Option<LentBuffer>),
    ) -> Result<usize, Broken> {
        let mut count = 0usize;
        let buffer_bytes = u32::try_from(self.buffer_bytes).map_err(|_| Broken)?;
        for (lane, (consumer, memory)) in self.consumers.iter_mut().zip(&self.buffer_memory).enumerate() {
            while count < events_max {
                let Some(record) = consumer.pop(&mut self.scratch)? else { break };
                let event = postcard::from_bytes::<Event<'_>>(record).map_err(|_| Broken)?;
                if !event.names_a_slot() {
                    return Err(Broken);
                }
                let lend = |number, bytes, back| {
                    let place = Place { buffer_bytes: self.buffer_bytes, number, bytes };
                    LentBuffer::new(memory, place, &self.commands, lane, back).ok_or(Broken)
                };
                let lent = match event {
                    Event::Fill { flow, chunk, buffer } => {
                        Some(lend(buffer, buffer_bytes, Command::Filled { flow, chunk })?)
                    }
                    Event::Lend { flow, buffer, chunk_bytes, .. } => {
                        Some(lend(buffer, chunk_bytes, Command::Return { flow, buffer })?)
                    }
                    _ => None,
                };
                each(lane, event, lent);
                count = count.saturating_add(1);
            }
        }
        Ok(count)
    }

    /// Announces that the reader is about to sleep on [`PlaneHandle::bell`]; false if an event has
    /// arrived meanwhile.
    #[must_use]
    pub fn prepare_to_sleep(&self) -> bool {
        self.consumers.iter().all(Consumer::prepare_to_sleep)
    }

    /// The reader is awake.
    pub fn awake(&self) {
        self.consumers.iter().for_each(Consumer::awake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_rings::OVERFLOW_MAX;
    use crate::commands::ReceiveSlot;
    use crate::commands::{SendSlot, encode};
    use crate::ring::Producer;

    /// The handle of a data plane of one lane, and the lane's ends of its rings.
    fn handle_and_lane() -> (PlaneHandle, Consumer, Producer, LinkSocket) {
        let config = PlaneConfig {
            cores: vec![None],
            memory_bytes: 4 << 20,
            buffer_bytes: 1 << 20,
            bind: std::net::Ipv4Addr::LOCALHOST.into(),
            ports: Vec::new(),
            socket_buffer_bytes: 1 << 20,
            af_xdp: None,
            refusals: Vec::new(),
        };
        let (ours, theirs) = LinkSocket::pair().unwrap();
        let handle = prepare(&config, ours).unwrap();
        let (link, layout) = (handle.commands.link.clone(), LaneLayout::of(0));
        let (commands, events) = (Consumer::new(link.clone(), layout.commands), Producer::new(link, layout.events));
        (handle, commands, events, theirs)
    }

    fn next_command(commands: &mut Consumer) -> Option<String> {
        let mut scratch = Box::new([0; RECORD_BYTES_MAX]);
        let record = commands.pop(&mut scratch).unwrap()?;
        Some(format!("{:?}", postcard::from_bytes::<Command<'_>>(record).unwrap()))
    }

    fn emit(events: &mut Producer, event: &Event<'_>) {
        let mut scratch = Box::new([0; RECORD_BYTES_MAX]);
        events.push(encode(event, &mut scratch)).unwrap();
    }

    /// The buffers of a transfer that ended while packs were unpacked or filled stayed lent
    /// forever, and its flow was never closed.
    #[test]
    fn a_lent_buffer_goes_back_when_it_is_dropped() {
        let (mut handle, mut commands, mut events, _theirs) = handle_and_lane();
        emit(&mut events, &Event::Lend { flow: ReceiveSlot(3), chunk: 7, buffer: 2, chunk_bytes: 100 });
        emit(&mut events, &Event::Fill { flow: SendSlot(4), chunk: 8, buffer: 1 });
        let mut lent = Vec::new();
        handle.events.drain(10, |_, _, buffer| lent.extend(buffer)).unwrap();
        assert_eq!((lent.len(), next_command(&mut commands)), (2, None));
        drop(lent);
        let back = Command::Return { flow: ReceiveSlot(3), buffer: 2 };
        assert_eq!(next_command(&mut commands), Some(format!("{back:?}")));
        let back = Command::Filled { flow: SendSlot(4), chunk: 8 };
        assert_eq!(next_command(&mut commands), Some(format!("{back:?}")));
    }

    /// Two would fill it at once, each with the files of another pack.
    #[test]
    fn a_buffer_that_is_lent_is_not_lent_again_before_it_is_back() {
        let (mut handle, _commands, mut events, _theirs) = handle_and_lane();
        let fill = |chunk, buffer| Event::Fill { flow: SendSlot(4), chunk, buffer };
        let mut lent = Vec::new();
        let mut next = |handle: &mut PlaneHandle, lent: &mut Vec<LentBuffer>, event| {
            emit(&mut events, &event);
            handle.events.drain(10, |_, _, buffer| lent.extend(buffer)).is_ok()
        };
        assert!(next(&mut handle, &mut lent, fill(1, 0)) && next(&mut handle, &mut lent, fill(2, 1)));
        lent.remove(0);
        assert!(next(&mut handle, &mut lent, fill(3, 0)), "it is back");
        assert!(!next(&mut handle, &mut lent, fill(4, 1)), "it is not");
        assert_eq!(lent.len(), 2);
    }

    #[test]
    fn flows_that_cannot_be_break_the_link() {
        let (flow, is_send) = (crate::layout::FLOWS_PER_LANE, [true, false]);
        for is_send in is_send {
            let (mut handle, _commands, mut events, _theirs) = handle_and_lane();
            let event = |flow| match is_send {
                true => Event::SendClosed { flow: SendSlot(flow) },
                false => Event::ReceiveClosed { flow: ReceiveSlot(flow) },
            };
            emit(&mut events, &event(flow - 1));
            assert_eq!(handle.events.drain(10, |_, _, _| {}), Ok(1));
            emit(&mut events, &event(flow));
            assert_eq!(handle.events.drain(10, |_, _, _| {}), Err(Broken));
        }
    }

    /// They went on only with the lane's next event, which may depend on one of them.
    #[test]
    fn commands_that_wait_for_room_go_with_the_next_command() {
        let (handle, mut commands, _events, _theirs) = handle_and_lane();
        let report = [7; 8_000];
        let command = |slot| Command::Report { flow: SendSlot(slot), bytes: &report };
        let mut sent = 0;
        while handle.commands.waiting(0) < 3 {
            assert!(handle.commands.send(0, &command(sent)));
            sent += 1;
        }
        let mut taken = 0;
        while let Some(found) = next_command(&mut commands) {
            assert_eq!(found, format!("{:?}", command(taken)));
            taken += 1;
        }
        assert_eq!(taken, sent - 3);
        assert!(handle.commands.send(0, &command(sent)));
        for number in taken..=sent {
            assert_eq!(next_command(&mut commands), Some(format!("{:?}", command(number))));
        }
        assert_eq!(next_command(&mut commands), None);
    }

    #[test]
    fn a_command_that_is_lost_is_told() {
        let (handle, _commands, _events, _theirs) = handle_and_lane();
        let command = Command::Filled { flow: SendSlot(0), chunk: 0 };
        let sent = (0..2 * OVERFLOW_MAX).take_while(|_| handle.commands.send(0, &command)).count();
        assert!((OVERFLOW_MAX..2 * OVERFLOW_MAX).contains(&sent), "{sent} commands");
    }
}
