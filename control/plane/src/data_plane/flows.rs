//! Flows of a data plane: takes slots for them, opens and moves them.

use std::os::fd::AsFd as _;

use culvert_link::commands::{ReceiveSlot, SendSlot};
use culvert_link::messages::{OpenReceive, OpenSend, ToDataPlane};
use culvert_link::udp_port::UdpPort;
use tokio::sync::oneshot;

use crate::data_plane::next_hop_updates::{track, untrack};
use crate::data_plane::{DataPlane, lock};
use crate::error::DataPlaneError;
use crate::events::{EventSender, ReceiveEvent, SendEvent};
use crate::slots::{SlotOwner, WantedFlow, take_slot};
use crate::tracked_routes::FlowSlot;

impl DataPlane {
    /// Takes a free sending slot of `lane`, if the partner may have another; its events go to
    /// `events` with `tag`.
    ///
    /// # Errors
    /// [`DataPlaneError::NoRoom`].
    pub fn take_send_slot(
        &self,
        lane: u16,
        wanted: WantedFlow,
        events: &EventSender<SendEvent>,
    ) -> Result<SendSlot, DataPlaneError> {
        let mut slots = lock(&self.slots);
        take_slot(&mut slots[usize::from(lane)].sends, wanted, events).map(SendSlot)
    }

    /// Takes a free receiving slot of `lane`, if the partner may have another; its events go to
    /// `events` with `tag`.
    ///
    /// # Errors
    /// [`DataPlaneError::NoRoom`].
    pub fn take_receive_slot(
        &self,
        lane: u16,
        wanted: WantedFlow,
        events: &EventSender<ReceiveEvent>,
    ) -> Result<ReceiveSlot, DataPlaneError> {
        let mut slots = lock(&self.slots);
        take_slot(&mut slots[usize::from(lane)].receives, wanted, events).map(ReceiveSlot)
    }

    /// Gives back a sending slot whose flow is closed or was never opened.
    pub fn give_send_slot_back(&self, lane: u16, slot: SendSlot) {
        untrack(self, lane, FlowSlot::Send(slot));
        lock(&self.slots)[usize::from(lane)].sends[usize::from(slot.0)] = SlotOwner::Free;
    }

    /// Gives back a receiving slot whose flow is closed or was never opened.
    pub fn give_receive_slot_back(&self, lane: u16, slot: ReceiveSlot) {
        untrack(self, lane, FlowSlot::Receive(slot));
        lock(&self.slots)[usize::from(lane)].receives[usize::from(slot.0)] = SlotOwner::Free;
    }

    /// Opens a sending flow. If the process cannot be told of it, its slot is free again.
    ///
    /// # Errors
    /// [`DataPlaneError::Died`].
    pub async fn open_send(&self, open: OpenSend) -> Result<(), DataPlaneError> {
        track(self, open.lane, FlowSlot::Send(open.slot), open.partner.ip());
        let (done, confirmation) = oneshot::channel();
        let at = (open.lane, open.slot);
        lock(&self.waiters).send_opened.insert(at, done);
        if let Err(error) = self.tell(&ToDataPlane::OpenSend(open), &[]) {
            // The process has not heard of the flow, so it will not report its end.
            lock(&self.waiters).send_opened.remove(&at);
            self.give_send_slot_back(at.0, at.1);
            return Err(error);
        }
        self.confirmed(confirmation).await
    }

    /// Opens a receiving flow. If the process cannot be told of it, its slot is free again.
    ///
    /// # Errors
    /// [`DataPlaneError::Died`].
    pub async fn open_receive(&self, open: OpenReceive) -> Result<(), DataPlaneError> {
        track(self, open.lane, FlowSlot::Receive(open.slot), open.partner.ip());
        let (done, confirmation) = oneshot::channel();
        let at = (open.lane, open.slot);
        lock(&self.waiters).receive_opened.insert(at, done);
        if let Err(error) = self.tell(&ToDataPlane::OpenReceive(open), &[]) {
            lock(&self.waiters).receive_opened.remove(&at);
            self.give_receive_slot_back(at.0, at.1);
            return Err(error);
        }
        self.confirmed(confirmation).await
    }

    /// Sends a flow from `source_port` from now on. If the port cannot be bound, the flow stays on
    /// its current one.
    ///
    /// # Errors
    /// [`DataPlaneError::Died`].
    pub fn move_send(&self, lane: u16, slot: SendSlot, source_port: u16) -> Result<(), DataPlaneError> {
        //= W-48
        //# A sender that cannot get the port, or has been asked more than 64 times, continues on
        //# its current port.
        let (address, buffer_bytes) = self.setup.bind;
        let Ok(source) = UdpPort::bind(address, source_port, buffer_bytes) else { return Ok(()) };
        let message = ToDataPlane::SetSource { lane, slot, port: source_port, is_v6: source.is_v6() };
        self.tell(&message, &[source.into_fd().as_fd()])
    }
}
