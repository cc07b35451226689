//! What the mail library reads from: a connection that gives no more than a server should send.
//!
//! The library reads a line without end into memory. And before STARTTLS it reads ahead, then takes
//! what it has as answers under TLS, although anybody on the way may have written it
//! (CVE-2011-0411 describes this in another program). A plain connection is therefore read byte by
//! byte: what follows the answer to STARTTLS is read by TLS, which refuses it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes that a server may send for one message, certificates included.
const BYTES_MAX: usize = 256 * 1_024;

/// A bounded connection.
#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    peer: SocketAddr,
    /// The most bytes of one read.
    at_once: usize,
    /// Bytes that may still come.
    left: usize,
}

impl<S> Wire<S> {
    /// One whose bytes anybody may have written.
    pub(super) fn plain(stream: S, peer: SocketAddr) -> Self {
        Self { stream, peer, at_once: 1, left: BYTES_MAX }
    }

    /// One that is protected.
    pub(super) fn protected(stream: S, peer: SocketAddr) -> Self {
        Self { stream, peer, at_once: BYTES_MAX, left: BYTES_MAX }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other(format!("the server sent more than {BYTES_MAX} bytes"))));
        }
        let length = self.at_once.min(self.left).min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(length));
        let read = Pin::new(&mut self.stream).poll_read(context, &mut part);
        let filled = part.filled().len();
        buffer.advance(filled);
        self.left -= filled;
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S> AsyncTokioStream for Wire<S>
where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin + std::fmt::Debug,
{
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn peer() -> SocketAddr {
        "127.0.0.1:25".parse().unwrap()
    }

    #[tokio::test]
    async fn a_plain_connection_is_never_read_ahead() {
        let mut wire = Wire::plain(b"220 go\r\n250 ok".as_slice(), peer());
        let mut buffer = [0; 100];
        assert_eq!(wire.read(&mut buffer).await.unwrap(), 1);
        assert_eq!(wire.stream, b"20 go\r\n250 ok");
        let mut wire = Wire::protected(b"220 go\r\n".as_slice(), peer());
        assert_eq!(wire.read(&mut buffer).await.unwrap(), 8);
        assert_eq!(wire.read(&mut buffer).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_endless_line_ends() {
        let mut wire = Wire::protected(tokio::io::repeat(b'x'), peer());
        let mut text = Vec::new();
        wire.read_to_end(&mut text).await.unwrap_err();
        assert_eq!(text.len(), BYTES_MAX);
    }
}
