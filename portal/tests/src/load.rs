//! Load for measurements: connections that are kept, requests one after another on each, and the
//! time of each answer.

use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a load was answered.
#[derive(Debug, Clone)]
pub struct Load {
    /// Answers with a 2xx status.
    pub good: u64,
    /// Answers with another status, by status.
    pub other: Vec<(u16, u64)>,
    /// How long it took.
    pub took: Duration,
    /// The times of all answers, sorted.
    pub times: Vec<Duration>,
}

impl Load {
    /// Good answers a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.good as f64 / self.took.as_secs_f64()
    }

    /// The time within which this part of a hundred was answered.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let at = self.times.len() * percent / 100;
        self.times.get(at.min(self.times.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

/// Sends requests on so many connections for so long. `request` makes the text of each from its
/// number, complete with its head.
///
/// # Panics
/// If the server does not answer.
pub fn run(
    server: SocketAddr,
    connections: usize,
    lasting: Duration,
    request: impl Fn(u64) -> String + Send + Sync + 'static,
) -> Load {
    let (request, number, began) = (Arc::new(request), Arc::new(AtomicU64::new(0)), Instant::now());
    let workers: Vec<_> = (0..connections)
        .map(|_| {
            let (request, number) = (request.clone(), number.clone());
            std::thread::spawn(move || {
                let mut answers = Vec::new();
                let mut stream = BufReader::new(connect(server));
                while began.elapsed() < lasting {
                    let text = request(number.fetch_add(1, Ordering::Relaxed));
                    let sent = Instant::now();
                    let status = match exchange(&mut stream, &text) {
                        Ok(status) => status,
                        Err(error) => panic!("no answer: {error}"),
                    };
                    answers.push((status, sent.elapsed()));
                }
                answers
            })
        })
        .collect();
    let answers: Vec<(u16, Duration)> =
        workers.into_iter().flat_map(|worker| worker.join().expect("the server answers")).collect();
    let took = began.elapsed();
    let mut times: Vec<Duration> = answers.iter().map(|(_, time)| *time).collect();
    times.sort();
    let mut other: Vec<(u16, u64)> = Vec::new();
    for (status, _) in answers.iter().filter(|(status, _)| !(200..300).contains(status)) {
        match other.iter_mut().find(|(known, _)| known == status) {
            Some((_, count)) => *count += 1,
            None => other.push((*status, 1)),
        }
    }
    let good = answers.iter().filter(|(status, _)| (200..300).contains(status)).count() as u64;
    Load { good, other, took, times }
}

/// The text of a request with a token.
#[must_use]
pub fn request(method: &str, path: &str, token: &str, body: Option<&str>) -> String {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: portal\r\nauthorization: Bearer {token}\r\n");
    match body {
        None => head + "\r\n",
        Some(body) => format!("{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
    }
}

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).expect("the server takes connections");
    stream.set_nodelay(true).expect("a TCP socket");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a TCP socket");
    stream
}

fn exchange(stream: &mut BufReader<TcpStream>, text: &str) -> io::Result<u16> {
    stream.get_mut().write_all(text.as_bytes())?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("'{}' is no status", line.trim_end())))?;
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        if line.trim_end().is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim_end().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(status)
}
