//! The options of `culvert capture`.

use std::path::PathBuf;

use clap::Args;
use culvert_link::capture::SNAP_BYTES_MAX;

use crate::numbers::number_in;

/// A year; deadlines much later may overflow the clock.
const SECONDS_MAX: f64 = 31_536_000.0;

/// `culvert capture`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "AF_XDP bypasses the kernel, so tcpdump does not see its packets; a capture shows \
        them as they are on the wire. Packets of UDP sockets get synthetic headers made from their \
        addresses.\nculvert.lua, shipped with the documentation, dissects the file in Wireshark and \
        tshark:\n  culvert capture - | tshark -X lua_script:culvert.lua -r -")]
pub struct CaptureArgs {
    /// File to write, or - for standard output; an existing file is overwritten
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Capture this lane only, numbered as in 'culvert status' [default: all]
    #[arg(long, value_name = "N", value_parser = number_in(0u16..=65_535))]
    pub lane: Option<u16>,
    /// Bytes to keep of each packet; what follows the headers is encrypted [default: 128]
    #[arg(long, value_name = "BYTES", value_parser = parse_snap)]
    pub snap: Option<usize>,
    /// Stop after this many packets [default: when interrupted]
    #[arg(long, value_name = "N", value_parser = number_in(1u64..=1_000_000_000_000))]
    pub packets: Option<u64>,
    /// Stop after this many seconds [default: when interrupted]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub seconds: Option<f64>,
    /// Print a summary as one JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| *seconds > 0.0 && *seconds <= SECONDS_MAX);
    seconds.ok_or_else(|| format!("'{text}' is not a number of seconds above 0, at most {SECONDS_MAX}"))
}

fn parse_snap(text: &str) -> Result<usize, String> {
    let bytes: usize = text.parse().map_err(|_| "a number of bytes is needed".to_owned())?;
    if (1..=SNAP_BYTES_MAX).contains(&bytes) { Ok(bytes) } else { Err(format!("1 to {SNAP_BYTES_MAX} bytes")) }
}
