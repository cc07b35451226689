//! Memory to memory: the engine against the same path's raw limit, plain TCP, and encrypted
//! GridFTP.

use crate::contest::{Contender, hold};
use crate::engine::{Engine, limit};
use crate::field::{CubicAllowed, Field, gigabits, write_random};
use crate::peers::{GridFtp, Security, iperf3};
use crate::table::{Bound, print};

/// Headers of IPv4 and UDP.
const HEADERS: u32 = 28;

/// Prints the table for one MTU.
pub fn run(mtu: u32, gigabytes: u64, rounds: usize) -> anyhow::Result<()> {
    let _cubic = CubicAllowed::new();
    let field = Field::new(mtu, std::path::Path::new("/dev/shm"))?;
    let engine = Engine::start(&field);
    let bytes = gigabytes * 1_000_000_000;
    let source = field.path("source");
    write_random(&source, bytes.min(4_000_000_000))?;
    let gridftp_bytes = source.metadata()?.len();
    let gridftp = GridFtp::start(&field, Security::EncryptedData);
    let iperf = iperf3::Server::start(&field);
    let contenders = vec![
        Contender {
            name: "engine (sealed, BLAKE3 off)".to_owned(),
            run: Box::new(|| engine.memory(gigabytes, &["--checksum", "none"])),
        },
        Contender { name: "raw limit".to_owned(), run: Box::new(|| limit(&field, mtu - HEADERS)) },
        Contender {
            name: "iperf3 TCP CUBIC, plain".to_owned(),
            run: Box::new(|| iperf.as_ref().map_err(again)?.run("cubic")),
        },
        Contender {
            name: "GridFTP -dcpriv, 4 streams".to_owned(),
            run: Box::new(|| {
                let took = gridftp.as_ref().map_err(again)?.put(&source, "/dev/null")?;
                Ok(gigabits(gridftp_bytes, took))
            }),
        },
        Contender { name: "engine (sealed, BLAKE3 on)".to_owned(), run: Box::new(|| engine.memory(gigabytes, &[])) },
        Contender {
            name: "engine, AES-128-GCM".to_owned(),
            run: Box::new(|| engine.memory(gigabytes, &["--checksum", "none", "--cipher", "aes-128-gcm"])),
        },
    ];
    let scores = hold(contenders, rounds);
    let bounds = [
        Bound { against: "raw limit", at_least: 0.85 },
        Bound { against: "iperf3 TCP CUBIC, plain", at_least: 0.75 },
        Bound { against: "GridFTP -dcpriv, 4 streams", at_least: 2.0 },
    ];
    let title =
        format!("Memory to memory, MTU {mtu}, {gigabytes} GB a run, TCP default {}", field.congestion_control());
    print(&title, "Gb/s", &scores, &bounds);
    Ok(())
}

/// The error of a peer that could not be set up, for each of its runs.
pub fn again(error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}
