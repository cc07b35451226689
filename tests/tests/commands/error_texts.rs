//! What errors look like: all error texts in the sources, and some that the program prints.

use culvert_tests::node::Pair;
use culvert_tests::program::run;
use culvert_tests::sources::of_product;

/// Code that makes errors, up to the text.
const MAKERS: [&str; 6] = [
    "#[error(",
    "CommandError::usage(",
    "CommandError::failed(",
    "CommandError::new(",
    "Refusal::new(",
    "TransferError::here(",
];
/// Words that engineers would not use, or that say nothing.
const BANNED: [&str; 12] = [
    "oops",
    "sorry",
    "please",
    "unknown error",
    "something went wrong",
    "invalid argument",
    "illegal",
    "gone mad",
    "for a person to",
    "successfully",
    "!!",
    "??",
];

/// The string literal that is the text of an error, if one follows its maker before anything else
/// that could be the text.
fn text_of(mut rest: &str) -> Option<String> {
    // Skips a code, and a macro that formats the text.
    for _ in 0..3 {
        rest = rest.trim_start();
        if let Some(literal) = rest.strip_prefix('"') {
            return Some(unescaped(literal));
        }
        if let Some(format) = rest.strip_prefix("format!(") {
            rest = format;
            continue;
        }
        let word =
            rest.find(|character: char| !character.is_ascii_alphanumeric() && !matches!(character, ':' | '_'))?;
        rest = rest.get(word..)?.strip_prefix(',')?;
    }
    None
}

fn unescaped(literal: &str) -> String {
    let mut text = String::new();
    let mut characters = literal.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => match characters.next() {
                // A line that continues after the white space of the next one.
                Some('\n') => {
                    let rest = characters.as_str().trim_start();
                    characters = rest.chars();
                }
                Some(escaped) => text.push(escaped),
                None => break,
            },
            character => text.push(character),
        }
    }
    text
}

fn fault_of(text: &str) -> Option<String> {
    let first = text.split_whitespace().next().unwrap_or_default();
    // Names that are written in capitals: UDP, AF_XDP.
    let is_name = first.chars().all(|character| !character.is_lowercase());
    if text.starts_with(char::is_uppercase) && !is_name {
        return Some("it begins with a capital".to_owned());
    }
    if text.ends_with('.') || text.ends_with(' ') {
        return Some("it ends with a period or a space".to_owned());
    }
    if text.contains("  ") {
        return Some("it has two spaces".to_owned());
    }
    if text.contains("(os error") {
        return Some("it has a number of the operating system".to_owned());
    }
    let lower = text.to_lowercase();
    BANNED.iter().find(|word| lower.contains(*word)).map(|word| format!("it says '{word}'"))
}

#[test]
fn the_texts_of_errors_have_one_form() {
    let (mut count, mut faults) = (0, Vec::new());
    for file in of_product() {
        let source = file.code();
        for maker in MAKERS {
            for (at, _) in source.match_indices(maker) {
                let Some(text) = text_of(&source[at + maker.len()..]) else { continue };
                count += 1;
                faults.extend(fault_of(&text).map(|fault| format!("{}: {fault}: {text}", file.path.display())));
            }
        }
    }
    assert!(count > 250, "only {count} texts were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn errors_of_the_system_are_words_and_what_is_missing_names_its_host() {
    let pair = Pair::new();
    let _node = pair.start();
    for (arguments, words) in [
        (&["transfer", "receipt", "/proc/1/mem"][..], "/proc/1/mem"),
        (&["send", "/not/there", "second:/x"], "/not/there"),
        (&["demo", "--directory", "/proc/no"], "/proc/no"),
    ] {
        let ran = run(&pair.here, arguments);
        assert_ne!(ran.code, 0);
        assert!(ran.err.contains(words) && !ran.err.contains("(os error"), "{ran:?}");
    }
    // The sentence used not to say on whose disk it is missing.
    let missing = pair.get("not-there", &pair.path("back"), &[]).exits(3);
    assert!(missing.err.contains("second: ") && missing.err.contains("not-there"), "{missing:?}");
}
