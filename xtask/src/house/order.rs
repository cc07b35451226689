//! The reading order of a file: what it offers comes first, helpers follow.

use syn::{Item, Visibility};

use super::finding::Finding;
use super::sources::{Source, Tree};
use super::test_code::{is_conditional, parse};

/// Private functions above the last public function, struct, enum or trait of their file.
///
/// # Errors
/// If a source is not Rust.
pub fn check(tree: &Tree) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for source in tree.sources() {
        findings.extend(check_source(source)?);
    }
    Ok(findings)
}

fn check_source(source: &Source) -> anyhow::Result<Vec<Finding>> {
    let items = parse(source)?.items;
    let Some(last) = items.iter().rposition(is_public) else { return Ok(Vec::new()) };
    let private = items[..last].iter().filter_map(|item| match item {
        Item::Fn(function) if !is_offered(&function.vis) && !is_conditional(&function.attrs) => {
            Some(&function.sig.ident)
        }
        _ => None,
    });
    let finding = |name: &proc_macro2::Ident| {
        let text = format!("private function {name} stands above public items: move it below them");
        Finding::of_line(&source.path, name.span().start().line, text)
    };
    Ok(private.map(finding).collect())
}

fn is_public(item: &Item) -> bool {
    match item {
        Item::Fn(item) => is_offered(&item.vis),
        Item::Struct(item) => is_offered(&item.vis),
        Item::Enum(item) => is_offered(&item.vis),
        Item::Trait(item) => is_offered(&item.vis),
        _ => false,
    }
}

/// Whether other modules see an item: `pub`, `pub(crate)` and their kind.
fn is_offered(visibility: &Visibility) -> bool {
    !matches!(visibility, Visibility::Inherited)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn found(text: &str) -> Vec<String> {
        let source = Source { path: PathBuf::from("a.rs"), text: text.to_owned() };
        check_source(&source).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_private_function_above_a_public_item_is_found() {
        for public in ["pub fn f() {}", "pub(crate) struct S;", "pub(super) enum E {}", "pub trait T {}"] {
            assert_eq!(
                found(&format!("/// One.\nfn one() {{}}\n{public}\nfn two() {{}}")),
                ["a.rs:2: private function one stands above public items: move it below them"]
            );
        }
    }

    #[test]
    fn helpers_below_conditional_functions_and_tests_are_in_order() {
        assert_eq!(found("pub fn f() {}\nfn one() {}"), Vec::<String>::new());
        assert_eq!(found("#[cfg(unix)]\nfn one() {}\npub fn f() {}"), Vec::<String>::new());
        assert_eq!(found("#[cfg(test)]\nmod tests { fn one() {} }\npub fn f() {}"), Vec::<String>::new());
        assert_eq!(found("fn one() {}\nstruct S;\npub use a::B;\npub const C: u32 = 1;"), Vec::<String>::new());
    }
}
