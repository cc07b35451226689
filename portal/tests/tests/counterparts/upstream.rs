//! A tiny HTTP server, as the portal would be behind nginx: it shows the request that it got.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// It answers as long as the process runs.
pub struct Upstream {
    pub address: SocketAddr,
    /// Lets the event stream go on.
    pub go_on: Sender<()>,
}

impl Upstream {
    /// Starts one that says its name.
    pub fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (go_on, goes_on) = channel();
        let goes_on: &'static Mutex<Receiver<()>> = Box::leak(Box::new(Mutex::new(goes_on)));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that has gone is no concern of this.
                thread::spawn(move || serve(stream, name, goes_on));
            }
        });
        Self { address, go_on }
    }
}

fn serve(mut stream: TcpStream, name: &str, goes_on: &Mutex<Receiver<()>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    if head.first().is_some_and(|line| line.contains("/events ")) {
        let begin = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: first\n\n";
        stream.write_all(begin.as_bytes())?;
        let _ = goes_on.lock().unwrap().recv();
        return stream.write_all(b"data: second\n\n");
    }
    let body = format!("<title>{name}</title>\n{}\n", head.join("\n"));
    let length = body.len();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n";
    write!(stream, "{head}content-length: {length}\r\n\r\n{body}")
}
