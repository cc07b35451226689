//! culvert.toml(5), made from the table of settings.

use std::io;

use clap_mangen::roff::{Roff, bold, roman};
use culvert_model::setting::Section;

/// The page.
///
/// # Errors
/// Never: it is written to memory.
pub fn page(date: &str, manual: &str, sections: &[Section]) -> io::Result<Vec<u8>> {
    let version = concat!("culvert ", env!("CARGO_PKG_VERSION"));
    let mut page = Roff::default();
    page.control("TH", ["culvert.toml", "5", date, version, manual]);
    page.control("SH", ["NAME"]);
    page.text([roman("culvert.toml - settings of Culvert")]);
    let (above, tables): (Vec<&Section>, Vec<&Section>) = sections.iter().partition(|section| section.name.is_empty());
    page.control("SH", ["DESCRIPTION"]);
    above.iter().for_each(|section| paragraphs(&mut page, section.about));
    page.control("SH", ["SETTINGS"]);
    above.iter().for_each(|section| describe(&mut page, section));
    for section in tables {
        page.control("SS", [format!("[{}]", section.name).as_str()]);
        paragraphs(&mut page, section.about);
        describe(&mut page, section);
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

/// A table of the file: what it is about, and each of its settings.
fn describe(page: &mut Roff, section: &Section) {
    for row in section.rows {
        page.control("TP", []);
        page.text([bold(row.name), roman(format!(" = {}", row.example))]);
        page.text([roman(row.sentences())]);
    }
}

fn paragraphs(page: &mut Roff, text: &str) {
    for (number, paragraph) in text.split("\n\n").enumerate() {
        if number > 0 {
            page.control("PP", []);
        }
        page.text([roman(paragraph)]);
    }
}

#[cfg(test)]
mod tests {
    use culvert_model::setting::Row;
    use culvert_node::settings::SECTIONS;

    use super::*;

    /// The settings that the page describes.
    fn described(sections: &[Section]) -> Vec<String> {
        let text = String::from_utf8(page("2026-11-30", "x", sections).unwrap()).unwrap().replace('\\', "");
        let (_, settings) = text.split_once(".SH SETTINGS").unwrap();
        let (settings, _) = settings.split_once(".SH FILES").unwrap();
        let heads = settings.lines().filter_map(|line| line.strip_prefix("fB")?.split_once("fR = "));
        heads.map(|(name, _)| name.to_owned()).collect()
    }

    fn names(sections: &[Section]) -> Vec<String> {
        sections.iter().flat_map(|section| section.rows).map(|row| row.name.to_owned()).collect()
    }

    #[test]
    fn the_page_describes_the_rows_and_nothing_else() {
        assert!(names(SECTIONS).len() > 30);
        assert_eq!(described(SECTIONS), names(SECTIONS));
    }

    #[test]
    fn a_row_of_another_table_is_described() {
        static ROWS: &[Row] = &[Row {
            name: "water_level_m",
            help: "Level of the water",
            note: "",
            default: "none",
            example: "3",
            variable: None,
            flag: None,
        }];
        let sections = [Section { name: "", about: "About.", rows: ROWS }];
        assert_eq!(described(&sections), ["water_level_m"]);
    }
}
