//! Text for people counts in one way: "1 files" appeared wherever nobody had thought of one.

use culvert_tests::sources::of_product;

/// What is counted in text for people. Bytes and times have units, which are the same for one.
const NOUNS: [&str; 40] = [
    "attempts",
    "buckets",
    "buffers",
    "channels",
    "chunks",
    "connections",
    "copies",
    "cores",
    "documents",
    "drops",
    "entries",
    "errors",
    "files",
    "findings",
    "flows",
    "frames",
    "groups",
    "hashes",
    "hops",
    "interrupts",
    "keys",
    "lanes",
    "lines",
    "messages",
    "packets",
    "pages",
    "pairs",
    "partners",
    "ports",
    "probes",
    "queues",
    "records",
    "segments",
    "settings",
    "sources",
    "streams",
    "times",
    "trains",
    "transfers",
    "tries",
];

/// Lines in which a name precedes the noun.
const NAMES: [&str; 1] = [r#"Self::Channels { link } => write!(out, "{link} channels"),"#];

/// The noun in a format string that follows a number directly, or after an adjective.
fn counted_by_hand(line: &str) -> Option<&str> {
    line.match_indices("} ").find_map(|(at, _)| {
        // A closing brace in code is at the beginning of the line or has a blank before it.
        let before = line.get(..at)?;
        let begin = before.rfind('{')?;
        let name = before.get(begin + 1..)?;
        let is_placeholder = name.chars().all(|one| one.is_ascii_alphanumeric() || "_:.?<>,".contains(one));
        // A constant is known to be more than one.
        let is_constant = name.len() > 1 && name.chars().all(|one| one.is_ascii_uppercase() || one == '_');
        let mut words = line.get(at + 2..)?.split(|one: char| !one.is_ascii_alphabetic());
        let word = words.next()?;
        (is_placeholder && !is_constant && before.contains('"') && NOUNS.contains(&word)).then_some(word)
    })
}

/// There can be one of each of these.
#[test]
fn every_count_in_a_text_for_people_is_made_by_one_helper() {
    let mut by_hand = Vec::new();
    for file in of_product() {
        let product = file.code();
        for (number, line) in (1..).zip(product.lines()) {
            let line = line.trim_start();
            if line.starts_with("//") || line.contains("assert") {
                continue;
            }
            // A text may continue from the line before: then it has no quotation mark in front.
            let told = format!("\"{line}");
            if NAMES.contains(&line.trim()) {
                continue;
            }
            if let Some(noun) = counted_by_hand(&told) {
                by_hand.push(format!("{}:{number}: {noun}: {line}", file.path.display()));
            }
        }
    }
    assert!(by_hand.is_empty(), "use culvert_protocol::counted:\n{}", by_hand.join("\n"));
}

#[test]
fn a_count_by_hand_is_found() {
    for line in ["format!(\"{} files are there\", 1)", "\"{count} transfers were", "say(\"{:>3} lanes\")"] {
        assert!(counted_by_hand(line).is_some(), "{line}");
    }
    for line in ["format!(\"{} is there\", 1)", "match \"\" { a => {} } files", "\"{bytes} bytes of the files\""] {
        assert_eq!(counted_by_hand(line), None, "{line}");
    }
}
