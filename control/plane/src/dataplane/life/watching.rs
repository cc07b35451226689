//! What a process confirms, until it ends.

use std::sync::Weak;

use culvert_link::messages::FromDataPlane;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};

use crate::dataplane::life::{DataPlane, lock};
use crate::dataplane::process::{Link, ended, link_ended};

impl DataPlane {
    fn confirm(&self, message: &FromDataPlane) {
        let mut waiters = lock(&self.waiters);
        let waiter = match message {
            FromDataPlane::FileInstalled { slot } | FromDataPlane::FileNotInstalled { slot } => {
                if let Some(waiter) = waiters.installed.remove(slot) {
                    let _ = waiter.send(matches!(message, FromDataPlane::FileInstalled { .. }));
                }
                None
            }
            FromDataPlane::SendOpened { lane, slot } => waiters.send_opened.remove(&(*lane, *slot)),
            FromDataPlane::ReceiveOpened { lane, slot } => waiters.receive_opened.remove(&(*lane, *slot)),
            FromDataPlane::ProgramCounters(census) => {
                // One count answers all who have asked so far.
                for waiter in waiters.censuses.drain(..) {
                    let _ = waiter.send(census.clone());
                }
                None
            }
            FromDataPlane::Ready { .. } | FromDataPlane::CannotStart { .. } => None,
        };
        if let Some(waiter) = waiter {
            // Nothing waits any more if the transfer was canceled meanwhile.
            let _ = waiter.send(());
        }
    }
}

/// Waits for the end of the process, and confirms what it confirms meanwhile.
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
                (Some(message), Some(plane)) => plane.confirm(&message),
                _ => break link_ended(child.as_mut()).await,
            },
        }
    };
    end.send_replace(Some(how));
}
