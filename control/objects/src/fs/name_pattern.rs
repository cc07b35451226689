//! Shell patterns of file names: `*`, `?` and `[…]` in one component of a path.
//!
//! Names are bytes. UTF-8 is matched by characters, everything else by bytes, so that names that
//! are not text can be matched too. Matching takes at most as many steps as the product of both
//! lengths, whatever pattern a partner sends.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

/// A character's code point; or, above all code points, a byte that is part of no character.
type Unit = u32;

/// The first unit above all code points.
const BYTES_BEGIN: Unit = 0x11_0000;

/// A component of a path with `*`, `?`, `[…]` or a backslash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// `*`
    AnyNumber,
    /// `?`
    AnyOne,
    /// `[a-z]`, `[!a-z]` or `[^a-z]`
    OneOf { ranges: Vec<(Unit, Unit)>, is_negated: bool },
    /// A literal, including any unit after a backslash.
    This(Unit),
}

impl NamePattern {
    /// Parses a component; `None` if it can match only itself.
    #[must_use]
    pub fn new(component: &[u8]) -> Option<Self> {
        let units = units_of(component);
        let (mut parts, mut is_pattern) = (Vec::new(), false);
        let mut rest = units.as_slice();
        while let [unit, after @ ..] = rest {
            rest = after;
            let part = match char::from_u32(*unit) {
                Some('*') => Part::AnyNumber,
                Some('?') => Part::AnyOne,
                Some('[') => match class(after) {
                    Some((class, after_class)) => {
                        rest = after_class;
                        class
                    }
                    None => Part::This(*unit),
                },
                Some('\\') if !after.is_empty() => {
                    is_pattern = true;
                    let (escaped, after_escaped) = after.split_first().unwrap_or((unit, after));
                    rest = after_escaped;
                    Part::This(*escaped)
                }
                _ => Part::This(*unit),
            };
            is_pattern |= !matches!(part, Part::This(_));
            // Adjacent stars equal one.
            if part != Part::AnyNumber || parts.last() != Some(&Part::AnyNumber) {
                parts.push(part);
            }
        }
        is_pattern.then_some(Self { parts })
    }

    /// Whether a name matches. As in shells, a leading dot must be written.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        if name.starts_with(b".") && self.parts.first() != Some(&Part::This(u32::from(b'.'))) {
            return false;
        }
        let (name, parts) = (units_of(name), self.parts.as_slice());
        let (mut name, mut parts) = (name.as_slice(), parts);
        // The pattern after the last star, and the name from where it is tried. Earlier stars need
        // no further attempts once a later one is reached.
        let mut star: Option<(&[Part], &[Unit])> = None;
        loop {
            match (parts.split_first(), name.split_first()) {
                (None, None) => return true,
                (Some((Part::AnyNumber, after)), _) => {
                    star = Some((after, name));
                    parts = after;
                    continue;
                }
                (Some((part, after)), Some((unit, rest))) if part.is(*unit) => {
                    (parts, name) = (after, rest);
                    continue;
                }
                _ => {}
            }
            // The star takes one more unit.
            let Some((after, [_, rest @ ..])) = star else { return false };
            star = Some((after, rest));
            (parts, name) = (after, rest);
        }
    }
}

impl Part {
    fn is(&self, unit: Unit) -> bool {
        match self {
            Self::AnyNumber => false,
            Self::AnyOne => true,
            Self::OneOf { ranges, is_negated } => {
                ranges.iter().any(|&(first, last)| (first..=last).contains(&unit)) != *is_negated
            }
            Self::This(this) => *this == unit,
        }
    }
}

/// The class that begins after a `[`, and what follows it; `None` if no `]` ends it.
fn class(units: &[Unit]) -> Option<(Part, &[Unit])> {
    let is = |unit: Unit, character: char| unit == u32::from(character);
    let (is_negated, mut rest) = match units.split_first() {
        Some((&first, after)) if is(first, '!') || is(first, '^') => (true, after),
        _ => (false, units),
    };
    let mut ranges = Vec::new();
    loop {
        let (&first, after) = rest.split_first()?;
        // A `]` in the first place belongs to the class.
        if is(first, ']') && !ranges.is_empty() {
            return Some((Part::OneOf { ranges, is_negated }, after));
        }
        match after {
            [dash, last, after_range @ ..] if is(*dash, '-') && !is(*last, ']') => {
                ranges.push((first, *last));
                rest = after_range;
            }
            _ => {
                ranges.push((first, first));
                rest = after;
            }
        }
    }
}

fn units_of(name: &[u8]) -> Vec<Unit> {
    let mut units = Vec::with_capacity(name.len());
    for part in name.utf8_chunks() {
        units.extend(part.valid().chars().map(u32::from));
        units.extend(part.invalid().iter().map(|&byte| BYTES_BEGIN | u32::from(byte)));
    }
    units
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        NamePattern::new(pattern.as_bytes()).unwrap().matches(name.as_bytes())
    }

    #[test]
    fn patterns_match_as_in_shells() {
        for (pattern, name) in [
            ("*", "a"),
            ("*.fits", "a.fits"),
            ("*.fits", "a.b.fits"),
            ("a*b*c", "a1b2b3c"),
            ("a**b", "ab"),
            ("?.txt", "é.txt"),
            ("[abc]x", "bx"),
            ("[a-c]x", "bx"),
            ("[!a-c]x", "dx"),
            ("[^a-c]x", "dx"),
            ("[]]", "]"),
            ("[!]]", "a"),
            ("[a-]", "-"),
            ("[é]", "é"),
            (".*", ".hidden"),
            ("\\*", "*"),
            ("[*]", "*"),
            ("a\\", "a\\"),
            ("*[", "x["),
        ] {
            let is_match = NamePattern::new(pattern.as_bytes()).map_or(pattern == name, |p| p.matches(name.as_bytes()));
            assert!(is_match, "{pattern} does not match {name}");
        }
        for (pattern, name) in [
            ("*.fits", ".fits"),
            ("*", ".hidden"),
            ("?hidden", ".hidden"),
            ("[.]hidden", ".hidden"),
            ("*.fits", "a.fits.gz"),
            ("?", "ab"),
            ("?", ""),
            ("[abc]", "d"),
            ("[!abc]", "a"),
            ("\\*", "a"),
            ("[z-a]", "m"),
        ] {
            assert!(!matches(pattern, name), "{pattern} matches {name}");
        }
    }

    #[test]
    fn names_are_no_patterns() {
        for name in ["a", "", "a[b", "[", "a]b", "[]", "[!", "ä{b,c}", "a\\"] {
            assert_eq!(NamePattern::new(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn a_byte_that_is_no_text_is_one_of_a_name() {
        let pattern = NamePattern::new(b"a?\xff*").unwrap();
        assert!(pattern.matches(b"a\xfe\xff") && !pattern.matches(b"a\xff\xfe"));
    }

    /// Backtracking over every star would take exponential time.
    #[test]
    fn many_stars_take_no_longer() {
        let pattern = NamePattern::new(&b"*a".repeat(120)).unwrap();
        assert!(!pattern.matches(&[b'a'; 119]) && pattern.matches(&[b'a'; 255]));
    }

    /// The reference: tries everything that a star may match.
    fn matches_slowly(parts: &[Part], name: &[Unit]) -> bool {
        match parts.split_first() {
            None => name.is_empty(),
            Some((Part::AnyNumber, after)) => (0..=name.len()).any(|taken| matches_slowly(after, &name[taken..])),
            Some((part, after)) => {
                name.split_first().is_some_and(|(unit, rest)| part.is(*unit) && matches_slowly(after, rest))
            }
        }
    }

    proptest! {
        #[test]
        fn it_matches_as_the_definition_says(pattern in "[ab*?\\[\\]!-]{0,8}", name in "[ab\\[-]{0,8}") {
            if let Some(pattern) = NamePattern::new(pattern.as_bytes()) {
                prop_assert_eq!(pattern.matches(name.as_bytes()), matches_slowly(&pattern.parts, &units_of(name.as_bytes())));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(pattern in proptest::collection::vec(any::<u8>(), 0..40), name in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = NamePattern::new(&pattern).map(|pattern| pattern.matches(&name));
        }
    }
}
