//! AF_XDP in copy mode on a veth pair with one queue: the engine against raw rings with and without
//! the cipher, the steering program's cost, and a transfer during a flood.

use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};
use culvert_dataplane::datapath::af_xdp::steering::cost;
use culvert_tests::program::{Ran, command};

use crate::contest::{Contender, hold};
use crate::engine::{Engine, limit, limit_with};
use crate::field::{Field, RECEIVER, SENDER, THERE};
use crate::table::{Bound, print};

/// Headers of IPv4 and UDP.
const HEADERS: u32 = 28;
/// Payloads of datagrams: a full Ethernet frame, one page with XDP's headroom, jumbo frames in
/// three pieces.
const DATAGRAM_BYTES: [u32; 3] = [1_472, 3_400, 8_900];
/// Runs of the program for each kind of packet.
const REPEAT: u32 = 1_000_000;

const ON_RINGS: [&str; 2] = ["--datapath", "af_xdp"];
const RAW: &str = "raw limit, AF_XDP";

/// Prints the tables.
pub fn run(gigabytes: u64, rounds: usize) -> anyhow::Result<()> {
    for datagram in DATAGRAM_BYTES {
        engine_and_limits(datagram, gigabytes, rounds)?;
    }
    steering()?;
    beside_junk(gigabytes, rounds)
}

fn engine_and_limits(datagram: u32, gigabytes: u64, rounds: usize) -> anyhow::Result<()> {
    let field = Field::new(datagram + HEADERS, std::path::Path::new("/dev/shm"))?;
    // The node has its interface only while it is measured: the raw limit needs it too.
    let engine = || -> anyhow::Result<f64> {
        let engine = Engine::start_with(&field, &ON_RINGS);
        engine.memory(gigabytes, &[&ON_RINGS[..], &["--checksum", "none"]].concat())
    };
    let raw = |more: &'static [&'static str]| limit_with(&field, datagram, &[&ON_RINGS[..], more].concat());
    let contenders = vec![
        Contender { name: "engine, AF_XDP (sealed, BLAKE3 off)".to_owned(), run: Box::new(engine) },
        Contender { name: RAW.to_owned(), run: Box::new(|| raw(&[])) },
        Contender { name: "raw limit, AF_XDP, without the cipher".to_owned(), run: Box::new(|| raw(&["--plain"])) },
        Contender { name: "raw limit, UDP sockets".to_owned(), run: Box::new(|| limit(&field, datagram)) },
    ];
    let scores = hold(contenders, rounds);
    let title = format!("AF_XDP, copy mode, one queue, datagrams of {datagram} bytes, {gigabytes} GB a run");
    print(&title, "Gb/s", &scores, &[Bound { against: RAW, at_least: 0.9 }]);
    if let (Some(sealed), Some(plain)) = (scores[1].median(), scores[2].median()) {
        let payload = f64::from(datagram);
        let ns = |gigabits: f64| payload * 8.0 / gigabits;
        println!(
            "\nThe cipher takes {:.0} of the limit's {:.0} ns a packet (by the difference of the two; the ledger has it by itself).",
            ns(sealed) - ns(plain),
            ns(sealed)
        );
    }
    Ok(())
}

/// The cost of the steering program alone.
fn steering() -> anyhow::Result<()> {
    println!("\n### The steering program, {REPEAT} runs of each kind of packet\n");
    let measured = match cost::measure(REPEAT) {
        Ok(measured) => measured,
        Err(error) => {
            println!("skipped: {error}");
            return Ok(());
        }
    };
    println!("| packet | ns |\n|---|---|");
    println!("| of a known flow: to the lane's socket | {} |", measured.redirected_ns);
    println!("| to another port: to the kernel | {} |", measured.passed_ns);
    println!("| of an unknown flow: dropped, attributed | {} |", measured.dropped_ns);
    Ok(())
}

/// A transfer while the data port is flooded, against one over UDP sockets without a flood.
fn beside_junk(gigabytes: u64, rounds: usize) -> anyhow::Result<()> {
    let field = Field::new(1_500, std::path::Path::new("/dev/shm"))?;
    let mut junk_rates = Vec::new();
    let udp = ["--datapath", "udp"];
    let contenders = vec![
        Contender {
            name: "AF_XDP during a flood".to_owned(),
            run: Box::new(|| transfer(&field, gigabytes, &ON_RINGS, Some(&mut junk_rates))),
        },
        Contender {
            name: "UDP sockets without a flood".to_owned(),
            run: Box::new(|| transfer(&field, gigabytes, &udp, None)),
        },
        Contender {
            name: "AF_XDP without a flood".to_owned(),
            run: Box::new(|| transfer(&field, gigabytes, &ON_RINGS, None)),
        },
    ];
    let scores = hold(contenders, rounds);
    let bound = Bound { against: "UDP sockets without a flood", at_least: 0.8 };
    print(&format!("A flood of junk on the data port, MTU 1500, {gigabytes} GB a run"), "Gb/s", &scores, &[bound]);
    let mean = junk_rates.iter().sum::<f64>() / junk_rates.len().max(1) as f64;
    println!(
        "\nThe flood was {:.2} million datagrams a second. On veth its sender, the kernel's and the program's work share the two cores with the transfer; \
         a NIC brings a flood without a sender's cost.",
        mean / 1e6
    );
    Ok(())
}

/// One transfer to a new node, during a flood if `flood_rates` takes its rate.
fn transfer(
    field: &Field,
    gigabytes: u64,
    options: &[&str],
    flood_rates: Option<&mut Vec<f64>>,
) -> anyhow::Result<f64> {
    let engine = Engine::start_with(field, options);
    let run = || engine.memory(gigabytes, &[options, &["--checksum", "none"]].concat());
    let Some(rates) = flood_rates else { return run() };
    let flood = Flood::start(field, &engine)?;
    let reached = run()?;
    rates.push(flood.per_second()?);
    Ok(reached)
}

/// A sender of junk on the sending side, until it is dropped.
struct Flood<'a> {
    child: Child,
    began: Instant,
    engine: &'a Engine<'a>,
    field: &'a Field,
    before: u64,
}

impl<'a> Flood<'a> {
    fn start(field: &'a Field, engine: &'a Engine<'a>) -> anyhow::Result<Self> {
        let status = status(field, engine)?;
        let port = status["dataplane"]["lanes"][0]["port"].as_u64().context("a lane has a port")?;
        let this = std::env::current_exe()?.display().to_string();
        let mut sending = field.command(SENDER, &this, &["--junk", &format!("{THERE}:{port}")]);
        let child = sending.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Self { child, began: Instant::now(), engine, field, before: dropped(&status) })
    }

    /// Datagrams per second that the steering program dropped.
    fn per_second(&self) -> anyhow::Result<f64> {
        let after = dropped(&status(self.field, self.engine)?);
        if after <= self.before {
            bail!("no junk reached the steering program");
        }
        Ok((after - self.before) as f64 / self.began.elapsed().as_secs_f64())
    }
}

impl Drop for Flood<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn status(field: &Field, engine: &Engine<'_>) -> anyhow::Result<serde_json::Value> {
    let asking = command(&engine.pair.there, ["status", "--json"]);
    Ok(Ran::from(field.lab.inside(RECEIVER, &asking).output()?).exits(0).json())
}

fn dropped(status: &serde_json::Value) -> u64 {
    status["dataplane"]["steering"]["queues"][0]["malformed"].as_u64().unwrap_or(0)
}
