//! This build compared with another one, for example from before a change: both run alternately, so
//! that other load on the machine affects both.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use culvert_tests::program::culvert;

use crate::contest::{Contender, Score, hold, median, median_interval};
use crate::engine::Engine;
use crate::field::{Field, write_random};
use crate::files::{LargeFile, disk};
use crate::many_files::Tree;
use crate::table::show;

/// Below this ratio, this build counts as slower.
const SLOWER_BELOW: f64 = 0.97;
/// The required confidence: on a shared machine the same program gives ratios between 0.6 and 1.6
/// in single rounds.
const CONFIDENCE: f64 = 0.95;
/// A small transfer, and how many of them are sent in a row.
const SMALL_BYTES: u64 = 20_000;
const SMALL_TRANSFERS: usize = 20;

/// A build of the program.
#[derive(Debug)]
pub struct Build {
    program: PathBuf,
    version: String,
}

impl Build {
    /// Asks a program for its version.
    ///
    /// # Errors
    /// If it cannot be run, or is no culvert.
    pub fn at(program: &Path) -> anyhow::Result<Self> {
        let shown = program.display();
        let remedy = "give the path of a culvert program";
        let program = program.canonicalize().with_context(|| format!("{shown}: {remedy}"))?;
        let answer = Command::new(&program).arg("version").output();
        let answer = answer.with_context(|| format!("{shown} does not run: {remedy}"))?;
        let said = String::from_utf8_lossy(&answer.stdout);
        let said = said.lines().next().unwrap_or_default();
        // It may be any program, so its output is not trusted.
        let said: String = said.chars().filter(|character| !character.is_control()).take(100).collect();
        let is_culvert = answer.status.success() && said.starts_with("culvert ");
        ensure!(is_culvert, "{shown} answers 'version' with '{said}' ({}): {remedy}", answer.status);
        Ok(Self { program, version: said })
    }
}

/// A measurement, in the row's unit.
type Measure<'a> = &'a dyn Fn(&Engine<'_>) -> anyhow::Result<f64>;

/// The two builds, and the number of rows that failed so far.
struct Comparison {
    builds: [Build; 2],
    rounds: usize,
    failures: usize,
}

/// Prints the table.
///
/// # Errors
/// If one of the builds could not be measured somewhere.
pub fn run(against: Build, mtus: &[u32], gigabytes: u64, rounds: usize) -> anyhow::Result<()> {
    let builds = [Build::at(culvert())?, against];
    println!("\n### This build beside another, {gigabytes} GB a run from memory, {rounds} rounds\n");
    for (name, build) in ["this", "other"].iter().zip(&builds) {
        println!("- {name}: {} ({})", build.program.display(), build.version);
    }
    println!("\n| what | this, median | other, median | this ÷ other, median of rounds | surely between | |");
    println!("|---|---|---|---|---|---|");
    let mut comparison = Comparison { builds, rounds, failures: 0 };
    for &mtu in mtus {
        comparison.memory(mtu, gigabytes)?;
    }
    comparison.large_file(gigabytes.min(2))?;
    comparison.many_files()?;
    comparison.small_transfers()?;
    match comparison.failures {
        0 => Ok(()),
        failures => bail!("{failures} rows have no ratio"),
    }
}

impl Comparison {
    fn memory(&mut self, mtu: u32, gigabytes: u64) -> anyhow::Result<()> {
        let field = Field::new(mtu, Path::new("/dev/shm"))?;
        for (checksum, options) in [("BLAKE3 off", &["--checksum", "none"][..]), ("BLAKE3 on", &[])] {
            let what = format!("memory to memory, MTU {mtu}, {checksum}");
            self.row(&what, "Gb/s", &field, &|engine| engine.memory(gigabytes, options));
        }
        Ok(())
    }

    fn large_file(&mut self, gigabytes: u64) -> anyhow::Result<()> {
        let field = Field::new(9_000, &disk()?)?;
        let file = LargeFile::new(&field, gigabytes * 1_000_000_000)?;
        self.row(&format!("a file of {gigabytes} GB in the page cache to disk"), "Gb/s", &field, &|engine| {
            engine.permit(file.target());
            file.send(engine)
        });
        Ok(())
    }

    fn many_files(&mut self) -> anyhow::Result<()> {
        let field = Field::new(9_000, Path::new("/dev/shm"))?;
        let tree = Tree::new(&field)?;
        self.row("100,000 files of 4 KiB, memory to memory", "files/s", &field, &|engine| {
            engine.permit(tree.target());
            tree.copied(&|| tree.send(engine))
        });
        Ok(())
    }

    fn small_transfers(&mut self) -> anyhow::Result<()> {
        let field = Field::new(9_000, &disk()?)?;
        let (source, target) = (field.path("source"), field.path("target"));
        write_random(&source, SMALL_BYTES)?;
        let content = std::fs::read(&source)?;
        let what = format!("`send` of 20 KB to disk, {SMALL_TRANSFERS} in a row");
        self.row(&what, "transfers/s", &field, &|engine| {
            let _ = std::fs::remove_dir_all(&target);
            std::fs::create_dir(&target)?;
            engine.permit(&target);
            let send = |name: &str| -> anyhow::Result<Duration> {
                let copy = target.join(name);
                let (_, took) = engine.send(&source, &copy)?;
                ensure!(std::fs::read(&copy)? == content, "{name} differs");
                Ok(took)
            };
            // The first one finds a node that has just started.
            send("first")?;
            let mut took = Duration::ZERO;
            for number in 0..SMALL_TRANSFERS {
                took += send(&format!("copy-{number}"))?;
            }
            Ok(SMALL_TRANSFERS as f64 / took.as_secs_f64())
        });
        Ok(())
    }

    /// Measures both builds in turns. Each has a node of its own, which runs only for its turn,
    /// because they share the core and the ports.
    fn row(&mut self, what: &str, unit: &str, field: &Field, measure: Measure<'_>) {
        let contender = |build| Contender {
            name: what.to_owned(),
            run: Box::new(move || measure(&Engine::start_of(field, build, &[]))),
        };
        let contenders = self.builds.each_ref().map(|build| contender(&*build.program));
        let scores = hold(contenders.into(), self.rounds);
        match line(&scores, unit) {
            Ok(line) => println!("| {what} | {line} |"),
            Err(why) => {
                self.failures += 1;
                println!("| {what} | {} | | | | **failed** |", format!("{why:#}").replace('|', "/").replace('\n', " "));
            }
        }
    }
}

/// The cells of a row: both medians, the median of the rounds' ratios with its confidence interval,
/// and the verdict.
fn line(scores: &[Score], unit: &str) -> anyhow::Result<String> {
    for (name, score) in ["this", "other"].iter().zip(scores) {
        if let Some(failure) = &score.failure {
            bail!("{name}: {failure}");
        }
    }
    let [this, other] = scores else { bail!("two builds are compared") };
    let medians = this.median().zip(other.median());
    let (ours, theirs) = medians.context("without a round nothing is measured: use --rounds 1 or more")?;
    // The two runs of a round are close in time: other load on the machine affects both.
    let of_rounds: Vec<f64> = this.reached.iter().zip(&other.reached).map(|(this, other)| this / other).collect();
    let ratio = median(&of_rounds).context("without a round nothing is measured")?;
    let interval = median_interval(&of_rounds, CONFIDENCE);
    let verdict = match interval {
        Some((_, high)) if high < SLOWER_BELOW => "**slower**",
        Some((low, _)) if low >= SLOWER_BELOW => "not slower",
        Some(_) | None => "not told apart: more rounds",
    };
    let between = interval.map_or_else(|| "too few rounds".to_owned(), |(low, high)| format!("{low:.3}–{high:.3}"));
    Ok(format!("{} {unit} | {} {unit} | {ratio:.3} | {between} | {verdict}", show(ours), show(theirs)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(reached: &[f64]) -> Score {
        Score { name: "it".to_owned(), reached: reached.to_vec(), failure: None }
    }

    #[test]
    fn a_ratio_is_the_median_of_rounds() {
        let line = line(&[score(&[9.0, 2.0, 20.0]), score(&[10.0, 1.0, 10.0])], "Gb/s").unwrap();
        assert_eq!(line, "9.00 Gb/s | 10.00 Gb/s | 2.000 | too few rounds | not told apart: more rounds");
    }

    #[test]
    fn a_build_is_slower_if_its_confidence_interval_says_so() {
        let compared = |ratio: f64, spread: f64| {
            let of_round = |round: usize| 100.0 * (ratio + spread * (round as f64 / 20.0 - 0.5));
            let this: Vec<f64> = (0..21).map(of_round).collect();
            line(&[score(&this), score(&[100.0; 21])], "").unwrap()
        };
        assert!(compared(0.98, 0.01).ends_with("not slower"));
        assert!(compared(0.96, 0.01).ends_with("**slower**"));
        assert!(compared(0.96, 0.2).ends_with("more rounds"));
    }

    #[test]
    fn a_failed_build_is_named_and_has_no_ratio() {
        let failed = Score { failure: Some("no way".to_owned()), ..score(&[1.0]) };
        assert_eq!(line(&[score(&[1.0]), failed], "").unwrap_err().to_string(), "other: no way");
        assert!(line(&[score(&[]), score(&[])], "").unwrap_err().to_string().contains("--rounds"));
    }

    #[test]
    fn a_program_that_is_not_culvert_is_refused_with_its_output() {
        for (path, says) in [
            ("/nowhere/culvert", "give the path of a culvert program"),
            ("/bin/echo", "answers 'version' with 'version'"),
            ("/bin/false", "exit status: 1"),
            ("/etc/hostname", "does not run"),
        ] {
            let refused = format!("{:#}", Build::at(Path::new(path)).unwrap_err());
            assert!(refused.contains(says) && refused.contains(path), "{refused}");
        }
    }
}
