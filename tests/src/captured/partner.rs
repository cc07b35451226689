//! The partner of a captured data plane's control process. It is honest.

use std::collections::HashSet;
use std::sync::Arc;

use culvert_engine::connection::incoming::ClientHelloReceived;
use culvert_engine::connection::{Closed, Connection, MessageWriter};
use culvert_engine::tls::TlsConfigs;
use culvert_protocol::control::{
    FlowOffer, LIST_BYTES, Message, Options, ReceiverSummary, SenderSummary, TransferId, encode_entry,
};
use culvert_protocol::identity::Identity;
use culvert_protocol::receipt::{Statement, sign_line};
use culvert_protocol::seal::Cipher;
use culvert_protocol::verdict::{Limit, Verdict};

use super::hall::Hall;
use super::truth::Truth;

/// Both ends of a control connection: this node's, and its honest partner's.
pub(super) async fn connected(hall: &Hall) -> (Connection, Connection) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let (client, server) = (TlsConfigs::new(&hall.there), TlsConfigs::new(&hall.here));
    let accept = async {
        let (tcp, from) = listener.accept().await.expect("a connection");
        ClientHelloReceived::hear(tcp, from).await.expect("a hello").accept(&server, "here").await
    };
    let (theirs, ours) = tokio::join!(Connection::connect(&client, address, "there"), accept);
    (ours.expect("an introduction"), theirs.expect("an introduction"))
}

/// The partner, which is honest: it says what is true as early as it may.
pub(super) async fn partner(
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
    let mut failed = HashSet::new();
    while let Ok(message) = connection.reader.next().await {
        let said = match message {
            Message::ManifestEnd { .. } => {
                let offer = |lane| FlowOffer { flow_id: 10 + u32::from(lane), receiver_lane: lane, sender_lane: lane };
                writer.send(Message::PlanEnd { flows: vec![offer(0), offer(1)], stored_bytes: 0 }).await
            }
            Message::PlanEnd { .. } if !is_receiver => send_all(&writer, all_of(&truth, options.checksum)).await,
            Message::SendAgain(chunks) if !is_receiver => {
                send_all(&writer, again(&truth, options.checksum, &chunks)).await
            }
            Message::FileFailed(error) if is_receiver => {
                failed.insert(error.file);
                Ok(())
            }
            Message::AllSent(_) => {
                let root = if options.checksum { truth.root_without(&failed) } else { String::new() };
                let statement = statement(&truth, &other, &identity, root, &failed);
                let line = statement.to_line();
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

async fn send_all(writer: &MessageWriter, messages: Vec<Message>) -> Result<(), Closed> {
    for message in messages {
        writer.send(message).await?;
    }
    Ok(())
}

/// The messages of a sender that sends chunks again.
fn again(truth: &Truth, checksum: bool, chunks: &[u32]) -> Vec<Message> {
    let is_of = |message: &Message| match message {
        Message::PackHashes { chunk, .. } => chunks.contains(chunk),
        Message::AllSent(_) => true,
        _ => false,
    };
    let hashes = chunks.iter().filter_map(|&chunk| Some((chunk, truth.chunk_hashes[chunk as usize]?)));
    let hashes = checksum.then(|| Message::ChunkHashes(hashes.collect()));
    hashes.into_iter().chain(all_of(truth, checksum).into_iter().filter(is_of)).collect()
}

/// All messages of a sender while it sends.
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

fn statement(
    truth: &Truth,
    sender: &Identity,
    receiver: &Identity,
    root_blake3: String,
    failed: &HashSet<u32>,
) -> Statement {
    let failed_bytes: u64 = failed.iter().filter_map(|&file| truth.manifest.file_bytes(file)).sum();
    Statement {
        culvert_receipt: 1,
        transfer: TransferId::new(1, 2).to_string(),
        sender: sender.public_key(),
        receiver: receiver.public_key(),
        began_unix_ms: 1,
        ended_unix_ms: 2,
        files: truth.manifest.file_count() - failed.len() as u64,
        files_failed: failed.len() as u64,
        bytes: truth.manifest.total_bytes() - failed_bytes,
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
