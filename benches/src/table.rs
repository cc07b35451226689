//! Prints results as Markdown tables.

use crate::contest::{Score, range};

/// A required ratio to a contender.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The contender's name.
    pub against: &'static str,
    /// The ratio that the engine must reach.
    pub at_least: f64,
}

/// Prints a contest; the first score is the engine's.
pub fn print(title: &str, unit: &str, scores: &[Score], bounds: &[Bound]) {
    println!("\n### {title}\n");
    println!("| contender | {unit}, median (range) | engine ÷ it | wanted |");
    println!("|---|---|---|---|");
    let engine = scores.first().and_then(Score::median);
    for (at, score) in scores.iter().enumerate() {
        let Some(median) = score.median() else {
            println!(
                "| {} | skipped: {} | | |",
                score.name,
                score.failure.as_deref().unwrap_or("not run").replace('|', "/")
            );
            continue;
        };
        let (low, high) = range(&score.reached);
        let ratio = engine.map_or(f64::NAN, |engine| engine / median);
        let wanted = bounds.iter().find(|bound| bound.against == score.name);
        let verdict = wanted.map_or(String::new(), |bound| {
            format!("≥ {}: {}", bound.at_least, if ratio >= bound.at_least { "met" } else { "**missed**" })
        });
        let ratio = if at == 0 { "1".to_owned() } else { format!("{ratio:.2}") };
        println!("| {} | {} ({}–{}) | {ratio} | {verdict} |", score.name, show(median), show(low), show(high));
    }
}

/// A number with its significant digits.
pub fn show(value: f64) -> String {
    if value >= 1_000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}
