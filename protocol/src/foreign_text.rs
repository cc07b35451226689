//! Foreign text, made safe for a terminal, a log, a record and a label.
//!
//! All text from a partner, a stranger or a far end passes through [`foreign_text`], and every file
//! name through [`crate::names::printable`], which escapes the same characters. Messages do this
//! where they are decoded, so code that prints them need not consider it. The result cannot move a
//! cursor, end a line, reverse the direction of writing, hide anything or flood anything: it has at
//! most [`TEXT_BYTES_MAX`] bytes.

use serde::{Deserialize as _, Deserializer};

/// The longest foreign text. A sentence with a path or two fits; a thousand of them are a megabyte.
pub const TEXT_BYTES_MAX: usize = 1 << 10;
/// The longest name of a file as text: as many bytes as the name itself may have.
pub const NAME_TEXT_BYTES_MAX: usize = 4 << 10;

/// Whether a character is visible and shows nothing but itself.
///
/// Not plain are control characters, line separators, everything that changes the direction of
/// writing, and zero-width characters: with these a text can look like another, or like several
/// lines from another source.
#[must_use]
pub const fn is_plain(character: char) -> bool {
    !matches!(
        character,
        '\u{0}'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            // Soft hyphen, combining grapheme joiner.
            | '\u{ad}' | '\u{34f}'
            // Arabic letter mark, Hangul fillers, Khmer inherent vowels, Mongolian separators.
            | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            // Zero width, directional marks; line and paragraph separators, embeddings and
            // overrides.
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            // Word joiner, invisible operators, isolates, deprecated format characters.
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            // Shorthand and musical format controls, tags, and the variation selectors next to
            // them.
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Appends a character, escaped unless it is plain.
pub(crate) fn push_plain(character: char, out: &mut String) {
    if is_plain(character) { out.push(character) } else { out.extend(character.escape_default()) }
}

/// Sanitizes foreign text: characters that are not plain are escaped, and a text that is too long
/// loses its middle, which is marked. Sanitizing twice changes nothing.
#[must_use]
pub fn foreign_text(text: &str) -> String {
    bounded(text, TEXT_BYTES_MAX)
}

/// As [`foreign_text`], for the printed name of a file.
#[must_use]
pub fn foreign_name(name: &str) -> String {
    bounded(name, NAME_TEXT_BYTES_MAX)
}

/// This program's own text that may quote others: characters that are not plain are escaped, except
/// line breaks and tabs. The last safeguard before a terminal, for texts of any length.
#[must_use]
pub fn plain_lines(text: &str) -> std::borrow::Cow<'_, str> {
    let may = |character: char| is_plain(character) || matches!(character, '\n' | '\t');
    if text.chars().all(may) {
        return text.into();
    }
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if may(character) { plain.push(character) } else { push_plain(character, &mut plain) }
    }
    plain.into()
}

/// Equivalent JSON whose strings contain only plain characters: all others are written as `\uXXXX`.
#[must_use]
pub fn plain_json(json: &str) -> std::borrow::Cow<'_, str> {
    if json.chars().all(is_plain) {
        return json.into();
    }
    let mut plain = String::with_capacity(json.len());
    for character in json.chars() {
        if is_plain(character) {
            plain.push(character);
        } else {
            // Outside of strings JSON has no such characters, and inside it escapes controls
            // itself.
            for unit in character.encode_utf16(&mut [0; 2]) {
                plain.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    plain.into()
}

/// Reads a text as [`foreign_text`]; for `#[serde(deserialize_with = …)]`.
///
/// # Errors
/// The decoder's.
pub fn deserialize<'de, D: Deserializer<'de>>(decoder: D) -> Result<String, D::Error> {
    String::deserialize(decoder).map(|text| foreign_text(&text))
}

/// Reads a text as [`foreign_name`].
///
/// # Errors
/// The decoder's.
pub fn deserialize_name<'de, D: Deserializer<'de>>(decoder: D) -> Result<String, D::Error> {
    String::deserialize(decoder).map(|name| foreign_name(&name))
}

fn bounded(text: &str, bytes_max: usize) -> String {
    let mut whole = String::with_capacity(text.len().min(bytes_max));
    for character in text.chars() {
        push_plain(character, &mut whole);
        if whole.len() > bytes_max {
            return without_middle(text, bytes_max);
        }
    }
    whole
}

/// The beginning, which says what it is about, and the end, which says what to do.
fn without_middle(text: &str, bytes_max: usize) -> String {
    // The mark has fewer than 64 bytes.
    let (head_max, tail_max) = ((bytes_max / 8).saturating_mul(5), (bytes_max / 16).saturating_mul(5));
    let (mut head, mut piece) = (String::with_capacity(bytes_max), String::new());
    let mut taken = 0usize;
    for character in text.chars() {
        piece.clear();
        push_plain(character, &mut piece);
        if head.len().saturating_add(piece.len()) > head_max {
            break;
        }
        head.push_str(&piece);
        taken = taken.saturating_add(character.len_utf8());
    }
    let (mut tail, mut tail_bytes) = (Vec::new(), 0usize);
    for character in text.chars().rev() {
        piece.clear();
        push_plain(character, &mut piece);
        tail_bytes = tail_bytes.saturating_add(piece.len());
        if tail_bytes > tail_max {
            break;
        }
        tail.push(piece.clone());
        taken = taken.saturating_add(character.len_utf8());
    }
    head.push_str(&format!(" …[{} bytes left out]… ", text.len().saturating_sub(taken)));
    tail.iter().rev().for_each(|piece| head.push_str(piece));
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_moves_hides_or_turns_is_escaped() {
        assert_eq!(foreign_text("a\nb\x1b[2Jc"), "a\\nb\\u{1b}[2Jc");
        for hidden in "\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\u{200e}\u{200f}\u{61c}\u{200b}\u{2028}\u{feff}\u{85}\u{e0041}".chars() {
            assert!(!is_plain(hidden), "{:x}", u32::from(hidden));
            assert!(!foreign_text(&format!("x{hidden}y")).contains(hidden));
        }
        for plain in ["file name.txt", "Größe – naïve „quoted“ 東京 שלום مرحبا", "100 % → done"] {
            assert_eq!(foreign_text(plain), plain);
        }
    }

    #[test]
    fn a_long_text_keeps_its_ends_and_says_that_it_was_cut() {
        let text = format!("'{}' does not exist: check the path", "\u{1b}".repeat(100_000));
        let cut = foreign_text(&text);
        assert!(cut.len() <= TEXT_BYTES_MAX, "{}", cut.len());
        assert!(cut.starts_with("'\\u{1b}") && cut.ends_with("does not exist: check the path"), "{cut}");
        assert!(cut.contains("bytes left out]"), "{cut}");
    }

    #[test]
    fn lines_stay_lines_and_json_means_the_same() {
        assert_eq!(plain_lines("a\n\tb"), "a\n\tb");
        assert_eq!(plain_lines("a\n\u{1b}[2J\u{202e}"), "a\n\\u{1b}[2J\\u{202e}");
        let text = "a\u{202e}b\u{e0041}c\u{1b}d\u{feff}ä";
        let json = serde_json::to_string(text).unwrap();
        let plain = plain_json(&json);
        assert!(plain.chars().all(is_plain), "{plain}");
        assert_eq!(serde_json::from_str::<String>(&plain).unwrap(), text);
    }

    proptest! {
        #[test]
        fn any_text_is_plain_bounded_and_made_once(text in proptest::collection::vec(any::<char>(), 0..3_000)) {
            let text: String = text.into_iter().collect();
            let made = foreign_text(&text);
            prop_assert!(made.len() <= TEXT_BYTES_MAX && made.chars().all(is_plain));
            prop_assert_eq!(foreign_text(&made), made);
            prop_assert!(foreign_name(&text).len() <= NAME_TEXT_BYTES_MAX);
        }
    }
}
