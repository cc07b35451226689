//! `culvert bench ledger`: the cost of each stage of the data path, in cycles per byte.
//!
//! Each stage is measured alone, on one core, with data that stays in the cache as it does in a
//! lane. Cycles are those of the nominal clock rate in `/proc/cpuinfo`. Cores may run faster, so
//! only the ratios between rows are meaningful.

mod feedback;

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::SocketAddr;
use std::time::Instant;

use culvert_dataplane::limit::{LimitReceiver, send_limit};
use culvert_model::exit_code::ExitCode;
use culvert_protocol::keys::{Direction, KeySchedule, Secret};
use culvert_protocol::seal::Cipher;
use culvert_protocol::tree_hash::ChunkHasher;
use culvert_protocol::wire::{OVERHEAD_BYTES, TAG_BYTES};
use culvert_system::processor_time::nominal_hertz;

use crate::exit::CommandError;
use crate::report::{print_json, say};

/// Amount of data for each stage.
const STAGE_BYTES: usize = 512 << 20;
/// The piece in which chunks are read, hashed and written.
const PIECE_BYTES: usize = 256 << 10;
/// The sizes of datagrams that are measured.
const DATAGRAMS: [usize; 2] = [1_472, 8_900];

/// Measures every stage.
///
/// # Errors
/// [`CommandError`].
pub fn run(json: bool) -> Result<ExitCode, CommandError> {
    let hertz = nominal_hertz();
    if hertz == 0.0 {
        return Err(CommandError::new(
            ExitCode::BadHost,
            "/proc/cpuinfo does not give the clock rate of this host's processors",
        ));
    }
    let per_byte = |seconds: f64, bytes: usize| seconds * hertz / bytes as f64;
    let mut rows: Vec<(String, f64)> = Vec::new();
    let (read, write) = file_stages().map_err(CommandError::failed)?;
    rows.push(("read (page cache)".to_owned(), per_byte(read, STAGE_BYTES)));
    rows.push(("hash".to_owned(), per_byte(hash(), STAGE_BYTES)));
    for datagram in DATAGRAMS {
        let (seal, open) = cipher(datagram - OVERHEAD_BYTES);
        rows.push((format!("seal, {datagram}-byte datagrams"), per_byte(seal, STAGE_BYTES)));
        rows.push((format!("open, {datagram}-byte datagrams"), per_byte(open, STAGE_BYTES)));
        let (send, send_bytes, receive, receive_bytes) = network(datagram)?;
        rows.push((format!("send, {datagram}-byte datagrams"), per_byte(send, send_bytes)));
        rows.push((format!("receive, {datagram}-byte datagrams"), per_byte(receive, receive_bytes)));
        let (seconds, bytes, _) = feedback::feedback(datagram);
        rows.push((format!("feedback, {datagram}-byte datagrams"), per_byte(seconds, bytes)));
    }
    rows.push(("write (page cache)".to_owned(), per_byte(write, STAGE_BYTES)));
    if json {
        let table: serde_json::Map<String, serde_json::Value> =
            rows.into_iter().map(|(stage, cycles)| (stage, cycles.into())).collect();
        print_json(&serde_json::json!({ "nominal_hertz": hertz, "cycles_per_byte": table }))?;
        return Ok(ExitCode::Done);
    }
    say(&format!("cycles per byte at the nominal {:.2} GHz; in brackets, Gb/s of one dedicated core", hertz / 1e9))?;
    for (stage, cycles) in rows {
        say(&format!("  {stage:32} {cycles:7.4}  [{:.0}]", hertz / cycles * 8.0 / 1e9))?;
    }
    Ok(ExitCode::Done)
}

fn file_stages() -> std::io::Result<(f64, f64)> {
    let mut file: File = tempfile::tempfile()?;
    let mut piece = vec![7u8; PIECE_BYTES];
    let began = Instant::now();
    for _ in 0..STAGE_BYTES / PIECE_BYTES {
        file.write_all(&piece)?;
    }
    let write = began.elapsed().as_secs_f64();
    file.seek(SeekFrom::Start(0))?;
    let began = Instant::now();
    for _ in 0..STAGE_BYTES / PIECE_BYTES {
        file.read_exact(&mut piece)?;
    }
    Ok((began.elapsed().as_secs_f64(), write))
}

fn hash() -> f64 {
    let piece = vec![7u8; PIECE_BYTES];
    let chunk_bytes = 4 << 20;
    let began = Instant::now();
    for chunk in 0..STAGE_BYTES / chunk_bytes {
        let mut hasher = ChunkHasher::new(STAGE_BYTES as u64, (chunk * chunk_bytes) as u64, chunk_bytes as u32);
        for _ in 0..chunk_bytes / PIECE_BYTES {
            hasher.update(&piece);
        }
        std::hint::black_box(hasher.finish());
    }
    began.elapsed().as_secs_f64()
}

fn cipher(payload: usize) -> (f64, f64) {
    let key = KeySchedule::new(Cipher::Aes256Gcm, &Secret::new(&[0; 32]), 0, Direction::Forward).next_key().1;
    let (source, mut sink) = (vec![7u8; payload], vec![0u8; payload]);
    let mut sealed = vec![0u8; payload + TAG_BYTES];
    let count = (STAGE_BYTES / payload) as u64;
    let began = Instant::now();
    for number in 0..count {
        key.seal(number, &[0; 32], &source, &mut sealed);
        std::hint::black_box(&sealed);
    }
    let seal = began.elapsed().as_secs_f64();
    key.seal(0, &[0; 32], &source, &mut sealed);
    let began = Instant::now();
    for _ in 0..count {
        std::hint::black_box(key.open(0, &[0; 32], &sealed, &mut sink).is_ok());
    }
    (seal, began.elapsed().as_secs_f64())
}

/// Processor seconds and bytes of a sender and a receiver without a cipher, over loopback.
fn network(datagram: usize) -> Result<(f64, usize, f64, usize), CommandError> {
    let receiver = LimitReceiver::bind(std::net::Ipv4Addr::LOCALHOST.into(), 0).map_err(CommandError::failed)?;
    let to = SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), receiver.port());
    let receiving = std::thread::spawn(move || receiver.run());
    let sent = send_limit(to, datagram, 1.0, false).map_err(CommandError::failed)?;
    let received = receiving.join().map_err(|_| CommandError::failed("the receiving thread panicked"))?;
    Ok((sent.cpu_seconds, sent.bytes as usize, received.cpu_seconds, received.bytes as usize))
}
