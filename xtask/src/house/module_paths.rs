//! The paths that a source names: in `use` declarations, in code, in macros' arguments.
//!
//! Tokens suffice, and they reach into macros, which a syntax tree does not. Code that is compiled
//! for tests only is skipped.

use anyhow::anyhow;
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::sources::Source;

/// A path as it is written, with at least two segments unless a `use` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenPath {
    pub segments: Vec<String>,
    /// Modules within the file that it is written in, outermost first.
    pub inside: Vec<String>,
    pub line: usize,
}

/// All paths of a source, in its order.
pub fn paths_of(source: &Source) -> anyhow::Result<Vec<WrittenPath>> {
    let tokens: TokenStream =
        source.text.parse().map_err(|error| anyhow!("{}: not Rust: {error}", source.path.display()))?;
    let mut reader = Reader { found: Vec::new(), inside: Vec::new() };
    reader.read(tokens);
    Ok(reader.found)
}

struct Reader {
    found: Vec<WrittenPath>,
    inside: Vec<String>,
}

impl Reader {
    fn read(&mut self, stream: TokenStream) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            if is_for_tests(&tokens[at..]) {
                at += item_length(&tokens[at..]);
                continue;
            }
            at += match &tokens[at] {
                TokenTree::Ident(word) if word == "use" => self.read_use(&tokens[at..]),
                TokenTree::Ident(word) if word == "mod" => self.read_module(&tokens[at..]),
                TokenTree::Ident(_) => self.read_path(&tokens[at..]),
                TokenTree::Group(group) => {
                    self.read(group.stream());
                    1
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => 1,
            };
        }
    }

    /// `use …;`: returns the number of tokens.
    fn read_use(&mut self, tokens: &[TokenTree]) -> usize {
        let end = tokens.iter().position(|token| is_punct(token, ';')).unwrap_or(tokens.len());
        self.read_tree(&tokens[1..end], &[]);
        end
    }

    /// A tree of a `use` declaration, below what stands before its brace.
    fn read_tree(&mut self, tokens: &[TokenTree], before: &[String]) {
        let mut segments = before.to_vec();
        for token in tokens {
            match token {
                TokenTree::Ident(word) if word == "as" => break,
                TokenTree::Ident(word) => segments.push(word.to_string()),
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    for branch in inner.split(|token| is_punct(token, ',')).filter(|branch| !branch.is_empty()) {
                        self.read_tree(branch, &segments);
                    }
                    return;
                }
                _ => {}
            }
        }
        if let Some(first) = tokens.first()
            && !segments.is_empty()
        {
            self.push(segments, first.span().start().line);
        }
    }

    /// `mod name { … }`: reads its contents as inside the module. Returns the number of tokens.
    fn read_module(&mut self, tokens: &[TokenTree]) -> usize {
        if let [_, TokenTree::Ident(name), TokenTree::Group(body), ..] = tokens {
            self.inside.push(name.to_string());
            self.read(body.stream());
            self.inside.pop();
            return 3;
        }
        1
    }

    /// A path in code: returns the number of tokens.
    fn read_path(&mut self, tokens: &[TokenTree]) -> usize {
        let mut segments = Vec::new();
        let mut length = 0;
        while let Some(TokenTree::Ident(word)) = tokens.get(length) {
            segments.push(word.to_string());
            length += 1;
            let is_followed = tokens.get(length).is_some_and(|token| is_punct(token, ':'))
                && tokens.get(length + 1).is_some_and(|token| is_punct(token, ':'));
            if !is_followed {
                break;
            }
            length += 2;
        }
        if segments.len() > 1 {
            self.push(segments, tokens[0].span().start().line);
        }
        length
    }

    fn push(&mut self, segments: Vec<String>, line: usize) {
        self.found.push(WrittenPath { segments, inside: self.inside.clone(), line });
    }
}

fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

/// Whether an attribute follows that keeps an item for tests: `#[cfg(test)]`, `#[test]`.
fn is_for_tests(tokens: &[TokenTree]) -> bool {
    let [first, TokenTree::Group(group), ..] = tokens else { return false };
    let attribute = group.stream().to_string().replace(' ', "");
    is_punct(first, '#') && matches!(attribute.as_str(), "cfg(test)" | "test" | "cfg(all(test,loom))")
}

/// The length of an item with its attributes: to its semicolon or its braces.
fn item_length(tokens: &[TokenTree]) -> usize {
    let ends = |token: &TokenTree| {
        let is_body = matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
        is_body || is_punct(token, ';')
    };
    tokens.iter().position(ends).map_or(tokens.len(), |last| last + 1)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn written(code: &str) -> Vec<String> {
        let source = Source { path: PathBuf::from("x.rs"), text: code.to_owned() };
        let joined = |path: &WrittenPath| [path.inside.clone(), path.segments.clone()].concat().join("::");
        paths_of(&source).unwrap().iter().map(joined).collect()
    }

    #[test]
    fn trees_of_use_are_spread_out() {
        let code = "pub use crate::{a::{B, c as d, self}, e};\nuse super::f::*;";
        assert_eq!(written(code), ["crate::a::B", "crate::a::c", "crate::a::self", "crate::e", "super::f"]);
    }

    #[test]
    fn paths_are_found_in_code_and_in_macros() {
        let code = "fn f() -> crate::a::B { println!(\"{}\", super::c::d()); let x: Vec<e::F> = Vec::new(); }";
        assert_eq!(written(code), ["crate::a::B", "super::c::d", "e::F", "Vec::new"]);
    }

    #[test]
    fn what_is_for_tests_only_is_passed_over() {
        let code = "#[cfg(test)]\nmod tests { use super::*; use crate::a; }\n#[cfg(test)] use crate::b;\nuse crate::c;";
        assert_eq!(written(code), ["crate::c"]);
    }

    #[test]
    fn lines_and_modules_within_a_file_are_told() {
        let source = Source { path: PathBuf::from("x.rs"), text: "mod inner {\n    use super::a;\n}".to_owned() };
        let expected = WrittenPath {
            segments: vec!["super".to_owned(), "a".to_owned()],
            inside: vec!["inner".to_owned()],
            line: 2,
        };
        assert_eq!(paths_of(&source).unwrap(), [expected]);
    }

    #[test]
    fn what_is_not_rust_is_named() {
        let source = Source { path: PathBuf::from("x.rs"), text: "fn f( {".to_owned() };
        assert!(paths_of(&source).unwrap_err().to_string().starts_with("x.rs: not Rust: "));
    }
}
