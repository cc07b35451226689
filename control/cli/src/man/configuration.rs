//! culvert.toml(5), made from the file that packages install: it names every setting, which a test
//! holds it to.

use std::io;

use clap_mangen::roff::{Inline, Roff, bold, roman};

/// The file with every setting as a comment.
const SETTINGS: &str = include_str!("../../../../packaging/culvert.toml");

/// The page.
///
/// # Errors
/// Never: it is written to memory.
pub fn page(date: &str, manual: &str) -> io::Result<Vec<u8>> {
    let version = concat!("culvert ", env!("CARGO_PKG_VERSION"));
    let mut page = Roff::default();
    page.control("TH", ["culvert.toml", "5", date, version, manual]);
    page.control("SH", ["NAME"]);
    page.text([roman("culvert.toml - settings of Culvert")]);
    let paragraphs: Vec<Vec<&str>> = SETTINGS.split("\n\n").map(|paragraph| paragraph.lines().collect()).collect();
    page.control("SH", ["DESCRIPTION"]);
    // What stands before the first setting is about the file.
    page.text([roman(prose(paragraphs.first().map_or(&[][..], Vec::as_slice)))]);
    page.control("SH", ["SETTINGS"]);
    for lines in &paragraphs {
        let Some(first) = setting(lines) else { continue };
        match first.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(table) => {
                page.control("SS", [table]);
                page.text([roman(prose(lines))]);
                page.control("PP", []);
                page.control("nf", []);
                page.text([bold(format!("[{table}]"))]);
                lines.iter().filter_map(|line| of_line(line)).skip(1).for_each(|line| {
                    page.text([roman(line)]);
                });
                page.control("fi", []);
            }
            None => {
                page.control("TP", []);
                page.text(head(first));
                page.text([roman(prose(lines))]);
            }
        }
    }
    page.control("SH", ["FILES"]);
    for (file, text) in [
        ("/etc/culvert/culvert.toml", "The system's."),
        ("$XDG_CONFIG_HOME/culvert/culvert.toml", "A user's own, read instead of the system's."),
    ] {
        page.control("TP", []);
        page.text([bold(file)]);
        page.text([roman(text)]);
    }
    page.control("SH", ["EXAMPLES"]);
    page.text([roman("A node with two lanes that uses AF_XDP on one interface:")]);
    page.control("PP", []);
    page.control("RS", ["4"]);
    page.control("nf", []);
    for line in ["cores = [2, 3]", "interface = \"eth1\""] {
        page.text([roman(line)]);
    }
    page.control("fi", []);
    page.control("RE", []);
    page.control("SH", ["SEE ALSO"]);
    page.text([roman("culvert(1), culvert-node(1), culvert-config-show(1)")]);
    let mut bytes = Vec::new();
    page.to_writer(&mut bytes)?;
    Ok(bytes)
}

/// A setting is a comment without a space.
fn of_line<'a>(line: &&'a str) -> Option<&'a str> {
    line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' '))
}

fn setting<'a>(lines: &[&'a str]) -> Option<&'a str> {
    lines.iter().find_map(of_line)
}

fn prose(lines: &[&str]) -> String {
    let words = lines.iter().filter(|line| of_line(line).is_none()).map(|line| line.trim_start_matches(['#', ' ']));
    words.collect::<Vec<_>>().join(" ").trim().to_owned()
}

fn head(setting: &str) -> Vec<Inline> {
    let (name, value) = setting.split_once(" = ").unwrap_or((setting, ""));
    vec![bold(name.to_owned()), roman(format!(" = {value}"))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_in_the_page() {
        let text = String::from_utf8(page("2026-11-30", "x").unwrap()).unwrap().replace('\\', "");
        let settings: Vec<&str> = SETTINGS.lines().filter_map(|line| of_line(&line)).collect();
        assert!(settings.len() > 30);
        for setting in settings {
            let name = setting.split(" = ").next().unwrap();
            assert!(text.contains(name), "{name}");
        }
    }
}
