//! The writing end of a connection: two queues, and the task that writes them.

use std::time::Duration;

use culvert_protocol::control::Message;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsStream;

/// Ordinary messages that may wait to be written. Beyond that, their senders wait.
const QUEUE_LENGTH: usize = 32;
/// Urgent messages that may wait to be written. A partner that lets so many pile up is given up.
const URGENT_QUEUE_LENGTH: usize = 1 << 15;
/// The interval of `Ping`s from an end that is busy with long work.
const SIGN_OF_LIFE_INTERVAL: Duration = Duration::from_secs(2);

/// The writing end. Clones write to the same connection.
#[derive(Clone, Debug)]
pub struct MessageWriter {
    urgent: mpsc::Sender<Message>,
    ordinary: mpsc::Sender<Message>,
}

/// The connection can no longer be written (the reader knows why), or the partner reads so little
/// that its urgent queue is full.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the control connection is closed, or the partner does not read from it")]
pub struct Closed;

impl MessageWriter {
    /// Starts the task that writes `stream`.
    pub(crate) fn start(stream: WriteHalf<TlsStream<TcpStream>>) -> (Self, JoinHandle<()>) {
        let (urgent, urgent_queue) = mpsc::channel(URGENT_QUEUE_LENGTH);
        let (ordinary, ordinary_queue) = mpsc::channel(QUEUE_LENGTH);
        (Self { urgent, ordinary }, tokio::spawn(write_messages(stream, urgent_queue, ordinary_queue)))
    }

    /// Queues a message behind all earlier ones; waits while the queue is full.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn send(&self, message: Message) -> Result<(), Closed> {
        self.ordinary.send(message).await.map_err(|_| Closed)
    }

    /// Queues a message ahead of all ordinary ones: for feedback and other small messages whose
    /// order does not matter. Never waits.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn send_urgent(&self, message: Message) -> Result<(), Closed> {
        self.urgent.try_send(message).map_err(|_| Closed)
    }

    /// Runs long work, and sends `Ping`s meanwhile.
    pub async fn keep_alive<T>(&self, work: impl Future<Output = T>) -> T {
        //= W-45
        //# an end that spends a long time listing, planning or proving sends `Ping` meanwhile.
        let mut work = std::pin::pin!(work);
        let mut tick = tokio::time::interval(SIGN_OF_LIFE_INTERVAL);
        loop {
            tokio::select! {
                done = &mut work => return done,
                // A closed connection shows at the next message.
                _ = tick.tick() => drop(self.send_urgent(Message::Ping(0))),
            }
        }
    }
}

/// Writes messages, urgent ones first, until both queues are closed; then closes the connection
/// with TLS's `close_notify`.
async fn write_messages<S: AsyncRead + AsyncWrite>(
    mut stream: WriteHalf<S>,
    mut urgent: mpsc::Receiver<Message>,
    mut ordinary: mpsc::Receiver<Message>,
) {
    /// Messages are gathered for one write until they have this many bytes or the queues are empty.
    const GATHERED_BYTES: usize = 64 << 10;
    let mut bytes = Vec::with_capacity(2 * GATHERED_BYTES);
    loop {
        let message = tokio::select! {
            biased;
            Some(message) = urgent.recv() => message,
            Some(message) = ordinary.recv() => message,
            else => break,
        };
        message.write_frame(&mut bytes);
        while bytes.len() < GATHERED_BYTES {
            let Some(message) = urgent.try_recv().ok().or_else(|| ordinary.try_recv().ok()) else { break };
            message.write_frame(&mut bytes);
        }
        if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        bytes.clear();
    }
    let _ = stream.shutdown().await;
}
