//! Quotes of rules in a source: a line `//= W-8`, and below it lines `//# …` with words of the
//! rule.

/// A quote, complete or not.
#[derive(Debug, PartialEq, Eq)]
pub struct Quote {
    /// The line of its `//=`, or of its first `//#` if it has no such line; the first is 1.
    pub line: usize,
    /// What its `//=` line names.
    pub rule: Option<String>,
    /// Its words, a space between two.
    pub text: String,
}

/// The quotes of a source, in its order.
pub fn quotes_of(source: &str) -> Vec<Quote> {
    let mut quotes: Vec<Quote> = Vec::new();
    let mut is_open = false;
    for (at, line) in source.lines().enumerate() {
        let line = line.trim();
        if let Some(rule) = line.strip_prefix("//=") {
            quotes.push(Quote { line: at + 1, rule: Some(rule.trim().to_owned()), text: String::new() });
            is_open = true;
        } else if let Some(words) = line.strip_prefix("//#") {
            if !is_open {
                quotes.push(Quote { line: at + 1, rule: None, text: String::new() });
                is_open = true;
            }
            let quote = quotes.last_mut().expect("a quote is open");
            for word in words.split_whitespace() {
                if !quote.text.is_empty() {
                    quote.text.push(' ');
                }
                quote.text.push_str(word);
            }
        } else {
            is_open = false;
        }
    }
    quotes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quote(line: usize, rule: Option<&str>, text: &str) -> Quote {
        Quote { line, rule: rule.map(str::to_owned), text: text.to_owned() }
    }

    #[test]
    fn lines_of_a_quote_are_joined() {
        let source = "fn f() {\n    //= W-8\n    //# A number\n    //#   is  never\n    //= P-1\n    //# A probe\n}\n";
        assert_eq!(quotes_of(source), [quote(2, Some("W-8"), "A number is never"), quote(5, Some("P-1"), "A probe")]);
    }

    #[test]
    fn a_line_of_code_ends_a_quote() {
        let source = "//= W-8\nlet x;\n//# A number\n//# is";
        assert_eq!(quotes_of(source), [quote(1, Some("W-8"), ""), quote(3, None, "A number is")]);
    }
}
