//! Plots as SVG: panels above each other over the same time, lines in them. Small enough to need no
//! library.

use std::fmt::Write as _;
use std::io;
use std::path::Path as FilePath;

use crate::flow::FlowOptions;
use crate::link::Path;
use crate::scenes::{alone, among, fair, gives_way, together};
use crate::series::Sample;
use crate::world::{Kind, Outcome, Scene, run};

const WIDTH: f64 = 860.0;
const PANEL: f64 = 150.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 130.0;
const GAP: f64 = 34.0;
/// Colours that are told apart by readers who see fewer (Okabe and Ito 2008).
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999"];
/// Points of a line; more are invisible.
const POINTS_MAX: usize = 900;

/// A line of a panel.
#[derive(Clone, Debug)]
pub struct Line {
    /// What it shows.
    pub name: String,
    /// Seconds and values.
    pub points: Vec<(f64, f64)>,
}

/// Lines over one scale.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What is on the scale, with its unit.
    pub title: String,
    /// What is in it.
    pub lines: Vec<Line>,
}

/// Draws panels over the same time.
#[must_use]
pub fn draw(title: &str, panels: &[Panel]) -> String {
    let height = 40.0 + panels.len() as f64 * (PANEL + GAP) + 20.0;
    let last = panels
        .iter()
        .flat_map(|panel| &panel.lines)
        .flat_map(|line| &line.points)
        .map(|point| point.0)
        .fold(1e-9, f64::max);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n<text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}</text>\n"
    );
    for (at, panel) in panels.iter().enumerate() {
        draw_panel(&mut svg, panel, 52.0 + at as f64 * (PANEL + GAP), last);
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">seconds</text>\n</svg>",
        LEFT + (WIDTH - LEFT - RIGHT) / 2.0,
        height - 8.0
    );
    svg
}

/// Draws the plots of the documentation into a directory.
///
/// # Errors
/// If a file cannot be written.
pub fn draw_all(directory: &FilePath, seed: u64) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for (name, title, scene, names) in plots(seed) {
        let outcome = run(&scene);
        std::fs::write(
            directory.join(format!("{name}.svg")),
            draw(&format!("{title} (seed {seed})"), &panels(&outcome, &names)),
        )?;
    }
    Ok(())
}

fn draw_panel(svg: &mut String, panel: &Panel, top: f64, last: f64) {
    let width = WIDTH - LEFT - RIGHT;
    let most = panel.lines.iter().flat_map(|line| &line.points).map(|point| point.1).fold(0.0, f64::max);
    let step = round_step(most / 4.0);
    let scale = (most / step).ceil().max(1.0) * step;
    let (x, y) = (|seconds: f64| LEFT + seconds / last * width, |value: f64| top + PANEL * (1.0 - value / scale));
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{}</text>", top - 6.0, panel.title);
    let mut value = 0.0;
    while value <= scale * 1.001 {
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#dddddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT + width,
            y(value),
            y(value),
            LEFT - 6.0,
            y(value) + 4.0,
            short(value)
        );
        value += step;
    }
    let seconds_step = round_step(last / 8.0);
    let mut seconds = 0.0;
    while seconds <= last * 1.001 {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666666\">{}</text>",
            x(seconds),
            top + PANEL + 14.0,
            short(seconds)
        );
        seconds += seconds_step;
    }
    for (at, line) in panel.lines.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let every = line.points.len().div_ceil(POINTS_MAX).max(1);
        let points: Vec<String> = line
            .points
            .iter()
            .step_by(every)
            .map(|&(seconds, value)| format!("{:.1},{:.1}", x(seconds), y(value)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.3\" points=\"{}\"/>",
            points.join(" ")
        );
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
            LEFT + width + 8.0,
            top + 12.0 + at as f64 * 15.0,
            line.name
        );
    }
}

/// The next of 1, 2 and 5 times a power of ten.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * power).find(|&step| step >= least).unwrap_or(10.0 * power)
}

fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The panels of a run: rates, queue (which is the round trip's excess) and loss.
fn panels(outcome: &Outcome, names: &[&str]) -> Vec<Panel> {
    let line = |name: &str, value: &dyn Fn(&Sample) -> f64| Line {
        name: name.to_owned(),
        points: outcome.samples.iter().map(|sample| (sample.seconds, value(sample))).collect(),
    };
    let mut rates: Vec<Line> =
        names.iter().enumerate().map(|(at, name)| line(name, &move |sample| sample.delivered[at] / 1e9)).collect();
    if let [only] = names {
        rates.push(line("pacing rate", &|sample| sample.rates[0] / 1e9));
        rates[0].name = (*only).to_owned();
    }
    vec![
        Panel { title: "delivered, Gb/s".to_owned(), lines: rates },
        Panel {
            title: "round trip beyond the path's own, ms".to_owned(),
            lines: vec![line("queue", &|sample| sample.queue_ms)],
        },
        Panel {
            title: "lost, % of what was sent".to_owned(),
            lines: vec![line("loss", &|sample| (sample.loss * 100.0).min(100.0))],
        },
    ]
}

/// The plots of the documentation: file name, title, scene, names of its flows.
fn plots(seed: u64) -> Vec<(&'static str, &'static str, Scene, Vec<&'static str>)> {
    let path = Path::clean(10e9, 50.0);
    let mut changing = alone(path, 60.0, seed);
    changing.changes = vec![
        (15.0, Path { rate_bits_per_second: 5e9, ..path }),
        (30.0, path),
        (45.0, Path { is_dark: true, ..path }),
        (50.0, path),
    ];
    let mut seeded = alone(Path::clean(100e9, 200.0), 8.0, seed);
    seeded.flows[0].kind = Kind::Culvert(FlowOptions { start: Some(100_000_000_000), ..FlowOptions::default() });
    let mut four = together(path, 4, seed);
    four.seconds = four.judged_from_seconds + 6.0;
    vec![
        (
            "start-up",
            "Start-up: 100 Gb/s × 200 ms, empty path",
            alone(Path::clean(100e9, 200.0), 8.0, seed),
            vec!["delivered"],
        ),
        ("start-up-seeded", "Start-up seeded with the rate: 100 Gb/s × 200 ms", seeded, vec!["delivered"]),
        (
            "loss",
            "1 % random loss: 10 Gb/s × 100 ms",
            alone(Path::clean(10e9, 100.0).with_loss(0.01), 20.0, seed),
            vec!["delivered"],
        ),
        (
            "changes",
            "10 Gb/s × 50 ms: half the rate from 15 s to 30 s, dark from 45 s to 50 s",
            changing,
            vec!["delivered"],
        ),
        ("fairness", "Four flows: 10 Gb/s × 50 ms", four, vec!["first", "second", "third", "fourth"]),
        (
            "beside-cubic",
            "Beside two CUBIC flows: 1 Gb/s × 20 ms",
            among(Path::clean(1e9, 20.0), Kind::Cubic, 2, fair(), 0.3, seed),
            vec!["CUBIC", "CUBIC", "Culvert"],
        ),
        (
            "background",
            "A background flow gives way: 10 Gb/s × 50 ms",
            gives_way(path, fair(), 10.0, seed),
            vec!["background", "fair"],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_labels_short() {
        assert_eq!([0.3, 1.0, 3.0, 70.0].map(round_step), [0.5, 1.0, 5.0, 100.0]);
        assert_eq!((short(2.5), short(10.0), short(0.125)), ("2.5".to_owned(), "10".to_owned(), "0.125".to_owned()));
    }

    #[test]
    fn a_drawing_has_a_line_for_each_line() {
        let line = |name: &str| Line { name: name.to_owned(), points: vec![(0.0, 1.0), (1.0, 2.0)] };
        let svg = draw("title", &[Panel { title: "p".to_owned(), lines: vec![line("a"), line("b")] }]);
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    }
}
