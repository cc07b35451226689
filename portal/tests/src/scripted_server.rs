//! A server of HTTP that says what a test wants, or hands everything on, and keeps what it was
//! sent.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a request, or the answer to it, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The server. Its thread ends with the test's process.
#[derive(Debug)]
pub struct ScriptedServer {
    address: SocketAddr,
    seen: Arc<Mutex<String>>,
}

impl ScriptedServer {
    /// One that answers each request, of which it sees the first line, with status and headers, and
    /// a body.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn start(mut answer: impl FnMut(&str) -> (String, String) + Send + 'static) -> Self {
        Self::with(move |mut stream, request| {
            let (head, body) = answer(request.lines().next().unwrap_or_default());
            let length = body.len();
            let _ = write!(stream, "HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        })
    }

    /// One that hands everything on to another server.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn before(server: SocketAddr) -> Self {
        Self::with(move |mut stream, request| {
            let Ok(mut other) = TcpStream::connect(server) else { return };
            let _ = other.set_read_timeout(Some(PATIENCE));
            let mut answer = Vec::new();
            let _ = other.write_all(request.as_bytes());
            let _ = other.read_to_end(&mut answer);
            let _ = stream.write_all(&answer);
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// All that it was sent.
    #[must_use]
    pub fn seen(&self) -> String {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn with(mut react: impl FnMut(TcpStream, &str) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let seen = Arc::new(Mutex::new(String::new()));
        let keeps = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let request = read_request(&stream);
                keeps.lock().unwrap_or_else(PoisonError::into_inner).push_str(&request);
                react(stream, &request);
            }
        });
        Self { address, seen }
    }
}

/// A request with its body, or what came of it.
fn read_request(stream: &TcpStream) -> String {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut reader = BufReader::new(stream);
    let (mut text, mut length) = (String::new(), 0);
    loop {
        let begin = text.len();
        if reader.read_line(&mut text).unwrap_or(0) == 0 {
            return text;
        }
        let line = text[begin..].trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_ok() {
        text.push_str(&String::from_utf8_lossy(&body));
    }
    text
}
