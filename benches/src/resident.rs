//! Resident memory of every process, which must not grow with the file, the rate or the manifest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use culvert_tests::node::{children_of, data_plane_of};

use crate::engine::Engine;
use crate::field::{Field, write_random};

/// The bound for each process, in MiB.
const LIMIT_MIB: u64 = 512;
const ENTRIES: usize = 1_000_000;

/// Prints the table.
pub fn run() -> anyhow::Result<()> {
    println!("\n### Resident memory, the highest of each process (wanted: ≤ {LIMIT_MIB} MiB)\n");
    println!("| what | sender control | sender data plane | receiver control | receiver data plane | |");
    println!("|---|---|---|---|---|---|");
    row("memory to memory, 16 GB, full rate", |_, engine| engine.memory(16, &[]).map(|_| ()))?;
    row("a file of 1 GiB", |field, engine| {
        write_random(&field.path("source"), 1 << 30)?;
        send(field, engine, &[])
    })?;
    row("a sparse file of 100 GiB", |field, engine| {
        std::fs::File::create(field.path("source"))?.set_len(100 << 30)?;
        send(field, engine, &[])
    })?;
    row("a manifest of a million empty files", |field, engine| {
        let source = field.path("source");
        for number in 0..ENTRIES {
            let directory = source.join(format!("directory-{:04}", number / 1_000));
            if number % 1_000 == 0 {
                std::fs::create_dir_all(&directory)?;
            }
            std::fs::File::create(directory.join(format!("file-{number:07}")))?;
        }
        send(field, engine, &[])
    })
}

fn send(field: &Field, engine: &Engine<'_>, options: &[&str]) -> anyhow::Result<()> {
    let target = field.path("target");
    std::fs::create_dir(&target)?;
    engine.permit(&target);
    let (from, to) = (field.path("source").display().to_string(), engine.destination(&target.join("copy")));
    engine.run(&[&["send", &from, &to], options].concat()).map(|_| ())
}

fn row(what: &str, work: impl FnOnce(&Field, &Engine<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let field = Field::new(9_000, std::path::Path::new("/dev/shm"))?;
    let engine = Engine::start(&field);
    let receiver = engine.node.process_id();
    // ip netns exec becomes the node itself, so its child is the data plane.
    let receiver_data_plane = engine.node.data_plane();
    let is_over = AtomicBool::new(false);
    let (worked, sender_peaks) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch_sender(&is_over));
        let worked = work(&field, &engine);
        is_over.store(true, Ordering::Relaxed);
        (worked, watching.join().unwrap_or_default())
    });
    worked?;
    let peaks = [sender_peaks.0, sender_peaks.1, peak_mib(receiver), peak_mib(receiver_data_plane)];
    let verdict = if peaks.iter().all(|&peak| peak <= LIMIT_MIB) { "met" } else { "**missed**" };
    let shown: Vec<String> = peaks.iter().map(|peak| format!("{peak} MiB")).collect();
    println!("| {what} | {} | {verdict} |", shown.join(" | "));
    Ok(())
}

/// The peaks of the sender's control process and data plane, which live as long as its command.
fn watch_sender(is_over: &AtomicBool) -> (u64, u64) {
    let ours = std::process::id();
    let (mut control, mut data_plane) = (0, 0);
    while !is_over.load(Ordering::Relaxed) {
        for child in children_of(ours) {
            let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            let is_sender =
                [b"send".as_slice(), b"net"].iter().any(|verb| line.split(|&byte| byte == 0).any(|word| word == *verb));
            if is_sender && let Some(plane) = data_plane_of(child) {
                control = control.max(peak_mib(child));
                data_plane = data_plane.max(peak_mib(plane));
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    (control, data_plane)
}

/// `VmHWM`: includes the shared buffers, which both the data plane and the control process map.
fn peak_mib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) >> 10
}
