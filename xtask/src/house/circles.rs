//! Circles of files: each uses the next, and the last uses the first, so none can be read, tested
//! or extracted without all the others.
//!
//! A file uses another if it names, outside its tests, a path in it. Declaring a module is not
//! using it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use super::exceptions::KnownCircle;
use super::finding::Finding;
use super::module_paths::{WrittenPath, paths_of};
use super::sources::{Crate, Tree};

/// Which file uses which, by their places in [`Files::paths`].
type Arrows = Vec<BTreeSet<usize>>;

/// Circles that are not in `known`, and entries of `known` that are not circles.
pub fn check(tree: &Tree, known: &[KnownCircle]) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut met = BTreeSet::new();
    for one in &tree.crates {
        let files = Files::of(one);
        let arrows = files.arrows(one)?;
        for circle in circles(&arrows) {
            let paths: Vec<&Path> = circle.iter().map(|&file| files.paths[file].as_path()).collect();
            match known.iter().position(|known| known.is(&paths)) {
                Some(at) => {
                    met.insert(at);
                }
                None => findings.push(told(&files, &arrows, &circle)),
            }
        }
    }
    for (at, known) in known.iter().enumerate().filter(|(at, _)| !met.contains(at)) {
        let text =
            format!("exception {} of CIRCLES is none (any more): remove it, or shrink it to what is left", at + 1);
        findings.push(Finding::of_file(known.files[0], text));
    }
    Ok(findings)
}

/// The finding for a circle: the number of files, and the shortest way around.
fn told(files: &Files, arrows: &Arrows, circle: &[usize]) -> Finding {
    let way = shortest_way_around(arrows, circle);
    let names: Vec<String> = way.iter().map(|&file| files.paths[file].display().to_string()).collect();
    let text = format!(
        "{} files know each other in a circle, for instance {}: turn one arrow around, or move what both need below them",
        circle.len(),
        names.join(" → ")
    );
    Finding::of_file(&files.paths[circle[0]], text)
}

/// The files of a crate, and the modules that they are.
struct Files {
    paths: Vec<PathBuf>,
    /// A module's path (empty for the crate's root) → its file.
    modules: BTreeMap<Vec<String>, usize>,
}

impl Files {
    fn of(one: &Crate) -> Self {
        let paths: Vec<PathBuf> = one.sources.iter().map(|source| source.path.clone()).collect();
        let from = one.directory.join("src");
        let modules = paths.iter().enumerate().map(|(at, path)| (module_of(&from, path), at)).collect();
        Self { paths, modules }
    }

    fn arrows(&self, one: &Crate) -> anyhow::Result<Arrows> {
        let from = one.directory.join("src");
        let mut arrows = vec![BTreeSet::new(); self.paths.len()];
        for (at, source) in one.sources.iter().enumerate() {
            let module = module_of(&from, &source.path);
            let met = paths_of(source)?.into_iter().filter_map(|path| self.file_of(&module, &path));
            arrows[at].extend(met.filter(|&file| file != at));
        }
        Ok(arrows)
    }

    /// The file that a path leads to from a module; `None` if it leads out of the crate.
    fn file_of(&self, module: &[String], path: &WrittenPath) -> Option<usize> {
        let mut place = [module, &path.inside].concat();
        let mut segments = path.segments.as_slice();
        match segments[0].as_str() {
            "crate" => {
                place.clear();
                segments = &segments[1..];
            }
            "self" => segments = &segments[1..],
            "super" => {
                while segments.first().is_some_and(|segment| segment == "super") {
                    place.pop();
                    segments = &segments[1..];
                }
            }
            // A path that begins with a name leads into the crate only by a module below.
            name => {
                let below = [place.as_slice(), &[name.to_owned()]].concat();
                self.modules.get(&below)?;
            }
        }
        place.extend(segments.iter().cloned());
        // What is left at the end is an item of the file, or a module within it.
        (0..=place.len()).rev().find_map(|length| self.modules.get(&place[..length]).copied())
    }
}

/// The module that a file is: empty for `lib.rs`. Programs are roots of their own.
fn module_of(from: &Path, path: &Path) -> Vec<String> {
    let within = path.strip_prefix(from).unwrap_or(path).with_extension("");
    let parts: Vec<String> = within.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts == ["lib"] { Vec::new() } else { parts }
}

/// Sets of at least two files that all reach each other, each in the order of files.
fn circles(arrows: &Arrows) -> Vec<Vec<usize>> {
    let reached: Vec<BTreeSet<usize>> = (0..arrows.len()).map(|file| reached_from(arrows, file)).collect();
    let mut seen = BTreeSet::new();
    let mut circles = Vec::new();
    for file in 0..arrows.len() {
        if !reached[file].contains(&file) || !seen.insert(file) {
            continue;
        }
        let circle: Vec<usize> =
            reached[file].iter().copied().filter(|&other| reached[other].contains(&file)).collect();
        seen.extend(&circle);
        circles.push(circle);
    }
    circles
}

/// The files that are reached from a file by one or more arrows.
fn reached_from(arrows: &Arrows, file: usize) -> BTreeSet<usize> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<usize> = arrows[file].iter().copied().collect();
    while let Some(next) = open.pop() {
        if reached.insert(next) {
            open.extend(&arrows[next]);
        }
    }
    reached
}

/// The files of the shortest way around a circle; the first is also the last.
fn shortest_way_around(arrows: &Arrows, circle: &[usize]) -> Vec<usize> {
    let ways = circle.iter().filter_map(|&start| way_back(arrows, start));
    ways.min_by_key(Vec::len).unwrap_or_default()
}

fn way_back(arrows: &Arrows, start: usize) -> Option<Vec<usize>> {
    let mut came_from = BTreeMap::new();
    let mut open = VecDeque::from([start]);
    while let Some(file) = open.pop_front() {
        for &next in &arrows[file] {
            if next == start {
                let mut way = vec![start, file];
                while let Some(&before) = came_from.get(way.last()?) {
                    way.push(before);
                }
                way.reverse();
                return Some(way);
            }
            if let std::collections::btree_map::Entry::Vacant(place) = came_from.entry(next) {
                place.insert(file);
                open.push_back(next);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::house::sources::Source;

    fn found(files: &[(&str, &str)], known: &[KnownCircle]) -> Vec<String> {
        let source = |(path, text): &(&str, &str)| Source { path: PathBuf::from(path), text: (*text).to_owned() };
        let one = Crate {
            name: "a".to_owned(),
            library: "a".to_owned(),
            directory: PathBuf::from("a"),
            dependencies: Vec::new(),
            sources: files.iter().map(source).collect(),
            beside: Vec::new(),
        };
        let tree = Tree { root: PathBuf::new(), crates: vec![one] };
        check(&tree, known).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_circle_is_found_with_its_shortest_way_around() {
        let found = found(
            &[
                ("a/src/one.rs", "use crate::two::T;"),
                ("a/src/two.rs", "fn f() { crate::three::g(); }"),
                ("a/src/three.rs", "use crate::one; use crate::two::T;"),
                ("a/src/four.rs", "use crate::one;"),
            ],
            &[],
        );
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with(
                "a/src/one.rs: 3 files know each other in a circle, \
                 for instance a/src/two.rs → a/src/three.rs → a/src/two.rs:"
            ),
            "{found:?}"
        );
    }

    #[test]
    fn a_module_and_one_below_it_make_a_circle_if_both_name_the_other() {
        let below = ("a/src/one/below.rs", "use super::T;");
        assert_eq!(found(&[("a/src/one.rs", "mod below; struct T;"), below], &[]).len(), 0);
        assert_eq!(found(&[("a/src/one.rs", "mod below; fn f() { below::g(); }"), below], &[]).len(), 1);
    }

    #[test]
    fn a_known_circle_is_passed_over_and_one_that_is_gone_is_told() {
        let files = [("a/src/one.rs", "use crate::two;"), ("a/src/two.rs", "use crate::one;")];
        let known = [KnownCircle { files: &["a/src/one.rs", "a/src/two.rs"], reason: "a test" }];
        assert_eq!(found(&files, &known), Vec::<String>::new());
        assert_eq!(
            found(&[("a/src/one.rs", "")], &known),
            ["a/src/one.rs: exception 1 of CIRCLES is none (any more): remove it, or shrink it to what is left"]
        );
    }

    #[test]
    fn tests_make_no_circle() {
        let files =
            [("a/src/one.rs", "use crate::two;"), ("a/src/two.rs", "#[cfg(test)] mod tests { use crate::one; }")];
        assert_eq!(found(&files, &[]), Vec::<String>::new());
    }
}
