//! The control process's side of the link in the hands of a captured data plane.
//!
//! A transfer runs as it does in a node: the same tasks, a real destination, a control connection to an
//! honest partner. Only the data plane is the test's: it has the other end of the socket and of the
//! rings, and does what a script says. Whatever that is, the control process lives and says how the
//! transfer ended; nothing outside of the destination changes; what the control process hashes itself
//! is stored as it was sent; and no receipt has another root than the sender's.
//!
//! What it cannot know stands in `docs/security.md`: the hash of a chunk of a large file is the data
//! plane's word. A file of which the script has said what is not so is therefore only looked at for
//! its size and place.

mod plane;
mod steps;
pub mod truth;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use culvert_control::connection::Connection;
use culvert_control::connection::incoming::Greeted;
use culvert_control::dataplane::{DataPlane, Origin};
use culvert_control::destination::Reach;
use culvert_control::metrics::Metrics;
use culvert_control::request::push;
use culvert_control::shares::Shares;
use culvert_control::sources::local_source;
use culvert_control::tls::TlsConfigs;
use culvert_control::transfer::receiving::{FileRequest, Incoming, receive};
use culvert_control::transfer::{Progress, TransferContext, TransferError};
use culvert_dataplane::link::engine::EngineConfig;
use culvert_protocol::control::{
    FlowOffer, LIST_BYTES, Message, Options, Overwrite, ReceiverSummary, SenderSummary, TransferId, encode_entry,
};
use culvert_protocol::identity::Identity;
use culvert_protocol::names::TEMPORARY_PREFIX;
use culvert_protocol::rate_control::Mode;
use culvert_protocol::receipt::{Receipt, Statement, sign_line};
use culvert_protocol::seal::Cipher;
use culvert_protocol::verdict::{Limit, Verdict};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::sync::watch;

use plane::Deeds;
use truth::{CHUNK_BYTES, Truth};

/// Longer than any script takes on a slow machine: beyond it the control process hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Panics of any thread, also of those that nobody waits for.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            before(panic);
        }));
    });
}

struct Hall {
    runtime: tokio::runtime::Runtime,
    here: Arc<Identity>,
    there: Arc<Identity>,
    truth: Arc<Truth>,
    metrics: Arc<Metrics>,
}

thread_local! {
    static HALL: RefCell<Hall> = RefCell::new(Hall {
        runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"),
        here: Arc::new(Identity::generate()),
        there: Arc::new(Identity::generate()),
        truth: Arc::new(Truth::new()),
        metrics: Arc::new(Metrics::new()),
    });
}

/// What is there, and what it was when.
type Snapshot = BTreeMap<PathBuf, (u64, i64, i64, u32)>;

fn snapshot(directory: &Path, into: &mut Snapshot) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let meta = std::fs::symlink_metadata(&path).expect("what it is");
        into.insert(path.clone(), (meta.size(), meta.mtime(), meta.mtime_nsec(), meta.mode()));
        if meta.is_dir() {
            snapshot(&path, into);
        }
    }
}

fn snapshot_of(directory: &Path) -> Snapshot {
    let mut into = Snapshot::new();
    snapshot(directory, &mut into);
    into
}

/// Plays a script.
///
/// # Panics
/// If the control process does what it may not.
pub fn check(script: &[u8]) {
    // Whichever way it ended.
    let _ = outcome(script);
}

/// Plays a script; how its transfer ended, and with which receipt.
///
/// # Errors
/// What the transfer ended with.
///
/// # Panics
/// As [`check`].
pub fn outcome(script: &[u8]) -> Result<Option<Receipt>, TransferError> {
    count_panics();
    let panics = PANICS.load(Ordering::SeqCst);
    let (kind, script) = script.split_first().map_or((0, script), |(&kind, script)| (kind, script));
    let ended = HALL.with_borrow(|hall| hall.runtime.block_on(play(hall, kind, script)));
    assert_eq!(PANICS.load(Ordering::SeqCst), panics, "a task of the control process panicked");
    ended
}

/// Transfers of both directions, with and without hashes: one that ends well, and some into which each kind of step breaks.
#[must_use]
pub fn samples() -> Vec<Vec<u8>> {
    let mut samples: Vec<Vec<u8>> = (0..4).map(|kind| vec![kind, 0]).collect();
    for kind in 0..4 {
        for letters in [11..18, 18..23, 23..32] {
            let steps = letters.flat_map(|letter| [0, 4, 10, letter, letter ^ 0x35, 3, 200, 9, 64, 7, 10]);
            samples.push([kind, 0, 0, 0, 10, 4, 10].into_iter().chain(steps).collect());
        }
    }
    // Lanes that there are not.
    samples.extend([250, 251, 252].map(|lanes| vec![0, lanes]));
    samples
}

struct Room {
    directory: tempfile::TempDir,
    before: Snapshot,
}

impl Room {
    fn new(truth: &Truth, is_sender: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["root", "outside", "journals", "source"] {
            std::fs::create_dir(directory.path().join(name)).expect("a directory");
        }
        std::fs::write(directory.path().join("outside/secret"), "a secret").expect("a file");
        std::fs::write(directory.path().join("root/kept"), "what was there").expect("a file");
        if is_sender {
            truth.write_to(&directory.path().join("source"));
        }
        let before = Snapshot::new();
        let mut room = Self { directory, before };
        room.before = room.look();
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What may not change.
    fn look(&self) -> Snapshot {
        let mut seen = snapshot_of(&self.path("outside"));
        seen.extend(snapshot_of(&self.path("source")));
        seen.extend(snapshot_of(&self.path("root")).into_iter().filter(|(path, _)| path.ends_with("kept")));
        seen
    }
}

async fn play(hall: &Hall, kind: u8, script: &[u8]) -> Result<Option<Receipt>, TransferError> {
    let (is_sender, checksum) = (kind & 1 == 1, kind & 2 == 0);
    let room = Room::new(&hall.truth, is_sender);
    let (socket, listener) = listen(&room);
    let (truth, script) = (hall.truth.clone(), script.to_vec());
    let captured = tokio::task::spawn_blocking(move || plane::run(&listener, &script, &truth));
    let config = EngineConfig {
        cores: vec![None; 2],
        memory_bytes: 8 * CHUNK_BYTES as usize,
        buffer_bytes: CHUNK_BYTES as usize,
        bind: std::net::Ipv4Addr::LOCALHOST.into(),
        ports: Vec::new(),
        socket_buffer_bytes: 1 << 16,
        af_xdp: None,
        refusals: Vec::new(),
    };
    let started = tokio::time::timeout(PATIENCE, DataPlane::start(&Origin::Socket(socket), &config)).await;
    let ended = match started.expect("the start hangs") {
        Ok(plane) => transfer(hall, &room, plane, is_sender, checksum).await,
        Err(error) => Err(error.into()),
    };
    let deeds = tokio::time::timeout(PATIENCE, captured).await.expect("the link stays open").expect("the script");
    assert_eq!(room.look(), room.before, "something outside of the destination has changed");
    look_at_descriptors(&room, &deeds, is_sender);
    match &ended {
        Ok(receipt) => look_at_receipt(hall, receipt.as_ref(), checksum),
        Err(error) => assert!(error.to_string().len() > 10, "an error without a sentence: {error:?}"),
    }
    look_at_destination(hall, &room, &deeds, checksum);
    ended
}

fn listen(room: &Room) -> (PathBuf, OwnedFd) {
    let path = room.path("plane");
    let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .expect("a socket");
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).expect("a short path")).expect("a free path");
    rustix::net::listen(&listener, 1).expect("a listener");
    (path, listener)
}

async fn transfer(
    hall: &Hall,
    room: &Room,
    plane: Arc<DataPlane>,
    is_sender: bool,
    checksum: bool,
) -> Result<Option<Receipt>, TransferError> {
    let (connection, partners) = connected(hall).await;
    let options = Options {
        chunk_bytes: CHUNK_BYTES,
        checksum,
        cipher: Cipher::Aes128Gcm,
        overwrite: Overwrite::Changed,
        preserve: false,
        flows: 2,
        mode: Mode::Fair,
        rate_bits_per_second: None,
        dry_run: false,
    };
    let shares = Arc::new(Shares::default());
    let (cancels, cancel) = watch::channel(false);
    let context = TransferContext {
        id: TransferId::new(1, 2),
        options,
        identity: hall.here.clone(),
        plane,
        partner_lane_ports: vec![7_001, 7_002],
        datagram_bytes_max: 1_472,
        progress: watch::channel(Progress::default()).0,
        cancel,
        start_bits_per_second: None,
        metrics: hall.metrics.clone(),
        peer: "partner".to_owned(),
        patience: None,
        share: shares.take(connection.partner),
        connection,
    };
    let partner =
        tokio::spawn(partner(partners, hall.there.clone(), hall.here.clone(), hall.truth.clone(), options, is_sender));
    let work = async {
        if is_sender {
            let source = local_source(&room.path("source").join(".")).expect("a source");
            return push(context, vec![source]).await.map(|outcome| outcome.receipt);
        }
        let reach = Reach::Owner { directory: room.path("root") };
        let (journals, metrics) = (room.path("journals"), hall.metrics.clone());
        let request = FileRequest { reach, destination: b".".to_vec(), journals, metrics };
        receive(context, Incoming::Files(request)).await.map(|received| received.receipt)
    };
    let ended = tokio::time::timeout(PATIENCE, work).await.expect("the transfer hangs");
    drop(cancels);
    partner.abort();
    ended
}

/// Both ends of a control connection: this node's, and its honest partner's.
async fn connected(hall: &Hall) -> (Connection, Connection) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let (client, server) = (TlsConfigs::new(&hall.there), TlsConfigs::new(&hall.here));
    let accept = async {
        let (tcp, from) = listener.accept().await.expect("a connection");
        Greeted::hear(tcp, from).await.expect("a hello").accept(&server, "here").await
    };
    let (theirs, ours) = tokio::join!(Connection::connect(&client, address, "there"), accept);
    (ours.expect("an introduction"), theirs.expect("an introduction"))
}

/// The partner, which is honest: it says what is so as early as it may.
async fn partner(
    mut connection: Connection,
    identity: Arc<Identity>,
    other: Arc<Identity>,
    truth: Arc<Truth>,
    options: Options,
    is_receiver: bool,
) {
    if !is_receiver && announce(&connection, &truth).await.is_none() {
        return;
    }
    let writer = connection.writer.clone();
    while let Ok(message) = connection.reader.next().await {
        let said = match message {
            Message::ManifestEnd { .. } => {
                let offer = |lane| FlowOffer { flow_id: 10 + u32::from(lane), receiver_lane: lane, sender_lane: lane };
                writer.send(Message::PlanEnd { flows: vec![offer(0), offer(1)], stored_bytes: 0 }).await
            }
            Message::PlanEnd { .. } if !is_receiver => {
                for message in all_of(&truth, options.checksum) {
                    let _ = writer.send(message).await;
                }
                Ok(())
            }
            Message::AllSent(_) => {
                let root = if options.checksum { truth.root() } else { String::new() };
                let line = statement(&truth, &other, &identity, root).to_line();
                let signature = sign_line(&identity, &line).to_vec();
                writer.send(Message::Finished { line, signature, summary: summary(&truth) }).await
            }
            Message::Finished { line, .. } if !is_receiver => {
                let signature = sign_line(&identity, &line).to_vec();
                writer.send(Message::Countersigned { signature }).await
            }
            Message::Ping(number) => writer.send(Message::Pong(number)).await,
            _ => Ok(()),
        };
        if said.is_err() {
            return;
        }
    }
}

async fn announce(connection: &Connection, truth: &Truth) -> Option<()> {
    let mut part = Vec::new();
    for (_, entry) in truth.manifest.entries() {
        encode_entry(&entry, &mut part);
    }
    assert!(part.len() < LIST_BYTES);
    let end = Message::ManifestEnd {
        entries: truth.manifest.len() as u32,
        digest: truth.manifest.digest(),
        allocated_bytes: 1 << 20,
        is_single_file: false,
    };
    connection.writer.send(Message::ManifestPart(part)).await.ok()?;
    connection.writer.send(end).await.ok()
}

/// Everything that a sender says while it sends.
fn all_of(truth: &Truth, checksum: bool) -> Vec<Message> {
    let mut messages = Vec::new();
    if checksum {
        let hashes = (0..).zip(&truth.chunk_hashes).filter_map(|(chunk, hash)| Some((chunk, (*hash)?)));
        messages.push(Message::ChunkHashes(hashes.collect()));
    }
    for chunk in 0..truth.chunk_count() {
        if let Some(hashes) = truth.pack_hashes(chunk) {
            messages.push(Message::PackHashes { chunk, hashes: if checksum { hashes } else { Vec::new() } });
        }
    }
    let large = truth.chunks.files().map(|(file, _)| (file, truth.file_hashes[file as usize]));
    messages.push(Message::FilesComplete(large.collect()));
    messages.push(Message::AllSent(SenderSummary::default()));
    messages
}

fn statement(truth: &Truth, sender: &Identity, receiver: &Identity, root_blake3: String) -> Statement {
    Statement {
        culvert_receipt: 1,
        transfer: TransferId::new(1, 2).to_string(),
        sender: sender.public_key(),
        receiver: receiver.public_key(),
        began_unix_ms: 1,
        ended_unix_ms: 2,
        files: truth.manifest.file_count(),
        files_failed: 0,
        bytes: truth.manifest.total_bytes(),
        root_blake3,
        segments_sent: 0,
        segments_resent: 0,
        cipher: Cipher::Aes128Gcm.name().to_owned(),
        verdict: String::new(),
    }
}

fn summary(truth: &Truth) -> ReceiverSummary {
    ReceiverSummary {
        files_stored: truth.manifest.file_count(),
        files_skipped: 0,
        files_failed: 0,
        bytes_stored: truth.manifest.total_bytes(),
        resumed_bytes: 0,
        cpu_us: 0,
        millicycles_per_byte: 0,
        verdict: Verdict { limited_by: Limit::Path, share: 0.0, text: String::new() },
    }
}

/// What the data plane was given leads to files of the transfer only, and lets it write to those that
/// are received.
fn look_at_descriptors(room: &Room, deeds: &Deeds, is_sender: bool) {
    let beneath = std::fs::canonicalize(room.path(if is_sender { "source" } else { "root" })).expect("a directory");
    for (path, may_write) in &deeds.descriptors {
        assert!(path.starts_with(&beneath), "a descriptor of {}", path.display());
        assert!(!is_sender || !may_write, "a source that may be written: {}", path.display());
    }
}

/// A receipt is of what the sender has: its root, if every file was stored.
fn look_at_receipt(hall: &Hall, receipt: Option<&Receipt>, checksum: bool) {
    let receipt = receipt.expect("a transfer that ended has a receipt");
    let statement: Statement = serde_json::from_str(&receipt.line).expect("a statement");
    let truth = &hall.truth;
    assert!(statement.files <= truth.manifest.file_count() && statement.bytes <= truth.manifest.total_bytes());
    if checksum && statement.files == truth.manifest.file_count() {
        assert_eq!(statement.root_blake3, truth.root(), "another root than the sender's is signed");
    }
}

/// What has a name is whole and, as far as the control process can know, what was sent.
fn look_at_destination(hall: &Hall, room: &Room, deeds: &Deeds, checksum: bool) {
    let (truth, root) = (&hall.truth, room.path("root"));
    for (path, _) in snapshot_of(&root) {
        let name = path.strip_prefix(&root).expect("beneath").as_os_str().as_encoded_bytes();
        let last = path.file_name().expect("a name").as_encoded_bytes();
        if name == b"kept" || last.starts_with(TEMPORARY_PREFIX) {
            continue;
        }
        let (file, _) = truth.manifest.entries().find(|(_, entry)| entry.name == name).expect("a name of the manifest");
        let Some(bytes) = truth.manifest.file_bytes(file) else { continue };
        let stored = std::fs::read(&path).expect("a file");
        let (path, is_large) = (path.display(), bytes > CHUNK_BYTES as u64 / 4);
        if !(is_large && deeds.falsified.contains(&file)) {
            assert_eq!(stored.len() as u64, bytes, "the size of {path}");
        }
        if checksum && !(is_large && deeds.falsified.contains(&file)) {
            assert!(stored == truth.contents[file as usize], "{path} is stored and is not what was sent");
        }
    }
}
