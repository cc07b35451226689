//! The reading end of a connection.

use std::net::SocketAddr;
use std::time::Duration;

use culvert_protocol::control::{FrameReader, Message};
use tokio::io::{AsyncReadExt as _, ReadHalf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::error::ConnectionError;

//= W-45
//# An end that receives nothing for 30 s closes the connection.
/// The longest silence of a live partner.
pub const SILENCE_TIMEOUT: Duration = Duration::from_millis(SILENCE_MS as u64);
/// [`SILENCE_TIMEOUT`] in milliseconds, the unit of the socket options.
pub(crate) const SILENCE_MS: u32 = 30_000;

/// How long the requesting end waits for the other's record of the transfer: longer than a disk
/// takes for a few flushes. Everything is stored and signed by then, so nothing is lost if it waits
/// in vain.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection that this end has given up is still read.
const LINGER: Duration = Duration::from_secs(2);
/// How many bytes are read from it: more than all buffers between the two ends hold.
const LINGER_BYTES: u64 = 8 << 20;

/// The reading end.
///
/// After it is dropped, a task discards what the partner still sends for a short time: closing a
/// socket with unread bytes resets the connection, and the reset would overtake this end's last
/// message, which carries the reason.
#[derive(Debug)]
pub struct MessageReader {
    /// `None` once the reader has been dropped or taken.
    stream: Option<ReadHalf<TlsStream<TcpStream>>>,
    frames: FrameReader,
    address: SocketAddr,
    /// Whether the partner closed the connection with `close_notify`. Only TLS tells that apart
    /// from a process or host that is gone.
    is_closed: bool,
}

impl MessageReader {
    /// The reading end of the connection to `address`.
    pub(crate) fn new(stream: ReadHalf<TlsStream<TcpStream>>, address: SocketAddr) -> Self {
        Self { stream: Some(stream), frames: FrameReader::default(), address, is_closed: false }
    }

    /// The next message of a partner that must send at least a ping within [`SILENCE_TIMEOUT`].
    /// Cancelling the future loses nothing.
    ///
    /// # Errors
    /// [`ConnectionError`]; the connection is then of no use.
    pub async fn next_in_time(&mut self) -> Result<Message, ConnectionError> {
        let address = self.address;
        let silent = |_| ConnectionError::Cut {
            address,
            reason: format!("nothing was received from the partner for {} s", SILENCE_TIMEOUT.as_secs()),
        };
        tokio::time::timeout(SILENCE_TIMEOUT, self.next()).await.map_err(silent)?
    }

    /// The next message. Cancelling the future loses nothing.
    ///
    /// # Errors
    /// [`ConnectionError`]; the connection is then of no use.
    pub async fn next(&mut self) -> Result<Message, ConnectionError> {
        let cut = |reason: String| ConnectionError::Cut { address: self.address, reason };
        let mut bytes = [0; 16 << 10];
        loop {
            if let Some(message) = self.frames.next_message()? {
                return Ok(message);
            }
            let Some(stream) = &mut self.stream else { return Err(cut("this end closed it".to_owned())) };
            match stream.read(&mut bytes).await {
                Ok(0) => {
                    self.is_closed = true;
                    return Err(cut("the partner closed it".to_owned()));
                }
                Ok(count) => self.frames.push(bytes.get(..count).unwrap_or_default()),
                // The connection ended without TLS's close_notify.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Err(cut("the partner's process or its host went down".to_owned()));
                }
                Err(error) => return Err(cut(error.to_string())),
            }
        }
    }

    /// Takes the reading end out of a connection that has no other use anymore.
    #[must_use]
    pub fn take(&mut self) -> Self {
        Self { stream: self.stream.take(), frames: FrameReader::default(), address: self.address, is_closed: false }
    }

    /// Waits until the partner closes the connection, at most 5 s. False if the connection was cut
    /// first: the partner may have lost its record of the transfer.
    pub async fn wait_for_goodbye(mut self) -> bool {
        //= W-56
        //# The requesting end waits for that close, for at most 5 s, before it reports the transfer
        //# as ended.
        let goodbye = async {
            while self.next().await.is_ok() {}
            self.is_closed
        };
        tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await.unwrap_or(true)
    }
}

impl Drop for MessageReader {
    fn drop(&mut self) {
        if let (Some(stream), Ok(runtime)) = (self.stream.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                let mut left = stream.take(LINGER_BYTES);
                let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut left, &mut tokio::io::sink())).await;
            });
        }
    }
}
