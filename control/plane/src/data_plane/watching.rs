//! Takes the process's confirmations until it ends.

use std::sync::Weak;

use culvert_link::messages::FromDataPlane;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};

use crate::data_plane::{DataPlane, Waiters, lock};
use crate::process::{Link, ended, link_ended};

/// Waits for the end of the process, and passes its confirmations on meanwhile.
pub(super) async fn watch_process(
    mut child: Option<Child>,
    _link: Link,
    mut incoming: mpsc::Receiver<FromDataPlane>,
    mut dropped: watch::Receiver<()>,
    plane: Weak<DataPlane>,
    end: watch::Sender<Option<String>>,
) {
    let how = loop {
        tokio::select! {
            how = ended(child.as_mut()), if child.is_some() => break how,
            _ = dropped.changed() => break "it was stopped".to_owned(),
            message = incoming.recv() => match (message, plane.upgrade()) {
                (Some(message), Some(plane)) => lock(&plane.waiters).confirm(&message),
                _ => break link_ended(child.as_mut()).await,
            },
        }
    };
    end.send_replace(Some(how));
}

impl Waiters {
    /// Wakes whoever waits for a message. A message that nobody waits for is dropped.
    fn confirm(&mut self, message: &FromDataPlane) {
        let waiter = match message {
            FromDataPlane::FileInstalled { slot } | FromDataPlane::FileNotInstalled { slot } => {
                if let Some(waiter) = self.installed.remove(slot) {
                    let _ = waiter.send(matches!(message, FromDataPlane::FileInstalled { .. }));
                }
                None
            }
            FromDataPlane::SendOpened { lane, slot } => self.send_opened.remove(&(*lane, *slot)),
            FromDataPlane::ReceiveOpened { lane, slot } => self.receive_opened.remove(&(*lane, *slot)),
            FromDataPlane::ProgramCounters(census) => {
                // One count answers all who have asked so far.
                for waiter in self.censuses.drain(..) {
                    let _ = waiter.send(census.clone());
                }
                None
            }
            FromDataPlane::Ready { .. } | FromDataPlane::CannotStart { .. } => None,
        };
        if let Some(waiter) = waiter {
            // A transfer that was canceled meanwhile no longer waits.
            let _ = waiter.send(());
        }
    }
}
