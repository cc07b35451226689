//! Which lines of the tree are tests.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use syn::spanned::Spanned as _;
use syn::{Attribute, Item, ItemMod};

use super::sources::{Crate, Source, Tree};

/// Crates whose whole code tests the others.
const TEST_CRATES: &[&str] = &["culvert-tests", "culvert-portal-tests", "culvert-simulator"];

/// What a line of a source serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The program.
    Code,
    /// A test.
    Test,
    /// An example or a benchmark.
    Other,
}

/// The roles of the lines of one source.
#[derive(Debug)]
pub struct Roles {
    whole: Role,
    /// Lines that are compiled for tests only.
    tests: Vec<RangeInclusive<usize>>,
}

impl Roles {
    /// The role of a line; the first is 1.
    pub fn of(&self, line: usize) -> Role {
        if self.tests.iter().any(|lines| lines.contains(&line)) { Role::Test } else { self.whole }
    }
}

/// Every source of the tree with the roles of its lines.
///
/// # Errors
/// If a source is not Rust.
pub fn sources_with_roles(tree: &Tree) -> anyhow::Result<Vec<(&Source, Roles)>> {
    let mut found = Vec::new();
    for one in &tree.crates {
        found.extend(sources_of_crate(one)?);
    }
    Ok(found)
}

/// Parses a source.
///
/// # Errors
/// If it is not Rust.
pub fn parse(source: &Source) -> anyhow::Result<syn::File> {
    syn::parse_file(&source.text).map_err(|error| anyhow!("{}: not Rust: {error}", source.path.display()))
}

/// Whether an item has a `#[cfg(…)]` attribute.
pub fn is_conditional(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| attribute.path().is_ident("cfg"))
}

fn sources_of_crate(one: &Crate) -> anyhow::Result<Vec<(&Source, Roles)>> {
    let is_test_crate = TEST_CRATES.contains(&one.name.as_str());
    let mut found = Vec::new();
    let mut test_modules = Vec::new();
    for source in &one.sources {
        let mut reader = Reader { module: module_directory(&source.path), lines: Vec::new(), files: Vec::new() };
        reader.read(&parse(source)?.items);
        test_modules.extend(reader.files);
        let whole = if is_test_crate { Role::Test } else { Role::Code };
        found.push((source, Roles { whole, tests: reader.lines }));
    }
    for (source, roles) in &mut found {
        let module = source.path.with_extension("");
        if test_modules.iter().any(|test| module.starts_with(test)) {
            roles.whole = Role::Test;
        }
    }
    let tests = one.directory.join("tests");
    for source in &one.beside {
        let whole = if is_test_crate || source.path.starts_with(&tests) { Role::Test } else { Role::Other };
        found.push((source, Roles { whole, tests: Vec::new() }));
    }
    Ok(found)
}

/// Collects what a file compiles for tests only.
struct Reader {
    /// The directory of the modules that are being read.
    module: PathBuf,
    lines: Vec<RangeInclusive<usize>>,
    /// Files of modules, without their extension.
    files: Vec<PathBuf>,
}

impl Reader {
    fn read(&mut self, items: &[Item]) {
        for item in items {
            if attributes_of(item).iter().any(is_for_tests) {
                let span = item.span();
                self.lines.push(span.start().line..=span.end().line);
                if let Item::Mod(ItemMod { ident, content: None, .. }) = item {
                    self.files.push(self.module.join(ident.to_string()));
                }
            } else if let Item::Mod(ItemMod { ident, content: Some((_, items)), .. }) = item {
                self.module.push(ident.to_string());
                self.read(items);
                self.module.pop();
            }
        }
    }
}

/// Where the modules below a file lie.
fn module_directory(path: &Path) -> PathBuf {
    let is_root = path.file_name().is_some_and(|name| name == "lib.rs" || name == "main.rs");
    if is_root { path.parent().unwrap_or(path).to_owned() } else { path.with_extension("") }
}

fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        _ => &[],
    }
}

/// Whether an attribute keeps an item for tests: `#[test]`, or a `#[cfg(…)]` that requires `test`.
fn is_for_tests(attribute: &Attribute) -> bool {
    if attribute.path().is_ident("test") {
        return true;
    }
    let condition = || attribute.meta.require_list().map(|list| list.tokens.to_string()).unwrap_or_default();
    attribute.path().is_ident("cfg") && {
        let condition = condition().replace(' ', "");
        condition == "test" || condition.starts_with("all(test,")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(files: &[(&str, &str)], name: &str) -> Vec<(String, Role)> {
        let source = |(path, text): &(&str, &str)| Source { path: PathBuf::from(path), text: (*text).to_owned() };
        let (beside, sources): (Vec<_>, Vec<_>) =
            files.iter().map(source).partition(|source| !source.path.starts_with("a/src"));
        let one = Crate {
            name: name.to_owned(),
            library: name.to_owned(),
            directory: PathBuf::from("a"),
            dependencies: Vec::new(),
            sources,
            beside,
        };
        let tree = Tree { root: PathBuf::new(), crates: vec![one] };
        let mut found = Vec::new();
        for (source, roles) in sources_with_roles(&tree).unwrap() {
            for line in 1..=source.text.lines().count() {
                found.push((format!("{}:{line}", source.path.display()), roles.of(line)));
            }
        }
        found
    }

    fn expected(lines: &[(&str, Role)]) -> Vec<(String, Role)> {
        lines.iter().map(|(line, role)| ((*line).to_owned(), *role)).collect()
    }

    #[test]
    fn what_is_compiled_for_tests_only_is_a_test() {
        let files = [
            ("a/src/lib.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\nmod inner {}"),
            ("a/src/one.rs", "#[cfg(test)]\nmod model;\n#[cfg(feature = \"test\")]\nfn f() {}"),
            ("a/src/one/model.rs", "fn f() {}"),
            ("a/src/one/model/below.rs", "fn f() {}"),
            ("a/tests/all.rs", "fn f() {}"),
            ("a/examples/one.rs", "fn f() {}"),
        ];
        let lines = [
            ("a/src/lib.rs:1", Role::Code),
            ("a/src/lib.rs:2", Role::Test),
            ("a/src/lib.rs:3", Role::Test),
            ("a/src/lib.rs:4", Role::Test),
            ("a/src/lib.rs:5", Role::Test),
            ("a/src/lib.rs:6", Role::Code),
            ("a/src/one.rs:1", Role::Test),
            ("a/src/one.rs:2", Role::Test),
            ("a/src/one.rs:3", Role::Code),
            ("a/src/one.rs:4", Role::Code),
            ("a/src/one/model.rs:1", Role::Test),
            ("a/src/one/model/below.rs:1", Role::Test),
            ("a/tests/all.rs:1", Role::Test),
            ("a/examples/one.rs:1", Role::Other),
        ];
        assert_eq!(roles(&files, "a"), expected(&lines));
    }

    #[test]
    fn a_crate_of_tests_has_nothing_else() {
        let files = [("a/src/lib.rs", "fn f() {}"), ("a/examples/one.rs", "fn f() {}")];
        let lines = [("a/src/lib.rs:1", Role::Test), ("a/examples/one.rs:1", Role::Test)];
        assert_eq!(roles(&files, "culvert-tests"), expected(&lines));
    }
}
