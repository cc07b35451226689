//! The captured data plane, at the other end of the link. Between a script's steps, and after them,
//! it acts as an honest one would, so that transfers get far.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::time::Duration;

use culvert_link::commands::{Command, Event, FileSlot, ReceiveSlot, SendSlot, Sink, Source, encode};
use culvert_link::layout::LaneLayout;
use culvert_link::messages::{FromDataPlane, Start, ToDataPlane};
use culvert_link::ring::{Consumer, Producer, RECORD_BYTES_MAX};
use culvert_link::shared_memory::SharedMemory;
use culvert_link::socket::LinkSocket;
use culvert_protocol::tree_hash::ChunkHash;
use serde::Serialize;

use super::truth::{Truth, chunk_hash};

/// Polls without news before an honest one gives up: the control process flushes a disk when it
/// stores, which can take any amount of time, and an honest data plane waits as long as the link is
/// open.
pub(super) const PATIENT_LOOKS_MAX: u32 = 60_000;
/// The interval between polls.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// What it has done that is not the control process's fault.
#[derive(Debug, Default)]
pub struct Deeds {
    /// Large files that it misreported, or wrote to afterwards.
    pub falsified: HashSet<u32>,
    /// Paths of the descriptors that it was given, and whether it may write through them.
    pub descriptors: Vec<(std::path::PathBuf, bool)>,
    /// Whether its lie was told.
    pub has_lied: bool,
}

pub(super) struct Lane {
    pub(super) events: Producer,
    commands: Consumer,
    pub(super) layout: LaneLayout,
    pub(super) buffers: Arc<SharedMemory>,
    next_buffer: u32,
}

/// A chunk that an honest lane would be working on now.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// To be written, or handed over.
    Receive { lane: usize, flow: ReceiveSlot, chunk: u32, sink: Sink },
    /// To be read and sent.
    Send { lane: usize, flow: SendSlot, chunk: u32, source: Source },
}

/// The data plane.
pub(super) struct Plane {
    pub(super) socket: LinkSocket,
    bell: OwnedFd,
    pub(super) link: Arc<SharedMemory>,
    pub(super) lanes: Vec<Lane>,
    pub(super) truth: Arc<Truth>,
    pub(super) buffer_bytes: usize,
    messages: Receiver<(ToDataPlane, Vec<OwnedFd>)>,
    pub(super) sends: Vec<(usize, SendSlot)>,
    pub(super) receives: Vec<(usize, ReceiveSlot, u32)>,
    pub(super) files: HashMap<FileSlot, std::fs::File>,
    /// Which of the transfer's files a slot holds, as far as commands have shown.
    pub(super) file_of: HashMap<FileSlot, u32>,
    pub(super) tasks: VecDeque<Task>,
    pub(super) asked: HashSet<u32>,
    /// Large files of which something was reported as written.
    pub(super) written: HashSet<u32>,
    /// Whether flows hash, as set when they were opened.
    pub(super) has_hashes: bool,
    /// Whether the next file is refused.
    pub(super) refuses_file: bool,
    pub(super) idle_looks_max: u32,
    pub(super) deeds: Deeds,
    pub(super) is_over: bool,
}

impl Plane {
    pub(super) fn new(
        socket: LinkSocket,
        start: &Start,
        descriptors: Vec<OwnedFd>,
        truth: &Arc<Truth>,
        idle_looks_max: u32,
    ) -> Self {
        let mut descriptors = descriptors.into_iter();
        let mut memory = |bytes: usize| {
            let pieces = descriptors.by_ref().take(bytes.div_ceil(start.piece_bytes)).collect();
            Arc::new(SharedMemory::from_fds(pieces, bytes, start.piece_bytes).expect("the link's memory"))
        };
        let link = memory(start.link_bytes);
        let buffers: Vec<_> = start.cores.iter().map(|_| memory(start.buffer_memory_bytes)).collect();
        let bell = descriptors.next().expect("a bell");
        let lanes = buffers.into_iter().enumerate().map(|(number, buffers)| {
            let layout = LaneLayout::of(number);
            let (events, commands) =
                (Producer::new(link.clone(), layout.events), Consumer::new(link.clone(), layout.commands));
            Lane { events, commands, layout, buffers, next_buffer: 0 }
        });
        let (lanes, reader) = (lanes.collect(), socket.try_clone().expect("a second handle"));
        let (told, messages) = channel();
        std::thread::spawn(move || {
            while let Ok(Some(message)) = reader.receive::<ToDataPlane>() {
                if told.send(message).is_err() {
                    return;
                }
            }
        });
        Self {
            socket,
            bell,
            link,
            lanes,
            truth: truth.clone(),
            buffer_bytes: start.buffer_bytes,
            messages,
            sends: Vec::new(),
            receives: Vec::new(),
            files: HashMap::new(),
            file_of: HashMap::new(),
            tasks: VecDeque::new(),
            asked: HashSet::new(),
            written: HashSet::new(),
            has_hashes: false,
            refuses_file: false,
            idle_looks_max,
            deeds: Deeds::default(),
            is_over: false,
        }
    }

    /// Waits until flows are open.
    pub(super) fn wait_for_flows(&mut self) {
        // They are opened, or the link is closed.
        for _ in 0..PATIENT_LOOKS_MAX {
            while self.look() {}
            if self.is_over || self.sends.len() + self.receives.len() >= self.lanes.len() {
                return;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Sends a message on the socket.
    pub(super) fn say(&self, message: &impl Serialize) {
        // The control process may have given up on it.
        let _ = self.socket.send(message, &[]);
    }

    /// Takes what the control process has sent; false if there was nothing.
    pub(super) fn look(&mut self) -> bool {
        let mut any = false;
        loop {
            match self.messages.try_recv() {
                Ok((message, descriptors)) => {
                    any = true;
                    self.hear(message, descriptors);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.is_over = true;
                    break;
                }
            }
        }
        let mut scratch = Box::new([0; RECORD_BYTES_MAX]);
        for lane in 0..self.lanes.len() {
            // It can no longer read what it has corrupted itself.
            while let Ok(Some(record)) = self.lanes[lane].commands.pop(&mut scratch) {
                let Ok(command) = postcard::from_bytes::<Command<'_>>(record) else { break };
                any = true;
                self.obey(lane, &command);
            }
        }
        any
    }

    fn hear(&mut self, message: ToDataPlane, descriptors: Vec<OwnedFd>) {
        match message {
            ToDataPlane::InstallFile { slot, .. } => {
                for descriptor in &descriptors {
                    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(descriptor));
                    let flags = rustix::fs::fcntl_getfl(descriptor).expect("its flags");
                    let may_write = flags.intersection(rustix::fs::OFlags::ACCMODE) != rustix::fs::OFlags::RDONLY;
                    self.deeds.descriptors.push((std::fs::read_link(path).expect("its path"), may_write));
                }
                if std::mem::take(&mut self.refuses_file) {
                    self.say(&FromDataPlane::FileNotInstalled { slot });
                    return;
                }
                if let Some(first) = descriptors.into_iter().next() {
                    self.files.insert(slot, first.into());
                }
                self.say(&FromDataPlane::FileInstalled { slot });
            }
            ToDataPlane::OpenSend(open) => {
                self.has_hashes = open.checksum;
                self.sends.push((open.lane.into(), open.slot));
                self.say(&FromDataPlane::SendOpened { lane: open.lane, slot: open.slot });
                let event = Event::PathOpen { flow: open.slot, stride: 1_424, rtt_us: 100 };
                self.emit(open.lane.into(), &event);
            }
            ToDataPlane::OpenReceive(open) => {
                self.has_hashes = open.checksum;
                self.receives.push((open.lane.into(), open.slot, open.flow_id));
                self.say(&FromDataPlane::ReceiveOpened { lane: open.lane, slot: open.slot });
            }
            _ => {}
        }
    }

    fn obey(&mut self, lane: usize, command: &Command<'_>) {
        match *command {
            Command::Place { flow, chunk, sink } => {
                if let (Sink::File(range), Some((file, _))) = (sink, self.truth.range(chunk)) {
                    self.file_of.insert(range.file, file);
                }
                self.tasks.push_back(Task::Receive { lane, flow, chunk, sink });
            }
            Command::Send { flow, chunk, source, .. } => self.tasks.push_back(Task::Send { lane, flow, chunk, source }),
            Command::Filled { flow, chunk } => {
                self.emit(lane, &Event::Delivered { flow, chunk, times: Default::default() });
            }
            Command::Withdraw { flow, chunk } => {
                self.tasks.retain(|task| !matches!(*task, Task::Send { chunk: of, .. } if of == chunk));
                self.emit(lane, &Event::Withdrawn { flow, chunk });
            }
            Command::Reopen { chunk, .. } => drop(self.asked.remove(&chunk)),
            // It is no longer wanted: a lane does not ask for it again.
            Command::Abandon { chunk, .. } => {
                self.tasks.retain(|task| !matches!(*task, Task::Receive { chunk: of, .. } if of == chunk));
            }
            // The transfer is over.
            Command::CloseSend { flow } => {
                self.tasks.clear();
                self.emit(lane, &Event::SendClosed { flow });
            }
            Command::CloseReceive { flow } => {
                self.tasks.clear();
                self.asked.extend(0..self.truth.chunk_count());
                self.emit(lane, &Event::ReceiveClosed { flow });
            }
            Command::Check { token, range, bytes, .. } => {
                let mut content = vec![0; bytes as usize];
                let read = self.files.get(&range.file).map(|file| file.read_exact_at(&mut content, range.offset));
                let result = match read {
                    Some(Ok(())) => Ok(chunk_hash(range.file_bytes, range.offset, &content)),
                    _ => Err(culvert_link::commands::DiskError::Short),
                };
                self.emit(lane, &Event::Checked { token, result });
            }
            _ => {}
        }
    }

    /// Puts an event into a lane's ring, and notes any false claim in it.
    pub(super) fn emit(&mut self, lane: usize, event: &Event<'_>) {
        if let Event::Written { chunk, .. } = *event {
            self.note_written(chunk);
        }
        let mut scratch = Box::new([0; RECORD_BYTES_MAX]);
        let record = encode(event, &mut scratch).to_vec();
        self.push(lane, &record);
    }

    /// Puts bytes into a lane's ring.
    pub(super) fn push(&mut self, lane: usize, record: &[u8]) {
        if let Ok(true) = self.lanes[lane].events.push(record) {
            let _ = rustix::io::write(&self.bell, &[1]);
        }
    }

    /// Wakes the control process, whatever its ring says.
    pub(super) fn ring(&self) {
        let _ = rustix::io::write(&self.bell, &[1]);
    }

    /// Notes that a chunk is reported as written. If its bytes are missing, its file is falsified.
    fn note_written(&mut self, chunk: u32) {
        let Some((file, offset)) = self.truth.range(chunk) else { return };
        self.written.insert(file);
        let wanted = &self.truth.chunk_contents[chunk as usize];
        let is_there = self.file_of.iter().filter(|&(_, of)| *of == file).any(|(slot, _)| {
            let mut found = vec![0; wanted.len()];
            self.files.get(slot).is_some_and(|open| open.read_exact_at(&mut found, offset).is_ok()) && found == *wanted
        });
        if !is_there {
            self.deeds.falsified.insert(file);
        }
    }

    /// Asks for the placement of the next chunk that has not been asked for.
    pub(super) fn ask(&mut self) -> bool {
        let Some(&(lane, flow, _)) = self.receives.get(self.asked.len() % self.receives.len().max(1)) else {
            return false;
        };
        let Some(chunk) = (0..self.truth.chunk_count()).find(|chunk| !self.asked.contains(chunk)) else { return false };
        self.asked.insert(chunk);
        let chunk_bytes = self.truth.chunk_contents[chunk as usize].len() as u32;
        self.emit(lane, &Event::PlacementNeeded { flow, chunk, chunk_bytes });
        true
    }

    /// Removes a chunk's task and returns it.
    pub(super) fn take_task(&mut self, chunk: u32) -> Option<Task> {
        let is_of = |task: &Task| match *task {
            Task::Receive { chunk: of, .. } | Task::Send { chunk: of, .. } => of == chunk,
        };
        let at = self.tasks.iter().position(is_of)?;
        self.tasks.remove(at)
    }

    /// Works on a chunk now.
    pub(super) fn work_on(&mut self, chunk: u32) {
        if let Some(task) = self.take_task(chunk) {
            self.tasks.push_front(task);
            self.work();
        }
    }

    /// Works on the next chunk as an honest lane would.
    pub(super) fn work(&mut self) -> bool {
        let Some(task) = self.tasks.pop_front() else { return false };
        let times = Default::default();
        match task {
            Task::Receive { lane, flow, chunk, sink } => {
                let Some(content) = self.truth.chunk_contents.get(chunk as usize).cloned() else { return true };
                match sink {
                    Sink::File(range) => {
                        if let Some(open) = self.files.get(&range.file) {
                            let _ = open.write_all_at(&content, range.offset);
                        }
                        let hash = self.has_hashes.then(|| chunk_hash(range.file_bytes, range.offset, &content));
                        self.emit(lane, &Event::Written { flow, chunk, hash, times });
                    }
                    Sink::Lend => {
                        let (buffer, chunk_bytes) = self.fill_buffer(lane, &content);
                        self.emit(lane, &Event::Lend { flow, chunk, buffer, chunk_bytes });
                    }
                    Sink::Discard => self.emit(lane, &Event::Written { flow, chunk, hash: None, times }),
                }
            }
            Task::Send { lane, flow, chunk, source } => match source {
                Source::Fill => {
                    let (buffer, _) = self.fill_buffer(lane, &[]);
                    self.emit(lane, &Event::Fill { flow, chunk, buffer });
                }
                Source::File(_) => {
                    if self.has_hashes {
                        let hash = self.hash_of(chunk);
                        self.emit(lane, &Event::Hashed { flow, chunk, hash });
                    }
                    self.emit(lane, &Event::Delivered { flow, chunk, times });
                }
                Source::Memory => self.emit(lane, &Event::Delivered { flow, chunk, times }),
            },
        }
        true
    }

    /// The right hash of a chunk of a large file.
    pub(super) fn hash_of(&self, chunk: u32) -> ChunkHash {
        self.truth.chunk_hashes.get(chunk as usize).copied().flatten().unwrap_or_default()
    }

    /// Puts content into the lane's next buffer; returns its number and the number of bytes.
    pub(super) fn fill_buffer(&mut self, lane: usize, content: &[u8]) -> (u32, u32) {
        let lane = &mut self.lanes[lane];
        let count = (lane.buffers.bytes() / self.buffer_bytes) as u32;
        let buffer = lane.next_buffer % count;
        lane.next_buffer = (lane.next_buffer + 1) % count;
        lane.buffers.copy_in(buffer as usize * self.buffer_bytes, &content[..content.len().min(self.buffer_bytes)]);
        (buffer, content.len() as u32)
    }

    /// Works until the control process is done or has sent nothing for a while.
    pub(super) fn go_on(&mut self) {
        let mut idle = 0;
        while !self.is_over && idle < self.idle_looks_max {
            let any = self.look() | self.work() | self.ask();
            if any {
                idle = 0;
                continue;
            }
            idle += 1;
            match self.messages.recv_timeout(LOOK_INTERVAL) {
                Ok((message, descriptors)) => self.hear(message, descriptors),
                Err(RecvTimeoutError::Disconnected) => self.is_over = true,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}
