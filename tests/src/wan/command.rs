//! `cargo xtask lab`: an emulated path to try things on by hand.

use std::io::{self, Write};
use std::process::{Command, ExitCode};

use culvert_model::units::{parse_bytes, parse_rate};

use super::link::{Counters, LinkConfig};
use super::{Wan, WanConfig, missing};

/// Options of an emulated path.
#[derive(Clone, Debug, clap::Args)]
pub struct PathArguments {
    /// Round trip, half of it in each direction
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse_ms)]
    pub rtt: f64,
    /// Rate of each direction, in whole IP packets
    #[arg(long, value_name = "RATE", default_value = "1Gbit", value_parser = parse_rate)]
    pub rate: u64,
    /// Fraction of the packets lost from the first side to the second: 0.01 is one in a hundred
    #[arg(long, value_name = "PART", default_value_t = 0.0, value_parser = parse_part)]
    pub loss: f64,
    /// The same for the other direction
    #[arg(long, value_name = "PART", default_value_t = 0.0, value_parser = parse_part)]
    pub reverse_loss: f64,
    /// Mean length of a burst of losses
    #[arg(long, value_name = "PACKETS", default_value_t = 1.0)]
    pub loss_burst: f64,
    /// The most bytes that may wait for the link; the bandwidth-delay product if not given
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub buffer: Option<u64>,
    /// Fraction that arrives late
    #[arg(long, value_name = "PART", default_value_t = 0.0, value_parser = parse_part)]
    pub reorder: f64,
    /// How late at most
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = parse_ms)]
    pub reorder_by: f64,
    /// Fraction that arrives twice
    #[arg(long, value_name = "PART", default_value_t = 0.0, value_parser = parse_part)]
    pub duplicate: f64,
    /// Fraction that arrives with a flipped bit
    #[arg(long, value_name = "PART", default_value_t = 0.0, value_parser = parse_part)]
    pub corrupt: f64,
    /// MTU of both sides' devices
    #[arg(long, value_name = "BYTES", default_value_t = 1_500, value_parser = clap::value_parser!(u32).range(576..=65_535))]
    pub mtu: u32,
    /// Larger packets vanish silently on the way
    #[arg(long, value_name = "BYTES")]
    pub black_hole: Option<usize>,
    /// Seed of the path's randomness
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl PathArguments {
    /// The path that they describe.
    #[must_use]
    pub fn config(&self) -> WanConfig {
        let clean = LinkConfig::clean(self.rate, self.rtt);
        let reverse = LinkConfig {
            buffer_bytes: self.buffer.unwrap_or(clean.buffer_bytes),
            packet_bytes_max: self.black_hole.unwrap_or(usize::MAX),
            loss: self.reverse_loss,
            loss_burst: self.loss_burst,
            reordering: self.reorder,
            reordering_ns: (self.reorder_by * 1e6) as u64,
            duplication: self.duplicate,
            corruption: self.corrupt,
            ..clean
        };
        WanConfig { forward: LinkConfig { loss: self.loss, ..reverse }, reverse, mtu: self.mtu, seed: self.seed }
    }
}

/// Options of `cargo xtask lab`.
#[derive(Clone, Debug, clap::Args)]
pub struct LabArguments {
    /// The path.
    #[command(flatten)]
    pub path: PathArguments,
    /// A command to run on the first side; without one, the path stays until Enter is pressed or
    /// input ends
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Makes an emulated path, runs a command on it or waits, and reports what happened to the packets.
///
/// # Errors
/// If the path cannot be made, or the command cannot be started.
pub fn lab(arguments: &LabArguments, out: &mut impl Write) -> io::Result<ExitCode> {
    if let Some(why) = missing() {
        return Err(io::Error::other(format!("no emulated path can be made here: {why}")));
    }
    let wan = Wan::make(&arguments.path.config())?;
    let [first, second] = [wan.namespace(0), wan.namespace(1)];
    writeln!(out, "{} ({first}) <-> {} ({second}); seed {}", Wan::address(0), Wan::address(1), arguments.path.seed)?;
    let code = if let [program, rest @ ..] = arguments.command.as_slice() {
        let status = wan.inside(0, Command::new(program).args(rest)).status()?;
        status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(code as u8))
    } else {
        writeln!(
            out,
            "ip netns exec {first} bash      # the first side\nip netns exec {second} bash      # the second\nEnter ends it."
        )?;
        out.flush()?;
        io::stdin().read_line(&mut String::new())?;
        ExitCode::SUCCESS
    };
    for (direction, name) in ["first to second", "second to first"].into_iter().enumerate() {
        writeln!(out, "{name}: {}", describe(&wan.counters(direction)))?;
    }
    Ok(code)
}

/// Counters on one line.
#[must_use]
pub fn describe(counters: &Counters) -> String {
    let Counters { packets_in, packets_out, bytes_out, overflowed, lost, reordered, duplicated, corrupted, .. } =
        counters;
    format!(
        "{packets_in} packets in, {packets_out} out ({bytes_out} bytes), {overflowed} found the buffer full, {lost} lost, {} too large, \
         {reordered} reordered, {duplicated} doubled, {corrupted} damaged; longest queue {} ms, latest {} ms; emulator full {}, refused {}",
        counters.too_large,
        counters.queue_us_max as f64 / 1e3,
        counters.late_us_max as f64 / 1e3,
        counters.emulator_full,
        counters.refused
    )
}

fn parse_ms(text: &str) -> Result<f64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic() || letter == 'µ');
    let number: f64 = digits.parse().map_err(|_| format!("'{text}' is no time: write 100ms, 50us or 1s"))?;
    let ms = match &text[digits.len()..] {
        "ms" => number,
        "us" | "µs" => number / 1e3,
        "s" => number * 1e3,
        _ => return Err(format!("'{text}' has no unit: write 100ms, 50us or 1s")),
    };
    if (0.0..=60_000.0).contains(&ms) { Ok(ms) } else { Err(format!("'{text}' is not between 0 and 60 s")) }
}

fn parse_part(text: &str) -> Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 0.01));
    let part: f64 = number.trim().parse().map_err(|_| format!("'{text}' is no part: write 0.01 or 1%"))?;
    let part = part * unit;
    if (0.0..=1.0).contains(&part) { Ok(part) } else { Err(format!("'{text}' is not between 0 and 1")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_parts_may_be_percentages() {
        assert_eq!((parse_ms("100ms"), parse_ms("0.5s"), parse_ms("250us")), (Ok(100.0), Ok(500.0), Ok(0.25)));
        assert!(parse_ms("100").is_err() && parse_ms("ms").is_err() && parse_ms("-1ms").is_err());
        assert_eq!((parse_part("0.01"), parse_part("1%")), (Ok(0.01), Ok(0.01)));
        assert!(parse_part("2").is_err() && parse_part("x").is_err());
    }
}
