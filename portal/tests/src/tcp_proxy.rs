//! A TCP proxy between a client and a server of a test, for what networks do to them: delays, cut
//! connections, silence, refusals, and all of that just when a certain message passes.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::ports::Port;

/// How many bytes are read at once, and how many such pieces are on the way at most: a client that
/// is not heard is stopped by its own kernel at some time, as in a real network.
const PIECE_BYTES: usize = 16 << 10;
const PIECES: usize = 16;

/// A direction of traffic, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// What the client sends.
    ToServer,
    /// What the server answers.
    ToClient,
    /// Both.
    Both,
}

/// What happens when a message passes towards the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// It, and all that follows on its connection, arrives so much later.
    Delay(Duration),
    /// Its connection is cut before it arrives.
    CutBefore,
    /// It arrives, but the client's end is cut, so the client never learns what became of it.
    CutAfter,
}

/// The proxy; all its connections are cut when it is dropped.
#[derive(Debug)]
pub struct TcpProxy {
    shared: Arc<Shared>,
    port: Port,
    listening: Mutex<Option<Listening>>,
}

impl TcpProxy {
    /// Forwards each connection to a server.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn start(server: SocketAddr) -> Self {
        let state = State { server, ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let proxy = Self { shared, port: Port::reserve(), listening: Mutex::new(None) };
        proxy.resume();
        proxy
    }

    /// Where clients connect. It stays the same.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Forwards new connections to another server.
    pub fn set_server(&self, server: SocketAddr) {
        self.shared.change(|state| state.server = server);
    }

    /// What is read from now on arrives so much later.
    pub fn delay(&self, way: Way, delay: Duration) {
        self.shared.change(|state| way.indices().for_each(|at| state.delays[at] = delay));
    }

    /// When bytes pass towards the server, does something about it, each time until
    /// [`TcpProxy::resume`]. Only in what is not encrypted.
    pub fn when_seen(&self, bytes: &[u8], reaction: Reaction) {
        self.shared.change(|state| state.watched.push((bytes.to_owned(), reaction)));
    }

    /// How often bytes that are watched for have passed.
    #[must_use]
    pub fn seen(&self) -> usize {
        self.shared.lock().seen
    }

    /// Closes all connections at both ends, as the kernel does for a process that dies. What was on
    /// the way is lost.
    pub fn cut(&self) {
        self.shared.change(|state| state.connections.drain().for_each(|(_, connection)| connection.close()));
    }

    /// Forwards nothing, closes nothing: what is sent meanwhile arrives after
    /// [`TcpProxy::resume`]. New connections are accepted, as a firewall would not, but a server's
    /// backlog would.
    pub fn black_hole(&self, way: Way) {
        self.shared.change(|state| way.indices().for_each(|at| state.is_held[at] = true));
    }

    /// Refuses new connections; those that are there go on.
    ///
    /// # Panics
    /// If a thread of the proxy has.
    pub fn refuse(&self) {
        drop(self.lock_listening().take());
    }

    /// Forwards at once, delays and refuses nothing any more, and watches for nothing.
    ///
    /// # Panics
    /// If it cannot listen again.
    pub fn resume(&self) {
        self.shared.change(|state| {
            state.is_held = [false; 2];
            state.delays = [Duration::ZERO; 2];
            state.watched.clear();
        });
        self.lock_listening().get_or_insert_with(|| Listening::start(self.port.listen(), &self.shared));
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.lock().connections.len()
    }

    fn lock_listening(&self) -> MutexGuard<'_, Option<Listening>> {
        self.listening.lock().expect("nothing panics while it listens or stops")
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.refuse();
        self.cut();
    }
}

impl Way {
    fn indices(self) -> std::ops::Range<usize> {
        match self {
            Self::ToServer => 0..1,
            Self::ToClient => 1..2,
            Self::Both => 0..2,
        }
    }
}

#[derive(Debug)]
struct State {
    server: SocketAddr,
    delays: [Duration; 2],
    is_held: [bool; 2],
    watched: Vec<(Vec<u8>, Reaction)>,
    seen: usize,
    next: u64,
    connections: HashMap<u64, Connection>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            server: SocketAddr::from(([127, 0, 0, 1], 0)),
            delays: [Duration::ZERO; 2],
            is_held: [false; 2],
            watched: Vec::new(),
            seen: 0,
            next: 0,
            connections: HashMap::new(),
        }
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics with the proxy's state")
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until a piece may go on. False if its connection was cut meanwhile.
    fn wait_until(&self, due: Instant, id: u64, at: usize) -> bool {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if !state.connections.contains_key(&id) {
                return false;
            }
            if state.is_held[at] {
                state = self.changed.wait(state).expect("nothing panics with the proxy's state");
            } else if now < due {
                state = self.changed.wait_timeout(state, due - now).expect("nothing panics with the proxy's state").0;
            } else {
                return true;
            }
        }
    }
}

#[derive(Debug)]
struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// Directions that have not ended.
    open: usize,
}

impl Connection {
    fn close(&self) {
        for end in [&self.client, &self.server] {
            // The other side may have closed it already.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

#[derive(Debug)]
struct Listening {
    socket: Arc<Socket>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Listening {
    fn start(socket: Socket, shared: &Arc<Shared>) -> Self {
        let (socket, shared) = (Arc::new(socket), Arc::clone(shared));
        let accepting = Arc::clone(&socket);
        let thread = thread::spawn(move || {
            while let Ok((client, _)) = accepting.accept() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(TcpStream::from(client), &shared));
            }
        });
        Self { socket, thread: Some(thread) }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Ends `accept`.
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("accepting does not panic");
        }
    }
}

/// A piece of a stream, when it is due, and whether its connection is cut with it.
type Piece = (Instant, Vec<u8>, Option<Reaction>);

fn serve(client: TcpStream, shared: &Arc<Shared>) {
    let address = shared.lock().server;
    // Dropping the client's connection tells it that there is no server.
    let Ok(server) = TcpStream::connect(address) else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let clone = |stream: &TcpStream| stream.try_clone().expect("a socket can be cloned");
    let ends = [[clone(&client), clone(&server)], [clone(&server), clone(&client)]];
    let id = shared.change(|state| {
        state.next += 1;
        state.connections.insert(state.next, Connection { client, server, open: 2 });
        state.next
    });
    for (at, [from, to]) in ends.into_iter().enumerate() {
        let (sender, receiver) = sync_channel(PIECES);
        let (reading, writing) = (Arc::clone(shared), Arc::clone(shared));
        thread::spawn(move || read(from, &sender, &reading, at));
        thread::spawn(move || write(to, &receiver, &writing, id, at));
    }
}

fn read(mut from: TcpStream, pieces: &SyncSender<Piece>, shared: &Shared, at: usize) {
    let mut buffer = vec![0; PIECE_BYTES];
    // The end of what passed before: a message may be in two pieces.
    let mut tail = Vec::new();
    // A piece that is late makes all that follow late.
    let mut extra = Duration::ZERO;
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let piece = buffer[..length].to_vec();
        let reaction = if at == 0 { seen(shared, &mut tail, &piece) } else { None };
        if let Some(Reaction::Delay(delay)) = reaction {
            extra += delay;
        }
        let due = Instant::now() + shared.lock().delays[at] + extra;
        if pieces.send((due, piece, reaction)).is_err() {
            return;
        }
    }
}

/// Looks for what is watched for in a piece.
fn seen(shared: &Shared, tail: &mut Vec<u8>, piece: &[u8]) -> Option<Reaction> {
    let mut state = shared.lock();
    let before = tail.len();
    tail.extend_from_slice(piece);
    // Only what ends in this piece: the rest was seen before.
    let ends_here = |bytes: &[u8]| {
        let mut places = tail.windows(bytes.len().max(1)).enumerate();
        places.any(|(at, window)| window == bytes && at + bytes.len() > before)
    };
    let found = state.watched.iter().find(|(bytes, _)| ends_here(bytes)).map(|&(_, reaction)| reaction);
    state.seen += usize::from(found.is_some());
    let longest = state.watched.iter().map(|(bytes, _)| bytes.len()).max().unwrap_or(1);
    tail.drain(..tail.len().saturating_sub(longest - 1));
    found
}

fn write(mut to: TcpStream, pieces: &Receiver<Piece>, shared: &Shared, id: u64, at: usize) {
    for (due, piece, reaction) in pieces {
        if !shared.wait_until(due, id, at) {
            break;
        }
        match reaction {
            Some(Reaction::CutBefore) => {
                cut(shared, id, Connection::close);
                break;
            }
            Some(Reaction::CutAfter) => {
                cut(shared, id, |connection| {
                    let _ = connection.client.shutdown(Shutdown::Both);
                });
                let _ = to.write_all(&piece);
                break;
            }
            _ if to.write_all(&piece).is_err() => break,
            _ => {}
        }
    }
    // The end of a stream is passed on too, unless nothing is.
    shared.wait_until(Instant::now(), id, at);
    let _ = to.shutdown(Shutdown::Write);
    shared.change(|state| {
        let Some(connection) = state.connections.get_mut(&id) else { return };
        connection.open -= 1;
        if connection.open == 0 {
            state.connections.remove(&id);
        }
    });
}

fn cut(shared: &Shared, id: u64, close: impl FnOnce(&Connection)) {
    shared.change(|state| {
        if let Some(connection) = state.connections.remove(&id) {
            close(&connection);
        }
    });
}
