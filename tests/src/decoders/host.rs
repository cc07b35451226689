//! What a node reads on its own host: its journal, files that people write, and what its two
//! processes send each other.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use culvert_engine::journal::{self, Contents, End, Record, records};
use culvert_link::commands::{ChunkTimes, Command, Event, FileRange, FileSlot, ReceiveSlot, SendSlot, Sink, Source};
use culvert_link::kernel_bypass::NextHop;
use culvert_link::messages::{FromDataPlane, LaneReady, OpenReceive, OpenSend, Start, ToDataPlane};
use culvert_link::ring::{Consumer, RECORD_BYTES_MAX, RING_CONTROL_BYTES, RingPlace};
use culvert_link::shared_memory::SharedMemory;
use culvert_node::profiles::profile_from_toml;
use culvert_node::settings::Settings;
use culvert_objects::fs::destination::attributes::Refused;
use culvert_protocol::identity::Identity;
use culvert_protocol::keys::Secret;
use culvert_protocol::manifest::FileTime;
use culvert_protocol::seal::Cipher;
use culvert_tuning::site::Site;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Bodies of records, each preceded by a two-byte length: the journal's own checksums would keep a
/// fuzzer out.
pub(super) fn journal_samples() -> Vec<Vec<u8>> {
    let modified = FileTime { seconds: 5, nanoseconds: 6 };
    let records = [
        Record::Header { version: journal::VERSION },
        Record::Begun {
            name: 7,
            bytes: 10,
            modified,
            chunk_bytes: 4,
            token: 1 << 90,
            inode: 5,
            directory: b"d/e".to_vec(),
        },
        Record::Chunk { file: 0, part: 0, hash: Some([1; 32]) },
        Record::Begun { name: 8, bytes: 20, modified, chunk_bytes: 4, token: 3, inode: 0, directory: Vec::new() },
        Record::Chunk { file: 1, part: 3, hash: None },
        Record::Done { name: 9, bytes: 1, modified, hash: [3; 32], inode: 9, changed: modified },
        Record::Filling { staging: 6 },
        Record::made_directory(10),
        Record::opened_directory(b"d", 11, 0o555),
        Record::not_kept(b"d/e", 9, Refused { mode: Some(Errno::PERM), time: None }),
        Record::closed_directory(b"d/f"),
        Record::Complete,
    ];
    let without_checks = |encode: fn(&Record) -> Vec<u8>| {
        records.iter().flat_map(move |record| {
            let bytes = encode(record);
            [&bytes[..2], &bytes[6..]].concat()
        })
    };
    let newer = without_checks(journal::encode).skip(1);
    let newer = encode(&Record::Header { version: 3 }).into_iter().chain(newer).collect::<Vec<u8>>();
    vec![
        without_checks(journal::encode).collect(),
        without_checks(journal::encode_v1).collect(),
        [&(2u16).to_be_bytes()[..], &newer].concat(),
    ]
}

/// A journal's bytes as they are, and with correct checksums inserted.
pub(super) fn journal(bytes: &[u8]) {
    read(bytes);
    let mut sealed = Vec::new();
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let Some((body, after)) = after.split_at_checked(u16::from_be_bytes(*length).into()) else { break };
        sealed.extend(length);
        sealed.extend(&blake3::hash(body).as_bytes()[..4]);
        sealed.extend(body);
        rest = after;
    }
    read(&sealed);
}

pub(super) fn configuration_samples() -> Vec<Vec<u8>> {
    let settings = "state = '/var/lib/culvert'\nname = 'dtn'\nlisten = '[::]:7272'\nmetrics = 'off'\ncores = [2, 3]\n\
        memory = '256MiB'\nbind = '::'\nports = '7273-7276'\nmtu = 9000\ndatapath = 'auto'\ninterface = 'eth1'\n\
        [path]\nanswer = true\nrefuse = ['x']\nrate = '1Gbit'\nseconds = 60\nport = 7272\nfresh_hours = 24\n\
        [responder]\nstamp = '[::]:862'\ntwamp = '[::]:862'\nallow = ['192.0.2.0/24']\ntest_ports = [18760, 19960]\n";
    let site = "profile = 'dtn'\nrtt_ms = 80.5\nstreams = 8\nlanes = 2\nlane_cores = '2-3'\nskip = []\n\
        [links.eth1]\nmtu = 9000\n[sysctl]\n'net.core.rmem_max' = 1024\n[[partners]]\nname = 'b'\naddress = '192.0.2.2'\n";
    let profile = format!(
        "key = '{}'\naddresses = ['dtn.example.org:7272']\n[[permit]]\npath = '/data'\npermission = 'both'\n",
        Identity::generate().public_key()
    );
    [settings.to_owned(), site.to_owned(), profile].map(String::into_bytes).to_vec()
}

/// A file that people write, read as each of the three kinds.
pub(super) fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = Settings::from_toml(text, Path::new("culvert.toml")) {
        assert!(!error.to_string().is_empty());
    }
    if let Ok(profile) = profile_from_toml(text) {
        let again = toml::to_string_pretty(&profile).expect("a profile can be written");
        assert_eq!(profile_from_toml(&again), Ok(profile));
    }
    if let Err(error) = Site::from_toml(text, "site.toml") {
        assert!(!error.to_string().is_empty());
    }
}

/// The first byte selects who reads the rest.
pub(super) fn link_samples() -> Vec<Vec<u8>> {
    let (file, lane, slot) = (FileRange { file: FileSlot(3), offset: 4 << 20, file_bytes: 1 << 40 }, 1, SendSlot(2));
    let address = "[fd96::2]:7273".parse().expect("an address");
    let start = Start {
        piece_bytes: usize::MAX,
        cores: vec![Some(2), None],
        link_bytes: 1 << 20,
        buffer_memory_bytes: 64 << 20,
        buffer_bytes: 4 << 20,
        bind: std::net::Ipv6Addr::UNSPECIFIED.into(),
        ports: vec![7_273, 7_274],
        socket_buffer_bytes: 16 << 20,
        af_xdp: None,
    };
    let send = OpenSend {
        lane,
        slot,
        flow_id: 9,
        holder: 3,
        secret: Secret::new(&[7; 32]),
        cipher: Cipher::Aes256Gcm,
        partner: address,
        probe_datagram_bytes: vec![8_972, 1_472],
        chunk_bytes: 4 << 20,
        checksum: true,
    };
    let receive = OpenReceive {
        lane,
        slot: ReceiveSlot(2),
        flow_id: 9,
        holder: 3,
        secret: Secret::new(&[7; 32]),
        cipher: Cipher::Aes128Gcm,
        partner: address,
        chunk_count: 1_000,
        chunk_bytes: 4 << 20,
        checksum: true,
        interval_us: 2_000,
    };
    let hop = NextHop { source_mac: [2; 6], destination_mac: [4; 6], vlan: Some(7), source: address.ip(), mtu: 1_500 };
    let ready = LaneReady { port: 7_273, gso: true, gro: true, receive_buffer_bytes: 1 << 24, pinned: true };
    let first = |number: u8, bytes: Vec<u8>| [vec![number], bytes].concat();
    vec![
        first(0, encode(&ToDataPlane::Start(start))),
        first(0, encode(&ToDataPlane::OpenSend(send))),
        first(0, encode(&ToDataPlane::OpenReceive(receive))),
        first(0, encode(&ToDataPlane::SetNextHop { lane, to: address.ip(), hop: Some(hop) })),
        first(
            1,
            encode(&FromDataPlane::Ready {
                process_id: 4_711,
                lanes: vec![ready],
                sandbox_gaps: vec!["seccomp".into()],
                af_xdp: None,
                has_all_rules: false,
                refusals: Vec::new(),
            }),
        ),
        first(2, encode(&Command::Send { flow: slot, chunk: 7, chunk_bytes: 4 << 20, source: Source::File(file) })),
        first(2, encode(&Command::Place { flow: ReceiveSlot(2), chunk: 7, sink: Sink::File(file) })),
        first(2, encode(&Command::Report { flow: slot, bytes: &[1, 2, 3] })),
        first(
            3,
            encode(&Event::Written {
                flow: ReceiveSlot(2),
                chunk: 7,
                hash: Some([8; 32]),
                times: ChunkTimes::default(),
            }),
        ),
        first(3, encode(&Event::Report { flow: ReceiveSlot(2), bytes: &[1, 2, 3] })),
        first(4, [16u64.to_le_bytes(), 8u64.to_le_bytes(), [7; 8]].concat()),
    ]
}

/// What the control process and the data plane send each other: messages on the socket, records,
/// and a ring whose other end misbehaves.
pub(super) fn link(bytes: &[u8]) {
    let Some((&kind, rest)) = bytes.split_first() else { return };
    match kind {
        0 => message::<ToDataPlane>(rest),
        1 => message::<FromDataPlane>(rest),
        2 => message::<Command<'_>>(rest),
        3 => message::<Event<'_>>(rest),
        _ => ring(rest),
    }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("it has a postcard form")
}

fn read(bytes: &[u8]) {
    let contents = match journal::read(bytes) {
        Ok(contents) => contents,
        // Refused: nothing is done to it.
        Err(unknown) => return assert!(!unknown.to_string().is_empty()),
    };
    if let Some((_, mode)) = contents.past.opened(b"d") {
        assert!(contents.past.has_opened() && mode <= 0o7777);
    }
    let good = &bytes[..contents.good_bytes];
    assert!(contents.begun as usize <= good.len());
    assert_eq!(contents.end == End::Whole, good.len() == bytes.len());
    // What is kept reads the same again.
    assert_eq!(journal::read(good), Ok(Contents { end: End::Whole, ..contents.clone() }));
    // In the current version's encoding it says the same; what version 1 did not know follows from
    // what it did.
    let migrated: Vec<u8> = records(good)
        .map(|record| match record {
            Record::Header { .. } => Record::Header { version: journal::VERSION },
            record => record,
        })
        .flat_map(|record| journal::encode(&record))
        .collect();
    let version = journal::VERSION;
    assert_eq!(
        journal::read(&migrated),
        Ok(Contents { version, good_bytes: migrated.len(), end: End::Whole, ..contents })
    );
}

fn message<'a, M: Deserialize<'a> + Serialize>(bytes: &'a [u8]) {
    if let Ok(message) = postcard::from_bytes::<M>(bytes) {
        // Encoded again it may be shorter (numbers have several encodings), never longer.
        assert!(encode(&message).len() <= bytes.len());
    }
}

const RING: RingPlace = RingPlace { offset: 0, data_bytes: 64 << 10 };

thread_local! {
    static MEMORY: RefCell<Arc<SharedMemory>> =
        RefCell::new(Arc::new(SharedMemory::create("ring", RING.bytes(), false).expect("memory")));
}

/// The first eight bytes are the writer's index, the others the contents of the ring.
fn ring(bytes: &[u8]) {
    let Some((written, data)) = bytes.split_first_chunk::<8>() else { return };
    let data = &data[..data.len().min(RING.data_bytes)];
    MEMORY.with_borrow(|memory| {
        let words = memory.words(0, 3);
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        memory.copy_in(RING_CONTROL_BYTES, &vec![0; RING.data_bytes]);
        memory.copy_in(RING_CONTROL_BYTES, data);
        let mut consumer = Consumer::new(memory.clone(), RING);
        words[0].store(u64::from_le_bytes(*written), Ordering::Release);
        let mut scratch = Box::new([0; RECORD_BYTES_MAX]);
        // A record takes at least 8 bytes: a reader that continues beyond that reads something
        // twice.
        for _ in 0..=RING.data_bytes / 8 {
            if !matches!(consumer.pop(&mut scratch), Ok(Some(_))) {
                return;
            }
        }
        panic!("more records than the ring has room for");
    });
}
