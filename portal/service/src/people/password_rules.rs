//! Which passwords are refused: short ones, trivial ones, and those that are known from breaches.
//!
//! No rule asks for kinds of characters (NIST SP 800-63B, 5.1.1.2). The known ones are in a list on
//! the host's disk, in the form in which the breached ones are published: sorted hashes (SHA-1, in
//! hexadecimal, a line each, a count behind a colon). It is searched in place: it has tens of
//! gigabytes.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::fault::Fault;
use crate::secret::hex;

/// Characters that a password has at least.
pub const CHARACTERS_MIN: usize = 12;
/// Bytes that a password has at most.
pub const BYTES_MAX: usize = 1_024;
/// Characters of a hash in the list.
const HASH_CHARACTERS: u64 = 40;
/// A line of the list is no longer.
const LINE_BYTES_MAX: u64 = 128;

/// Passwords of twelve characters and more that everybody tries first.
const COMMON: &str = include_str!("common_passwords.txt");

/// Checks a new password of somebody who has these names.
///
/// # Errors
/// [`Fault`] of the field `password`.
pub fn check(password: &str, names: &[&str], list: Option<&Path>) -> Result<(), Fault> {
    let refused = |detail: &str| Err(Fault::of_field("password", detail));
    if password.chars().count() < CHARACTERS_MIN {
        return refused("the password has fewer than 12 characters");
    }
    if password.len() > BYTES_MAX {
        return refused("the password has more than 1024 bytes");
    }
    if is_trivial(password, names) {
        return refused("the password is a simple pattern, or made of your name: choose another");
    }
    let folded = password.to_lowercase();
    if COMMON.lines().any(|common| common == folded) {
        return refused("the password is one that everybody tries first: choose another");
    }
    match list.map(|list| is_listed(list, password)).transpose() {
        Ok(Some(true)) => refused("the password is known from a breach: choose another"),
        Ok(_) => Ok(()),
        Err(error) => {
            let list = list.map(PathBuf::from).unwrap_or_default();
            Err(Fault::internal(format!("the list of breached passwords {} cannot be read: {error}", list.display())))
        }
    }
}

/// Looks whether a list can be read, and is one: it is searched only when somebody chooses a
/// password.
///
/// # Errors
/// If it cannot be read, or its first line is no hash.
pub fn check_list(list: &Path) -> io::Result<()> {
    let mut begin = Vec::new();
    File::open(list)?.take(HASH_CHARACTERS).read_to_end(&mut begin)?;
    if begin.len() as u64 == HASH_CHARACTERS && begin.iter().all(u8::is_ascii_hexdigit) {
        return Ok(());
    }
    Err(io::Error::other("its first line is no hash (SHA-1, 40 hexadecimal digits): it must be a list of them, sorted"))
}

/// Whether a password is in a sorted list of hashes.
///
/// # Errors
/// If the list cannot be read.
pub fn is_listed(list: &Path, password: &str) -> io::Result<bool> {
    let wanted = hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes()).as_ref()).to_uppercase();
    let mut file = File::open(list)?;
    let (mut low, mut high) = (0, file.seek(SeekFrom::End(0))?);
    // Between `low`, where a line begins, and `high`, the line would be.
    while low < high {
        let middle = low + (high - low) / 2;
        let (begin, line) = line_at(&mut file, low, middle)?;
        let hash = line.split(':').next().unwrap_or_default().trim().to_uppercase();
        match hash.as_str().cmp(wanted.as_str()) {
            std::cmp::Ordering::Equal => return Ok(true),
            std::cmp::Ordering::Less => low = begin + line.len() as u64,
            std::cmp::Ordering::Greater => high = begin,
        }
    }
    Ok(false)
}

/// One character or a short piece again and again, a row of the keyboard or of the alphabet, or
/// little more than a name.
fn is_trivial(password: &str, names: &[&str]) -> bool {
    let folded: Vec<char> = password.to_lowercase().chars().collect();
    let repeats = (1..=4).any(|period| folded.iter().skip(period).eq(&folded[..folded.len() - period]));
    let steps = folded.windows(2).filter(|pair| {
        let step = i64::from(u32::from(pair[1])) - i64::from(u32::from(pair[0]));
        step.abs() <= 1
    });
    let climbs = steps.count() + 2 >= folded.len();
    let text: String = folded.iter().collect();
    let named = names.iter().filter(|name| name.len() >= 3).any(|name| {
        let name = name.to_lowercase();
        text.contains(&name) && text.replace(&name, "").chars().count() < 4
    });
    repeats || climbs || beside_rows(&folded) < 4 || named || is_of_words_that_all_know(&folded)
}

/// Words that stand for "password" everywhere, and those of this service.
const KNOWN_WORDS: [&str; 16] = [
    "password",
    "passwort",
    "passwd",
    "changeme",
    "letmein",
    "welcome",
    "secret",
    "admin",
    "administrator",
    "root",
    "login",
    "test",
    "culvert",
    "portal",
    "transfer",
    "node",
];

/// Whether nothing is in it but such words, digits and signs.
fn is_of_words_that_all_know(folded: &[char]) -> bool {
    let letters: String = folded.iter().filter(|character| character.is_alphabetic()).collect();
    let mut rest = letters.as_str();
    let mut longest_first = KNOWN_WORDS;
    longest_first.sort_unstable_by_key(|word| std::cmp::Reverse(word.len()));
    while let Some(word) = longest_first.iter().find(|word| rest.starts_with(**word)) {
        rest = &rest[word.len()..];
    }
    rest.is_empty() && !letters.is_empty()
}

/// How many characters are not in a piece of a keyboard's row, in either direction.
fn beside_rows(characters: &[char]) -> usize {
    const PIECE: usize = 3;
    let rows: Vec<String> = ["qwertyuiop", "qwertzuiop", "asdfghjkl", "zxcvbnm", "yxcvbnm", "1234567890"]
        .iter()
        .flat_map(|row| [(*row).to_owned(), row.chars().rev().collect()])
        .collect();
    let mut is_in_row = vec![false; characters.len()];
    for (at, piece) in characters.windows(PIECE).enumerate() {
        let piece: String = piece.iter().collect();
        if rows.iter().any(|row| row.contains(&piece)) {
            is_in_row[at..at + PIECE].fill(true);
        }
    }
    is_in_row.iter().filter(|is| !**is).count()
}

/// The line in which a place is, at or behind `low`, and where it begins.
fn line_at(file: &mut File, low: u64, place: u64) -> io::Result<(u64, String)> {
    let from = place.saturating_sub(LINE_BYTES_MAX).max(low);
    file.seek(SeekFrom::Start(from))?;
    let mut before = vec![0; usize::try_from(place - from).unwrap_or_default()];
    file.read_exact(&mut before)?;
    let begin = before.iter().rposition(|byte| *byte == b'\n').map_or(from, |at| from + at as u64 + 1);
    file.seek(SeekFrom::Start(begin))?;
    let mut line = String::new();
    BufReader::new(file.take(LINE_BYTES_MAX)).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::Error::other("a line is empty or too long: this is not a list of sorted hashes"));
    }
    Ok((begin, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(password: &str) -> String {
        check(password, &["ada", "ada lovelace", "ada@example.org"], None).unwrap_err().detail
    }

    #[test]
    fn short_trivial_and_common_ones_are_refused() {
        assert!(refusal("short").contains("fewer than 12"));
        assert!(refusal(&"x1".repeat(513)).contains("more than 1024"));
        for trivial in [
            "aaaaaaaaaaaa",
            "abababababab",
            "abcdefghijklm",
            "987654321098",
            "qwertyuiop12",
            "asdfghjklasdfghjkl",
            "ada lovelace",
            "Ada Lovelace1",
            "abcabcabcabc",
            "Password123!",
            "culvert-portal",
            "adminadmin123",
            "2026-culvert-admin",
        ] {
            assert!(refusal(trivial).contains("simple pattern"), "{trivial}");
        }
        assert!(refusal("1Q2W3E4R5T6Y").contains("everybody tries"));
        check("correct horse battery staple", &["ada"], None).unwrap();
        check("passwords of penguins", &["ada"], None).unwrap();
        check("4715 8230 9962", &["ada"], None).unwrap();
        check("äöüßäöüßéèêx", &["ada"], None).unwrap();
    }

    #[test]
    fn a_listed_one_is_found_wherever_it_is_in_the_list() {
        let words: Vec<String> = (0..2_000).map(|number| format!("a long password {number}")).collect();
        let mut lines: Vec<String> = words
            .iter()
            .map(|word| hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, word.as_bytes()).as_ref()).to_uppercase())
            .zip(1..)
            .map(|(hash, count): (String, u32)| format!("{hash}:{count}\r\n"))
            .collect();
        lines.sort();
        let list = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(list.path(), lines.concat()).unwrap();
        for word in &words {
            assert!(is_listed(list.path(), word).unwrap(), "{word}");
        }
        for number in 0..2_000 {
            assert!(!is_listed(list.path(), &format!("another password {number}")).unwrap());
        }
        let detail = check(&words[7], &[], Some(list.path())).unwrap_err().detail;
        assert!(detail.contains("known from a breach"), "{detail}");
    }

    #[test]
    fn a_list_that_cannot_be_read_refuses_rather_than_permits() {
        let fault = check("correct horse battery staple", &[], Some(Path::new("/nowhere"))).unwrap_err();
        assert!(fault.log.unwrap().contains("/nowhere"));
        let list = tempfile::NamedTempFile::new().unwrap();
        assert!(!is_listed(list.path(), "correct horse battery staple").unwrap(), "an empty list has none");
        std::fs::write(list.path(), [0; 10_000]).unwrap();
        let _ = is_listed(list.path(), "correct horse battery staple");
    }
}
