//! Servers that say what a test lets them say.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What was said to a server, over all its connections.
#[derive(Debug, Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    /// Adds something.
    pub fn note(&self, text: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }

    /// All of it.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves connections to this host, and gives the port.
pub async fn serve<F>(mut each: impl FnMut(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(each(stream));
        }
    });
    port
}

/// How an answer of HTTP is sent.
#[derive(Debug, Clone)]
pub enum Says {
    /// At once, then the connection ends.
    Once(Vec<u8>),
    /// This, then a byte each 20 ms, without end.
    Drips(Vec<u8>),
    /// This over and over, without end.
    Floods(Vec<u8>, Vec<u8>),
    /// This, and then nothing more, with the connection open.
    Stalls(Vec<u8>),
}

impl Says {
    /// An answer with content.
    pub fn answer(head: &str, body: &[u8]) -> Self {
        let head = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len());
        Self::Once([head.as_bytes(), body].concat())
    }
}

/// A server of HTTP, with TLS or without.
pub async fn http(tls: Option<TlsAcceptor>, says: Says) -> (u16, Heard) {
    let heard = Heard::default();
    let noted = heard.clone();
    let port = serve(move |stream| {
        let (tls, says, noted) = (tls.clone(), says.clone(), noted.clone());
        async move {
            match tls {
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        say(stream, says, noted).await;
                    }
                }
                None => say(stream, says, noted).await,
            }
        }
    })
    .await;
    (port, heard)
}

async fn say(mut stream: impl AsyncRead + AsyncWrite + Unpin, says: Says, heard: Heard) {
    let mut request = Vec::new();
    while !is_whole(&request) {
        let mut piece = [0; 4_096];
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(length) => request.extend_from_slice(&piece[..length]),
        }
    }
    heard.note(&String::from_utf8_lossy(&request));
    let _ = match says {
        Says::Once(bytes) => stream.write_all(&bytes).await,
        Says::Drips(bytes) => drip(&mut stream, &bytes).await,
        Says::Floods(first, again) => flood(&mut stream, &first, &again).await,
        Says::Stalls(bytes) => stall(&mut stream, &bytes).await,
    };
    let _ = stream.shutdown().await;
}

/// Whether a request has its head and as much content as it says.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

async fn drip(stream: &mut (impl AsyncWrite + Unpin), first: &[u8]) -> std::io::Result<()> {
    stream.write_all(first).await?;
    loop {
        stream.write_all(b"x").await?;
        stream.flush().await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn flood(stream: &mut (impl AsyncWrite + Unpin), first: &[u8], again: &[u8]) -> std::io::Result<()> {
    stream.write_all(first).await?;
    loop {
        stream.write_all(again).await?;
    }
}

async fn stall(stream: &mut (impl AsyncWrite + Unpin), first: &[u8]) -> std::io::Result<()> {
    stream.write_all(first).await?;
    stream.flush().await?;
    std::future::pending().await
}
