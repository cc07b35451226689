//! What a lane and the coordinator (the data plane's main thread) pass to each other: flows and
//! keys, which the coordinator allocates and frees so that the lane does not.

use crossbeam::queue::ArrayQueue;
use culvert_link::capture::Tap;
use culvert_link::commands::{ReceiveSlot, SendSlot};
use culvert_link::doorbell::ring;
use culvert_link::kernel_bypass::NextHop;
use culvert_protocol::seal::PacketKey;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::receiving::ReceiveFlow;
use super::sending::SendFlow;
use crate::datapath::udp::source::SourceSocket;

/// Enough for every flow of a lane to come, go and request a key at the same time.
const QUEUE_LENGTH: usize = 2_048;

/// From the coordinator to the lane.
#[derive(Debug)]
pub enum ToLane {
    /// A sending flow, ready to go.
    Send(Box<SendFlow>),
    /// A receiving flow, ready to go.
    Receive(Box<ReceiveFlow>),
    /// Another port to send a flow from.
    Source {
        /// The flow.
        slot: SendSlot,
        /// The port.
        source: SourceSocket,
    },
    /// The next hop to a partner, or that it is no longer known.
    NextHop {
        /// The partner.
        to: IpAddr,
        /// The link-layer headers; `None` if not known.
        hop: Option<NextHop>,
    },
    /// The tap that packets are copied to from now on; the previous one departs.
    Tap(Option<Box<Tap>>),
    /// A key that the lane asked for.
    SendKey {
        /// The flow.
        slot: SendSlot,
        /// Its epoch.
        epoch: u64,
        /// The key.
        key: PacketKey,
    },
    /// A key that the lane asked for.
    ReceiveKey {
        /// The flow.
        slot: ReceiveSlot,
        /// Its epoch.
        epoch: u64,
        /// The key.
        key: PacketKey,
    },
}

/// From the lane to the coordinator.
#[derive(Debug)]
pub enum FromLane {
    /// A flow to be freed.
    Send(Box<SendFlow>),
    /// A flow to be freed.
    Receive(Box<ReceiveFlow>),
    /// A tap that is no longer in use.
    Tap(Box<Tap>),
    /// Asks for the key of the epoch after next.
    WantsSendKey {
        /// The flow.
        slot: SendSlot,
        /// The epoch.
        epoch: u64,
    },
    /// Asks for the key of the epoch after next.
    WantsReceiveKey {
        /// The flow.
        slot: ReceiveSlot,
        /// The epoch.
        epoch: u64,
    },
}

/// The two queues between a lane and the coordinator.
#[derive(Debug)]
pub struct Handoff {
    to_lane: ArrayQueue<ToLane>,
    from_lane: ArrayQueue<FromLane>,
    lane_bell: OwnedFd,
    coordinator_bell: OwnedFd,
    has_given_up: AtomicBool,
}

impl Handoff {
    /// The queues of a lane. `lane_bell` wakes the lane; `coordinator_bell`, an eventfd, the
    /// coordinator.
    #[must_use]
    pub fn new(lane_bell: OwnedFd, coordinator_bell: OwnedFd) -> Self {
        Self {
            to_lane: ArrayQueue::new(QUEUE_LENGTH),
            from_lane: ArrayQueue::new(QUEUE_LENGTH),
            lane_bell,
            coordinator_bell,
            has_given_up: AtomicBool::new(false),
        }
    }

    /// Hands something to the lane; false if its queue is full, which happens only if the lane
    /// hangs.
    #[must_use]
    pub fn deliver(&self, delivery: ToLane) -> bool {
        let delivered = self.to_lane.push(delivery).is_ok();
        ring(self.lane_bell.as_fd());
        delivered
    }

    /// Takes what the coordinator delivered.
    #[inline]
    #[must_use]
    pub fn next_delivery(&self) -> Option<ToLane> {
        self.to_lane.pop()
    }

    /// Whether something was delivered.
    #[must_use]
    pub fn has_deliveries(&self) -> bool {
        !self.to_lane.is_empty()
    }

    /// Hands something to the coordinator.
    pub fn depart(&self, departure: FromLane) {
        // A full queue means that the coordinator hangs. A flow that does not fit is freed here; a
        // key is requested again.
        let _ = self.from_lane.push(departure);
        ring(self.coordinator_bell.as_fd());
    }

    /// Takes what the lane handed over.
    #[must_use]
    pub fn next_departure(&self) -> Option<FromLane> {
        self.from_lane.pop()
    }

    /// The lane has got a command that the control process never sends, and takes no more: the
    /// coordinator ends the process.
    #[cold]
    pub fn give_up(&self) {
        self.has_given_up.store(true, Ordering::Release);
        ring(self.coordinator_bell.as_fd());
    }

    /// Whether the lane takes no more commands. Look after silencing the coordinator's bell.
    #[must_use]
    pub fn has_given_up(&self) -> bool {
        self.has_given_up.load(Ordering::Acquire)
    }
}
