//! Flows of a data plane: their slots, and how they are opened and moved.

use std::os::fd::AsFd as _;

use culvert_link::commands::{ReceiveSlot, SendSlot};
use culvert_link::messages::{OpenReceive, OpenSend, ToDataPlane};
use culvert_link::udp_port::UdpPort;
use tokio::sync::oneshot;

use crate::dataplane::error::DataPlaneError;
use crate::dataplane::events::{EventSender, ReceiveEvent, SendEvent};
use crate::dataplane::followed::FlowSlot;
use crate::dataplane::life::{DataPlane, lock};
use crate::dataplane::slots::{Route, WantedFlow, take_slot};

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
        let mut routes = lock(&self.routes);
        take_slot(&mut routes[usize::from(lane)].sends, wanted, events).map(SendSlot)
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
        let mut routes = lock(&self.routes);
        take_slot(&mut routes[usize::from(lane)].receives, wanted, events).map(ReceiveSlot)
    }

    /// Gives a sending slot back that was never opened.
    pub fn give_send_slot_back(&self, lane: u16, slot: SendSlot) {
        self.unfollow(lane, FlowSlot::Send(slot));
        lock(&self.routes)[usize::from(lane)].sends[usize::from(slot.0)] = Route::Free;
    }

    /// Gives a receiving slot back that was never opened.
    pub fn give_receive_slot_back(&self, lane: u16, slot: ReceiveSlot) {
        self.unfollow(lane, FlowSlot::Receive(slot));
        lock(&self.routes)[usize::from(lane)].receives[usize::from(slot.0)] = Route::Free;
    }

    /// Opens a sending flow.
    ///
    /// # Errors
    /// [`DataPlaneError::Died`].
    pub async fn open_send(&self, open: OpenSend) -> Result<(), DataPlaneError> {
        self.follow(open.lane, FlowSlot::Send(open.slot), open.partner.ip());
        let (done, confirmation) = oneshot::channel();
        lock(&self.waiters).send_opened.insert((open.lane, open.slot), done);
        self.tell(&ToDataPlane::OpenSend(open), &[])?;
        self.confirmed(confirmation).await
    }

    /// Opens a receiving flow.
    ///
    /// # Errors
    /// [`DataPlaneError::Died`].
    pub async fn open_receive(&self, open: OpenReceive) -> Result<(), DataPlaneError> {
        self.follow(open.lane, FlowSlot::Receive(open.slot), open.partner.ip());
        let (done, confirmation) = oneshot::channel();
        lock(&self.waiters).receive_opened.insert((open.lane, open.slot), done);
        self.tell(&ToDataPlane::OpenReceive(open), &[])?;
        self.confirmed(confirmation).await
    }

    /// Sends a flow from `source_port` from now on. A port that cannot be had leaves it where it
    /// is.
    ///
    /// # Errors
    /// [`DataPlaneError::Died`].
    pub fn move_send(&self, lane: u16, slot: SendSlot, source_port: u16) -> Result<(), DataPlaneError> {
        let (address, buffer_bytes) = self.bind;
        let Ok(source) = UdpPort::bind(address, source_port, buffer_bytes) else { return Ok(()) };
        let message = ToDataPlane::SetSource { lane, slot, port: source_port, is_v6: source.is_v6() };
        self.tell(&message, &[source.into_fd().as_fd()])
    }
}
