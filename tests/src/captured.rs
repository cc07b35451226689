//! The control process's end of the link, with a captured data plane at the other end.
//!
//! A transfer runs as in a node: the same tasks, a real destination, a control connection to an
//! honest partner. Only the data plane is the test's: it holds the other end of the socket and of
//! the rings, and follows a script. Whatever that does, the control process survives and reports
//! how the transfer ended; nothing outside the destination changes; what the control process hashes
//! itself is stored as it was sent; and no receipt has a root other than the sender's.
//!
//! `docs/security.md` lists what it cannot know: for the hash of a chunk of a large file it has
//! only the data plane's word. A file that the script has misreported is therefore checked only for
//! its place.

mod falsehoods;
mod hall;
pub mod lies;
mod partner;
mod plane;
mod play;
mod steps;
pub mod truth;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use culvert_engine::events::Unobserved;
use culvert_engine::pushing::push;
use culvert_engine::shares::Shares;
use culvert_engine::transfer::TransferContext;
use culvert_engine::transfer::ends::{Ends, PortsOption};
use culvert_engine::transfer::error::TransferError;
use culvert_engine::transfer::receiving::{FileRequest, Incoming, receive};
use culvert_link::plane_handle::PlaneConfig;
use culvert_model::progress::Progress;
use culvert_objects::fs::reach::Reach;
use culvert_objects::fs::sources::listing::NamedSources;
use culvert_objects::fs::sources::named::local_source;
use culvert_plane::{DataPlane, Origin};
use culvert_protocol::control::{Options, Overwrite, TransferId};
use culvert_protocol::identity::Identity;
use culvert_protocol::names::TEMPORARY_PREFIX;
use culvert_protocol::rate_control::Mode;
use culvert_protocol::receipt::{Receipt, Statement, verify_line};
use culvert_protocol::seal::Cipher;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::sync::watch;

use hall::Hall;
use lies::Lie;
use partner::{connected, partner};
use plane::Deeds;
use play::Play;
use truth::{CHUNK_BYTES, Truth};

/// Longer than any script takes on a slow machine; past it, the control process hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Panics in any thread, including those that nobody waits for.
static PANICS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Set on a test's thread between two plays: a panic there is the test's.
    static IS_BETWEEN_PLAYS: Cell<bool> = const { Cell::new(false) };
}

thread_local! {
    static HALL: RefCell<Hall> = RefCell::new(Hall {
        runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"),
        here: Arc::new(Identity::generate()),
        there: Arc::new(Identity::generate()),
        truth: Arc::new(Truth::new()),
    });
}

/// Each path with its size, modification time and mode.
type Snapshot = BTreeMap<PathBuf, (u64, i64, i64, u32)>;

/// How a transfer ended.
#[derive(Debug)]
pub struct Ended {
    /// Its receipt, or why there is none.
    pub receipt: Result<Statement, TransferError>,
    /// How many files are stored at the destination, with the names and sizes they were sent with.
    pub stored: usize,
    /// Whether the data plane has told its lie.
    pub has_lied: bool,
}

/// The kinds of transfer: both directions, with and without hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Whether the control process sends.
    pub is_sender: bool,
    /// Whether there are hashes.
    pub checksum: bool,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::of(0), Self::of(1), Self::of(2), Self::of(3)];

    /// The kind that a script's first byte selects.
    const fn of(byte: u8) -> Self {
        Self { is_sender: byte & 1 == 1, checksum: byte & 2 == 0 }
    }
}

/// Plays a script.
///
/// # Panics
/// If the control process does something that it must not do.
pub fn check(script: &[u8]) {
    // Any outcome will do.
    let _ = with_script(script);
}

/// The outcome of a transfer whose data plane follows a script.
///
/// # Panics
/// As [`check`].
#[must_use]
pub fn with_script(script: &[u8]) -> Ended {
    let (kind, script) = script.split_first().map_or((0, script), |(&kind, script)| (kind, script));
    outcome(Kind::of(kind), Play::Script(script.to_vec()))
}

/// The outcome of a transfer whose data plane is honest.
///
/// # Panics
/// As [`check`].
#[must_use]
pub fn honest(kind: Kind) -> Ended {
    outcome(kind, Play::Honest)
}

/// The outcome of a transfer whose data plane lies once.
///
/// # Panics
/// As [`check`].
#[must_use]
pub fn with_lie(kind: Kind, lie: Lie) -> Ended {
    outcome(kind, Play::Lie(lie))
}

/// The names of the entries that a transfer moves, in its order.
#[must_use]
pub fn names() -> Vec<String> {
    let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    HALL.with_borrow(|hall| hall.truth.manifest.entries().map(|(_, entry)| name(entry.name)).collect())
}

/// Writes the files that a transfer moves into a directory.
///
/// # Panics
/// If it cannot be written.
pub fn write_files(directory: &Path) {
    HALL.with_borrow(|hall| hall.truth.write_to(directory));
}

/// Transfers in both directions, with and without hashes: one that ends well, and some that are
/// disrupted by each kind of step.
#[must_use]
pub fn samples() -> Vec<Vec<u8>> {
    let mut samples: Vec<Vec<u8>> = (0..4).map(|kind| vec![kind, 0]).collect();
    for kind in 0..4 {
        for letters in [11..18, 18..23, 23..32] {
            let steps = letters.flat_map(|letter| [0, 4, 10, letter, letter ^ 0x35, 3, 200, 9, 64, 7, 10]);
            samples.push([kind, 0, 0, 0, 10, 4, 10].into_iter().chain(steps).collect());
        }
    }
    // Wrong numbers of lanes.
    samples.extend([250, 251, 252].map(|lanes| vec![0, lanes]));
    samples
}

fn count_panics() {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_BETWEEN_PLAYS.try_with(Cell::get).unwrap_or(false) {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            before(panic);
        }));
    });
}

fn snapshot(directory: &Path, into: &mut Snapshot) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let meta = std::fs::symlink_metadata(&path).expect("its metadata");
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

fn outcome(kind: Kind, play: Play) -> Ended {
    // Panics are counted per process: another play's must not be taken for this one's.
    static PLAYS: Mutex<()> = Mutex::new(());
    let _alone = PLAYS.lock().unwrap_or_else(PoisonError::into_inner);
    count_panics();
    let panics = PANICS.load(Ordering::SeqCst);
    IS_BETWEEN_PLAYS.set(false);
    let ended = HALL.with_borrow(|hall| hall.runtime.block_on(run(hall, kind, play)));
    IS_BETWEEN_PLAYS.set(true);
    assert_eq!(PANICS.load(Ordering::SeqCst), panics, "a task of the control process panicked");
    ended
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

    /// What must not change.
    fn look(&self) -> Snapshot {
        let mut seen = snapshot_of(&self.path("outside"));
        seen.extend(snapshot_of(&self.path("source")));
        seen.extend(snapshot_of(&self.path("root")).into_iter().filter(|(path, _)| path.ends_with("kept")));
        seen
    }
}

async fn run(hall: &Hall, kind: Kind, play: Play) -> Ended {
    let Kind { is_sender, checksum } = kind;
    let room = Room::new(&hall.truth, is_sender);
    let (socket, listener) = listen(&room);
    let truth = hall.truth.clone();
    let captured = tokio::task::spawn_blocking(move || play::run(&listener, &play, &truth));
    let config = PlaneConfig {
        cores: vec![None; 2],
        memory_bytes: 8 * CHUNK_BYTES as usize,
        buffer_bytes: CHUNK_BYTES as usize,
        bind: std::net::Ipv4Addr::LOCALHOST.into(),
        ports: Vec::new(),
        socket_buffer_bytes: 1 << 16,
        af_xdp: None,
        refusals: Vec::new(),
    };
    let started = tokio::time::timeout(PATIENCE, culvert_plane::start(&Origin::Socket(socket), &config)).await;
    let ended = match started.expect("the start hangs") {
        Ok(plane) => transfer(hall, &room, plane, is_sender, checksum).await,
        Err(error) => Err(error.into()),
    };
    let deeds = tokio::time::timeout(PATIENCE, captured).await.expect("the link stays open").expect("the script");
    assert_eq!(room.look(), room.before, "something outside the destination has changed");
    look_at_descriptors(&room, &deeds, is_sender);
    let receipt = ended.map(|receipt| look_at_receipt(hall, receipt.as_ref(), kind));
    if let Err(error) = &receipt {
        assert!(error.to_string().len() > 10, "an error without an explanation: {error:?}");
    }
    let stored = look_at_destination(hall, &room, &deeds, checksum);
    Ended { receipt, stored, has_lied: deeds.has_lied }
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
        names: None,
        observer: Arc::new(Unobserved),
        peer: "partner".to_owned(),
        ends: Ends { here: "here".to_owned(), option: PortsOption::Ports, senders_option: PortsOption::Ports },
        // A script may do nothing forever, and is then given up on.
        patience: Some(Duration::from_secs(10)),
        share: shares.take(connection.partner),
        connection,
    };
    let partner =
        tokio::spawn(partner(partners, hall.there.clone(), hall.here.clone(), hall.truth.clone(), options, is_sender));
    let work = async {
        if is_sender {
            let source = local_source(&room.path("source").join(".")).expect("a source");
            return push(context, Box::new(NamedSources(vec![source]))).await.map(|outcome| outcome.receipt);
        }
        let reach = Reach::Owner { directory: room.path("root") };
        let (journals, observer) = (room.path("journals"), Arc::new(Unobserved));
        let request = FileRequest { reach, destination: b".".to_vec(), journals, observer, foretells: false };
        receive(context, Incoming::Files(request)).await.map(|received| received.receipt)
    };
    let ended = tokio::time::timeout(PATIENCE, work).await.expect("the transfer hangs");
    drop(cancels);
    partner.abort();
    ended
}

/// The descriptors given to the data plane lead only to files of the transfer, and only received
/// files can be written through them.
fn look_at_descriptors(room: &Room, deeds: &Deeds, is_sender: bool) {
    let beneath = std::fs::canonicalize(room.path(if is_sender { "source" } else { "root" })).expect("a directory");
    for (path, may_write) in &deeds.descriptors {
        assert!(path.starts_with(&beneath), "a descriptor that leads elsewhere: {}", path.display());
        assert!(!is_sender || !may_write, "a source that can be written: {}", path.display());
    }
}

/// A receipt states what the sender has: its root, if every file was stored.
fn look_at_receipt(hall: &Hall, receipt: Option<&Receipt>, kind: Kind) -> Statement {
    let receipt = receipt.expect("a transfer that ended has a receipt");
    let statement: Statement = serde_json::from_str(&receipt.line).expect("a statement");
    let (sender, receiver) = if kind.is_sender { (&hall.here, &hall.there) } else { (&hall.there, &hall.here) };
    let is_of = |identity: &Identity, signature| verify_line(identity.public_key(), &receipt.line, signature).is_ok();
    assert!(is_of(sender, &receipt.sender_signature), "the sender has not signed");
    assert!(is_of(receiver, &receipt.receiver_signature), "the receiver has not signed");
    let truth = &hall.truth;
    assert!(statement.files <= truth.manifest.file_count() && statement.bytes <= truth.manifest.total_bytes());
    if kind.checksum && statement.files == truth.manifest.file_count() {
        assert_eq!(statement.root_blake3, truth.root(), "the signed root is not the sender's");
    }
    statement
}

/// Everything that has its name is complete and, as far as the control process can know, what was
/// sent. Returns how many files that is.
fn look_at_destination(hall: &Hall, room: &Room, deeds: &Deeds, checksum: bool) -> usize {
    let (truth, root) = (&hall.truth, room.path("root"));
    let mut files = 0;
    for (path, _) in snapshot_of(&root) {
        let name = path.strip_prefix(&root).expect("beneath").as_os_str().as_encoded_bytes();
        let last = path.file_name().expect("a name").as_encoded_bytes();
        if name == b"kept" || last.starts_with(TEMPORARY_PREFIX) {
            continue;
        }
        let (file, _) = truth.manifest.entries().find(|(_, entry)| entry.name == name).expect("a name of the manifest");
        let Some(bytes) = truth.manifest.file_bytes(file) else { continue };
        let stored = std::fs::read(&path).expect("a file");
        files += 1;
        let (path, is_large) = (path.display(), bytes > CHUNK_BYTES as u64 / 4);
        if !(is_large && deeds.falsified.contains(&file)) {
            assert_eq!(stored.len() as u64, bytes, "the size of {path}");
        }
        if checksum && !(is_large && deeds.falsified.contains(&file)) {
            assert!(stored == truth.contents[file as usize], "{path} is stored but is not what was sent");
        }
    }
    files
}
