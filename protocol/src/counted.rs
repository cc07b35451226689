//! Numbers of things in texts for people, with the words that go with them: `1 file is`,
//! `2,000 files are`. Every count in a text that people read is made here, so that one of a kind is
//! not called several.

/// A number of things with a separator every three digits.
#[must_use]
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && digits.len().saturating_sub(at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// The one word for one, the other for any other number.
#[must_use]
pub fn agree<'a>(count: impl TryInto<u64>, one: &'a str, many: &'a str) -> &'a str {
    if number(count) == 1 { one } else { many }
}

/// A noun, as its number wants it.
#[must_use]
pub fn noun(count: impl TryInto<u64>, one: &str) -> String {
    if number(count) == 1 {
        return one.to_owned();
    }
    match one.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ if one.ends_with(['s', 'x']) || one.ends_with("ch") || one.ends_with("sh") => format!("{one}es"),
        _ => format!("{one}s"),
    }
}

/// How many of what: `1 lane`, `0 lanes`, `1,200 copies`.
#[must_use]
pub fn counted(count: impl TryInto<u64>, one: &str) -> String {
    let count = number(count);
    format!("{} {}", grouped(count), noun(count, one))
}

/// A count, whatever number it comes as.
fn number(count: impl TryInto<u64>) -> u64 {
    // No count is negative.
    count.try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_agree_with_their_numbers() {
        let told = [0_u64, 1, 2, 1_234_567].map(|count| counted(count, "file"));
        assert_eq!(told, ["0 files", "1 file", "2 files", "1,234,567 files"]);
        assert_eq!(
            [counted(2_u32, "copy"), counted(1_usize, "copy"), counted(3_i32, "key")],
            ["2 copies", "1 copy", "3 keys"]
        );
        assert_eq!(
            [noun(2_u8, "address"), noun(2_u8, "match"), noun(2_u8, "whole file")],
            ["addresses", "matches", "whole files"]
        );
        assert_eq!(
            [agree(1_u64, "is", "are"), agree(0_u64, "is", "are"), agree(2_u64, "is", "are")],
            ["is", "are", "are"]
        );
    }
}
