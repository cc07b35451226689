//! The engine without a node: its records are in memory, its partners are a table, and nobody
//! watches. What it moves need not be files either: a store of objects in memory takes the place of
//! a directory at either end, through the lanes of real data planes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use culvert_engine::clock::Clock;
use culvert_engine::connection::Connection;
use culvert_engine::connection::incoming::ClientHelloReceived;
use culvert_engine::engine::{Engine, TransferBounds};
use culvert_engine::events::{Event, Observer, Unobserved};
use culvert_engine::partners::{NoAdvice, Partners};
use culvert_engine::pushing::push;
use culvert_engine::records::TransferRecords;
use culvert_engine::requester;
use culvert_engine::responder::{IdentifiedPartner, answer};
use culvert_engine::shares::Shares;
use culvert_engine::tls::TlsConfigs;
use culvert_engine::transfer::TransferContext;
use culvert_engine::transfer::ends::{Ends, PortsOption};
use culvert_engine::transfer::error::TransferError;
use culvert_engine::transfer::receiving::{FileRequest, Incoming, receive};
use culvert_link::plane_handle::PlaneConfig;
use culvert_model::profile::{NamedProfile, Profile};
use culvert_model::record::{RecordState, TransferRecord};
use culvert_model::request::{Movement, Target, TransferRequest};
use culvert_model::result::{State, TransferResult};
use culvert_model::typed_path::TypedPath;
use culvert_objects::fs::reach::Reach;
use culvert_objects::fs::sources::listing::NamedSources;
use culvert_objects::fs::sources::named::local_source;
use culvert_objects::source::Sources;
use culvert_plane::{Origin, Supervisor};
use culvert_protocol::control::{Message, Options, Overwrite, Refusal, RefusalCode, TransferId};
use culvert_protocol::identity::{Identity, PublicKey};
use culvert_tests::memory_records::{MemoryRecords, unwatched};
use culvert_tests::memory_store::MemoryStore;
use culvert_tests::program::culvert;
use culvert_tests::random::Random;
use culvert_tests::tree::{Item, contents};

const CHUNK_BYTES: u32 = 1 << 20;

fn options() -> Options {
    Options { chunk_bytes: CHUNK_BYTES, overwrite: Overwrite::Changed, ..Options::default() }
}

fn supervisor() -> Supervisor {
    let config = PlaneConfig {
        cores: vec![None; 2],
        memory_bytes: 8 * CHUNK_BYTES as usize,
        buffer_bytes: CHUNK_BYTES as usize,
        bind: std::net::Ipv4Addr::LOCALHOST.into(),
        ports: Vec::new(),
        socket_buffer_bytes: 1 << 20,
        af_xdp: None,
        refusals: Vec::new(),
    };
    Supervisor::new(Origin::Child(culvert().to_owned()), config)
}

/// A tree with packed files, files with chunks of their own, and one without any bytes.
fn objects() -> BTreeMap<String, Vec<u8>> {
    let mut random = Random::new(16);
    let sizes = [("empty", 0), ("large", 9_000_123), ("runs/1/small", 7), ("runs/1/whole", CHUNK_BYTES as usize)];
    let more = (0..40).map(|number| (format!("runs/2/{number:02}"), 1_000 + number * 911));
    let all = sizes.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).chain(more);
    all.map(|(name, bytes)| (name, random.bytes(bytes))).collect()
}

fn store_of(objects: &BTreeMap<String, Vec<u8>>) -> MemoryStore {
    let store = MemoryStore::default();
    objects.iter().for_each(|(name, bytes)| store.insert(name, bytes.clone()));
    store
}

fn files_in(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = |(name, item)| match item {
        Item::File(bytes) => Some((Path::new(&name).display().to_string(), bytes)),
        _ => None,
    };
    contents(directory).into_iter().filter_map(file).collect()
}

/// Both ends of a control connection.
async fn connected() -> (Connection, Connection, Arc<Identity>, Arc<Identity>) {
    let (one, other) = (Arc::new(Identity::generate()), Arc::new(Identity::generate()));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = (TlsConfigs::new(&one), TlsConfigs::new(&other));
    let accept = async {
        let (tcp, from) = listener.accept().await.unwrap();
        ClientHelloReceived::hear(tcp, from).await.unwrap().accept(&server, "other").await
    };
    let (ours, theirs) = tokio::join!(Connection::connect(&client, address, "one"), accept);
    (ours.unwrap(), theirs.unwrap(), one, other)
}

/// The outcome of a transfer at the sender and at the receiver.
type Both = (Result<TransferResult, TransferError>, Result<TransferResult, TransferError>);

async fn moved(sources: Box<dyn Sources>, incoming: Incoming, options: Options) -> Both {
    let (ours, theirs, one, other) = connected().await;
    let (here, there) = (supervisor(), supervisor());
    let (sending, receiving) = (here.get().await.unwrap(), there.get().await.unwrap());
    let ports = |plane: &culvert_plane::DataPlane| plane.lanes().iter().map(|lane| lane.port).collect();
    let (ports_here, ports_there): (Vec<u16>, Vec<u16>) = (ports(&sending), ports(&receiving));
    let context = |plane, connection: Connection, identity, partner_lane_ports| {
        let (live, cancels) = unwatched();
        let context = TransferContext {
            id: TransferId::new(1, 2),
            options,
            identity,
            plane,
            partner_lane_ports,
            datagram_bytes_max: 1_472,
            progress: live.progress,
            cancel: live.cancel,
            start_bits_per_second: None,
            names: None,
            observer: Arc::new(Unobserved),
            peer: "partner".to_owned(),
            ends: Ends { here: "here".to_owned(), option: PortsOption::Ports, senders_option: PortsOption::Ports },
            patience: None,
            share: Arc::new(Shares::default()).take_for_user(connection.partner),
            connection,
        };
        (context, cancels)
    };
    let (sender, _cancels) = context(sending, ours, one, ports_there);
    let (receiver, _cancels_there) = context(receiving, theirs, other, ports_here);
    let send = async {
        let writer = sender.connection.writer.clone();
        let pushed = push(sender, sources).await;
        if let Some(refusal) = pushed.as_ref().err().and_then(TransferError::told) {
            let _ = writer.send(Message::Refused(refusal)).await;
        }
        pushed.map(|outcome| outcome.result)
    };
    let take = async {
        let writer = receiver.connection.writer.clone();
        let received = receive(receiver, incoming).await;
        if let Some(refusal) = received.as_ref().err().and_then(TransferError::told) {
            let _ = writer.send(Message::Refused(refusal)).await;
        }
        received.map(|received| received.result)
    };
    tokio::join!(send, take)
}

fn run<T>(work: impl Future<Output = T>) -> T {
    // Building it may take longer than any transfer.
    let _ = culvert();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let patience = std::time::Duration::from_secs(120);
    runtime.block_on(async { tokio::time::timeout(patience, work).await.expect("it hangs") })
}

fn into_directory(room: &Path) -> Incoming {
    Incoming::Files(FileRequest {
        reach: Reach::Owner { directory: room.to_owned() },
        destination: b"in/".to_vec(),
        journals: room.join("journals"),
        observer: Arc::new(Unobserved),
        foretells: false,
    })
}

#[test]
fn objects_of_a_store_become_objects_of_another() {
    for checksum in [true, false] {
        let (tree, there) = (objects(), MemoryStore::default());
        let sink = Incoming::Objects(Arc::new(there.clone()));
        let (sent, received) = run(moved(Box::new(store_of(&tree)), sink, Options { checksum, ..options() }));
        let (sent, received) = (sent.unwrap(), received.unwrap());
        assert_eq!((sent.state, received.state), (State::Succeeded, State::Succeeded));
        assert_eq!((sent.files.stored, received.files.stored), (tree.len() as u64, tree.len() as u64));
        assert_eq!(sent.root_blake3, received.root_blake3);
        assert_eq!(there.objects(), tree);
        assert!(there.abandoned().is_empty());
    }
}

#[test]
fn a_tree_goes_from_a_directory_to_a_store_and_back_into_another_directory() {
    let (tree, store, room) = (objects(), MemoryStore::default(), tempfile::tempdir().unwrap());
    for (name, bytes) in &tree {
        let path = room.path().join("out").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    std::fs::create_dir(room.path().join("journals")).unwrap();
    let source = local_source(&room.path().join("out").join(".")).unwrap();
    let sources = Box::new(NamedSources(vec![source]));
    let (sent, received) = run(moved(sources, Incoming::Objects(Arc::new(store.clone())), options()));
    assert_eq!((sent.unwrap().state, received.unwrap().state), (State::Succeeded, State::Succeeded));
    assert_eq!(store.objects(), tree);
    let (sent, received) = run(moved(Box::new(store), into_directory(room.path()), options()));
    let (sent, received) = (sent.unwrap(), received.unwrap());
    assert_eq!((sent.state, received.state, sent.files.stored), (State::Succeeded, State::Succeeded, 44));
    assert_eq!(files_in(&room.path().join("in")), tree);
}

#[test]
fn objects_that_fail_do_so_by_name_and_the_others_arrive() {
    let mut tree = objects();
    tree.insert("restless".to_owned(), vec![1; 3 << 20]);
    tree.insert("unstorable".to_owned(), vec![2; 3 << 20]);
    let (here, there) = (store_of(&tree), MemoryStore::default());
    here.break_object("large");
    here.break_object("runs/2/07");
    here.change_when_read("restless");
    there.break_object("unstorable");
    there.break_object("runs/1/small");
    let (sent, received) = run(moved(Box::new(here), Incoming::Objects(Arc::new(there.clone())), options()));
    let mut failed = BTreeMap::new();
    for result in [sent.unwrap(), received.unwrap()] {
        assert_eq!((result.state, result.files.failed), (State::SucceededWithErrors, 5), "{:?}", result.errors);
        failed = result.errors.iter().map(|error| (error.path.clone(), error.code.clone())).collect();
    }
    let told = |name: &str, code: &str| (name.to_owned(), code.to_owned());
    let expected = [
        told("large", "unreadable"),
        told("restless", "changed"),
        told("runs/1/small", "unwritable"),
        told("runs/2/07", "unreadable"),
        told("unstorable", "unwritable"),
    ];
    assert_eq!(failed, BTreeMap::from(expected.clone()));
    expected.iter().for_each(|(name, _)| drop(tree.remove(name)));
    assert_eq!(there.objects(), tree);
    // What fails before its first part arrives was never begun.
    let abandoned = there.abandoned();
    assert!(abandoned.contains(&"restless".to_owned()) && abandoned.contains(&"unstorable".to_owned()));
}

#[test]
fn what_is_in_a_store_is_replaced_only_if_it_may_be() {
    let (tree, there) = (objects(), MemoryStore::default());
    there.insert("runs/2/03", b"what was there".to_vec());
    let before = there.objects();
    let sink = || Incoming::Objects(Arc::new(there.clone()));
    let never = Options { overwrite: Overwrite::Never, ..options() };
    let (sent, received) = run(moved(Box::new(store_of(&tree)), sink(), never));
    for refused in [sent.unwrap_err(), received.unwrap_err()] {
        assert_eq!(refused.code(), RefusalCode::Collision);
        assert!(refused.to_string().contains("'runs/2/03' exists already"), "{refused}");
    }
    assert_eq!(there.objects(), before);
    let (sent, _) = run(moved(Box::new(store_of(&tree)), sink(), options()));
    assert_eq!(sent.unwrap().state, State::Succeeded);
    assert_eq!(there.objects(), tree);
}

/// The only partner that one end knows: the other.
#[derive(Debug)]
struct OnePartner(PublicKey, SocketAddr);

impl OnePartner {
    fn profile(&self) -> Profile {
        Profile { key: self.0, addresses: vec![self.1.to_string()], permit: Vec::new() }
    }
}

impl Partners for OnePartner {
    fn named(&self, name: &str) -> Result<Profile, Refusal> {
        if name == "other" { Ok(self.profile()) } else { Err(Refusal::new(RefusalCode::NotFound, "nobody")) }
    }

    fn with_address(&self, _address: &str) -> Result<Option<NamedProfile>, Refusal> {
        Ok(None)
    }

    fn with_key(&self, key: PublicKey) -> Result<Option<NamedProfile>, Refusal> {
        Ok((key == self.0).then(|| ("other".to_owned(), self.profile())))
    }

    fn note_stranger(&self, _key: PublicKey, _name: &str, _address: &str) {}
}

/// Counts how transfers end.
#[derive(Debug, Default)]
struct Counter {
    succeeded: AtomicU64,
    chunks: AtomicU64,
}

impl Observer for Counter {
    fn note(&self, event: Event<'_>) {
        let counter = match event {
            Event::Succeeded { .. } => &self.succeeded,
            Event::ChunkMoved { .. } => &self.chunks,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A clock that stands still.
#[derive(Debug)]
struct FixedClock;

impl Clock for FixedClock {
    fn unix_ms(&self) -> u64 {
        43_200_000
    }
}

struct Alone {
    engine: Arc<Engine>,
    records: Arc<MemoryRecords>,
    counter: Arc<Counter>,
}

fn alone(identity: &Arc<Identity>, partner: PublicKey, at: SocketAddr, room: &Path) -> Alone {
    let (records, counter) = (Arc::new(MemoryRecords::default()), Arc::new(Counter::default()));
    let engine = Arc::new(Engine {
        identity: identity.clone(),
        name: "alone".to_owned(),
        tls: Arc::new(TlsConfigs::new(identity)),
        supervisor: supervisor(),
        journals: room.join("journals"),
        records: records.clone(),
        partners: Arc::new(OnePartner(partner, at)),
        advice: Arc::new(NoAdvice),
        observer: counter.clone(),
        shares: Arc::default(),
        clock: Arc::new(FixedClock),
        bounds: TransferBounds::default(),
    });
    Alone { engine, records, counter }
}

/// A request and its answer, from the connection to the records of both.
#[test]
fn two_engines_need_no_node_no_metrics_and_no_files_for_their_records() {
    let room = tempfile::tempdir().unwrap();
    std::fs::create_dir(room.path().join("journals")).unwrap();
    let tree = objects();
    for (name, bytes) in &tree {
        let path = room.path().join("out").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let (id, path) =
        (TransferId::new(7, 7), |name: &str| TypedPath(room.path().join(name).into_os_string().into_encoded_bytes()));
    let request = TransferRequest {
        target: Target::Profile("other".to_owned()),
        movement: Movement::Push { sources: vec![path("out/.")], destination: path("in/") },
        options: options(),
        retries: Some(0),
    };
    run(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (one, other) = (Arc::new(Identity::generate()), Arc::new(Identity::generate()));
        let here = alone(&one, other.public_key(), address, room.path());
        let there = alone(&other, one.public_key(), address, room.path());
        here.records.insert(id, TransferRecord::of_request(id, &request, RecordState::Active, 0));
        let answering = async {
            let (tcp, from) = listener.accept().await.unwrap();
            let greeted = ClientHelloReceived::hear(tcp, from).await.unwrap();
            let mut connection = greeted.accept(&there.engine.tls, "other").await.unwrap();
            let Message::Request(request) = connection.reader.next().await.unwrap() else { panic!("no request") };
            let reach = Reach::Owner { directory: "/".into() };
            answer(&there.engine, IdentifiedPartner { connection, reach, partner: "one".to_owned() }, request).await;
        };
        let (live, _cancels) = unwatched();
        let (outcome, ()) = tokio::join!(requester::carry_out(&here.engine, id, &request, live), answering);
        assert_eq!(outcome.unwrap().result.state, State::Succeeded);
        for end in [&here, &there] {
            let record = end.records.get(id).unwrap();
            assert_eq!((record.state, record.attempts), (RecordState::Succeeded, 1));
            assert_eq!(record.result.unwrap().files.stored, tree.len() as u64);
            assert_eq!(end.counter.succeeded.load(Ordering::Relaxed), 1);
            assert!(end.counter.chunks.load(Ordering::Relaxed) >= 9);
        }
        assert_eq!(there.records.get(id).unwrap().created_unix_ms, 43_200_000, "it does not go by its own clock");
        assert_eq!(there.records.list(None, 9).len(), 1);
        assert!(there.records.list(Some(id), 9).is_empty());
    });
    assert_eq!(files_in(&room.path().join("in")), tree);
}
