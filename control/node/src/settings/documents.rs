//! The documents that list all settings: the configuration file that packages install, and the
//! table in `docs/operations.md`. `CULVERT_UPDATE_GOLDEN=1` writes them anew.

use std::fs;
use std::path::{Path, PathBuf};

use culvert_model::setting::{Row, Section};

use super::SECTIONS;
use super::tests::trial;

const COLUMNS_MAX: usize = 100;
const BEGIN: &str = "<!-- settings: made from the table of settings -->\n";
const END: &str = "<!-- end of settings -->\n";

#[test]
fn the_installed_configuration_file_is_made_from_the_table() {
    compare("packaging/culvert.toml", |_| configuration_file(SECTIONS));
}

#[test]
fn the_table_of_the_operations_page_is_made_from_the_table() {
    compare("docs/operations.md", |text| {
        let (before, rest) = text.split_once(BEGIN).expect("the table begins");
        let (_, after) = rest.split_once(END).expect("the table ends");
        format!("{before}{BEGIN}{}{END}{after}", markdown(SECTIONS))
    });
}

#[test]
fn a_row_of_another_table_is_in_both() {
    let sections = [Section { name: "", about: "About.", rows: trial::ROWS }];
    assert_eq!(
        configuration_file(&sections),
        "# About.\n\n\
         # Level of the water. Read at the gauge. Default: not measured.\n#water_level_m = 3\n\n\
         # Gates that are open. Default: all.\n#gates = [1, 2]\n"
    );
    assert_eq!(
        markdown(&sections),
        "| setting | option | variable | meaning | default |\n|---|---|---|---|---|\n\
         | `water_level_m` | `--water-level METERS` | `CULVERT_WATER_LEVEL` | Level of the water. Read at the gauge | not measured |\n\
         | `gates` | | `CULVERT_GATES` | Gates that are open | all |\n"
    );
}

/// What other pages say about options and variables of settings agrees with the table.
#[test]
fn other_pages_name_only_options_and_variables_of_the_table() {
    let rows: Vec<&Row> = SECTIONS.iter().flat_map(|section| section.rows).collect();
    let is_variable = |name: &str| rows.iter().any(|row| row.variable == Some(name)) || name == "CULVERT_CONFIG";
    for page in ["docs/operations.md", "docs/af-xdp.md", "docs/path.md", "docs/security.md", "docs/tuning.md"] {
        let text = fs::read_to_string(in_tree(page)).unwrap();
        let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
        for name in text.split(|character| !is_word(character)).filter(|word| word.starts_with("CULVERT_")) {
            // As in "CULVERT_* variables".
            if name == "CULVERT_" {
                continue;
            }
            assert!(is_variable(name), "{page}: {name}");
        }
        // Option, variable and key in the first three cells of a line.
        for line in text.lines().filter(|line| line.starts_with("| `--")) {
            let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).skip(1).take(3).collect();
            let [option, variable, name] = cells[..] else { continue };
            let Some(row) = rows.iter().find(|row| row.variable == Some(variable)) else { continue };
            let typed = option.split(' ').next();
            assert_eq!((Some(name), typed), (Some(row.name), row.flag.map(|flag| flag.typed)), "{page}: {line}");
        }
    }
}

fn in_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn compare(path: &str, renew: impl Fn(&str) -> String) {
    let file = in_tree(path);
    let found = fs::read_to_string(&file).unwrap();
    let made = renew(&found);
    if std::env::var_os("CULVERT_UPDATE_GOLDEN").is_some() {
        fs::write(&file, made).unwrap();
        return;
    }
    assert!(found == made, "{path} is not what the table of settings says: CULVERT_UPDATE_GOLDEN=1 writes it anew");
}

/// Every setting as a comment. A setting is a comment without a space.
fn configuration_file(sections: &[Section]) -> String {
    let mut paragraphs = Vec::new();
    for section in sections {
        if section.name.is_empty() {
            let about: Vec<String> = section.about.split("\n\n").map(comment).collect();
            paragraphs.push(about.join("#\n"));
            paragraphs.extend(section.rows.iter().map(|row| comment(&row.sentences()) + &line(row)));
        } else {
            let rows: String = section.rows.iter().map(line).collect();
            paragraphs.push(format!("{}#[{}]\n{rows}", comment(section.about), section.name));
        }
    }
    paragraphs.join("\n")
}

fn line(row: &Row) -> String {
    format!("#{} = {}\n", row.name, row.example)
}

fn comment(text: &str) -> String {
    let mut lines = vec!["#".to_owned()];
    for word in text.split_whitespace() {
        if lines.last().is_some_and(|line| line.len() + 1 + word.len() > COLUMNS_MAX) {
            lines.push("#".to_owned());
        }
        if let Some(line) = lines.last_mut() {
            *line += &format!(" {word}");
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn markdown(sections: &[Section]) -> String {
    let mut table = "| setting | option | variable | meaning | default |\n|---|---|---|---|---|\n".to_owned();
    for section in sections {
        for row in section.rows {
            let table_of = if section.name.is_empty() { String::new() } else { format!("{}.", section.name) };
            let option = row.flag.map(|flag| format!(" `{} {}`", flag.typed, flag.value_name)).unwrap_or_default();
            let variable = row.variable.map(|variable| format!(" `{variable}`")).unwrap_or_default();
            let note =
                if row.note.is_empty() { String::new() } else { format!(". {}", row.note.trim_end_matches('.')) };
            table +=
                &format!("| `{table_of}{}` |{option} |{variable} | {}{note} | {} |\n", row.name, row.help, row.default);
        }
    }
    table
}
