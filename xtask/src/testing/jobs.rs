//! What the test programs have, divided into jobs: a program's tests, or those of one module of a
//! group of whole-system tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use super::programs::Program;

/// The packages whose programs are groups of modules.
const WHOLE_SYSTEM: [&str; 2] = ["tests", "portal-tests"];

/// Modules that measure: nothing else runs beside them. Each with what it compares.
const ALONE: [(&str, &str); 2] = [
    ("hostile::greedy_partners", "processor time that a partner gets"),
    ("hostile::pace_beside_greedy", "goodput beside a greedy partner with that without one"),
];

/// The jobs that take longest, begun first: a run ends when its last job does. In this order, from
/// 358 to 60 s beside others on two cores.
const LONG: [&str; 12] = [
    "tuning::namespace",
    "dataplane::simulated_lanes",
    "transfers::few_descriptors",
    "commands::far_ends",
    "faults::icmp",
    "hostile::decoders",
    "commands::packaging",
    "transfers::resume",
    "faults::injected",
    "faults::leftovers",
    "commands::debian_package",
    "faults::control_thread",
];

/// Tests that one process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// `group::module`, or `package` or `package::target`.
    pub name: String,
    /// What selects all of it: its package, its group, its module.
    pub belongs_to: Vec<String>,
    /// Its executable.
    pub executable: PathBuf,
    /// Where the programs are that the whole-system tests run: `culvert` and `culvert-portal`.
    pub programs: PathBuf,
    /// The directory in which it runs.
    pub directory: PathBuf,
    /// The full names of its tests.
    pub tests: Vec<String>,
    /// Whether nothing may run beside it.
    pub is_alone: bool,
}

/// All jobs of the programs; only the ignored tests of each if `ignored`.
///
/// # Errors
/// If a program does not list its tests.
pub fn of_programs(programs: &[Program], ignored: bool) -> anyhow::Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for program in programs {
        jobs.extend(of_program(program, list(program, ignored)?));
    }
    jobs.sort_by_key(|job| LONG.iter().position(|long| *long == job.name).unwrap_or(LONG.len()));
    Ok(jobs)
}

/// The jobs that the names select: a package, a group or a module as a whole, or else the tests
/// that contain the name. All jobs if there are no names.
///
/// # Errors
/// If a name selects nothing.
pub fn select(jobs: Vec<Job>, names: &[String]) -> anyhow::Result<Vec<Job>> {
    if names.is_empty() {
        return Ok(jobs);
    }
    for name in names {
        if !jobs.iter().any(|job| !selected_by(job, name).is_empty()) {
            let mut known: Vec<&str> = jobs.iter().flat_map(|job| &job.belongs_to).map(String::as_str).collect();
            known.sort_unstable();
            known.dedup();
            bail!("no test, module, group or package is called '{name}'; there are: {}", known.join(", "));
        }
    }
    // A name that is a module's or a package's means that alone, not each test with the word in it.
    let is_whole = |name: &String| jobs.iter().any(|job| job.belongs_to.contains(name));
    let (whole, parts): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| is_whole(name));
    let selected = jobs.iter().filter_map(|job| {
        let all = whole.iter().any(|name| job.belongs_to.contains(name));
        let is_wanted = |test: &&String| all || parts.iter().any(|part| test.contains(part.as_str()));
        let tests: Vec<String> = job.tests.iter().filter(is_wanted).cloned().collect();
        (!tests.is_empty()).then(|| Job { tests, ..job.clone() })
    });
    Ok(selected.collect())
}

fn selected_by(job: &Job, name: &String) -> Vec<String> {
    let all = job.belongs_to.contains(name);
    job.tests.iter().filter(|test| all || test.contains(name.as_str())).cloned().collect()
}

fn of_program(program: &Program, tests: Vec<String>) -> Vec<Job> {
    let Program { package, target, is_integration, executable, directory } = program;
    let job = |name: String, belongs_to: Vec<String>, tests: Vec<String>| {
        let is_alone = ALONE.iter().any(|(alone, _)| *alone == name);
        let (executable, programs) = (executable.clone(), programs_beside(executable));
        Job { name, belongs_to, executable, programs, directory: directory.clone(), tests, is_alone }
    };
    if tests.is_empty() {
        return Vec::new();
    }
    if !is_integration {
        return vec![job(package.clone(), vec![package.clone()], tests)];
    }
    if !WHOLE_SYSTEM.contains(&package.as_str()) {
        let name = format!("{package}::{target}");
        return vec![job(name, vec![package.clone(), target.clone()], tests)];
    }
    let mut modules: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for test in tests {
        let module = test.split("::").next().unwrap_or_default().to_owned();
        modules.entry(module).or_default().push(test);
    }
    let of_module = |(module, tests): (String, Vec<String>)| {
        let belongs_to = vec![package.clone(), target.clone(), module.clone()];
        job(format!("{target}::{module}"), belongs_to, tests)
    };
    modules.into_iter().map(of_module).collect()
}

/// The programs under test: a test is target/PROFILE/deps/test, a program target/PROFILE/culvert.
fn programs_beside(test: &Path) -> PathBuf {
    test.parent().and_then(Path::parent).unwrap_or(Path::new("")).to_owned()
}

/// The names of a program's tests, or of those that are ignored.
fn list(program: &Program, ignored: bool) -> anyhow::Result<Vec<String>> {
    let mut command = Command::new(&program.executable);
    command.args(["--list", "--format", "terse"]).current_dir(&program.directory);
    if ignored {
        command.arg("--ignored");
    }
    let output = command.output().with_context(|| program.executable.display().to_string())?;
    if !output.status.success() {
        bail!("{} does not list its tests: {}", program.target, String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout).context("names of tests")?;
    let name = |line: &str| match line.strip_suffix(": test") {
        Some(name) => Ok(name.to_owned()),
        None => bail!("{} lists what is no test: {line}", program.target),
    };
    text.lines().filter(|line| !line.is_empty()).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(package: &str, target: &str, is_integration: bool) -> Program {
        let (executable, directory) = (PathBuf::from("/t/x"), PathBuf::from("/c"));
        Program { package: package.to_owned(), target: target.to_owned(), is_integration, executable, directory }
    }

    fn names(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn jobs() -> Vec<Job> {
        let mut jobs = of_program(&program("engine", "culvert_engine", false), names(&["journal::tests::a_cut"]));
        let faults = names(&["crashes::a_kill", "injected::a_cut", "crashes::a_cut"]);
        jobs.extend(of_program(&program("tests", "faults", true), faults));
        jobs.extend(of_program(&program("simulator", "matrix", true), names(&["all"])));
        jobs.extend(of_program(&program("model", "culvert_model", false), Vec::new()));
        jobs
    }

    fn selected(wanted: &[&str]) -> Vec<(String, Vec<String>)> {
        let selected = select(jobs(), &names(wanted)).unwrap();
        selected.into_iter().map(|job| (job.name, job.tests)).collect()
    }

    #[test]
    fn a_group_is_a_job_for_each_module_and_another_program_is_one() {
        let found: Vec<String> = jobs().into_iter().map(|job| job.name).collect();
        assert_eq!(found, ["engine", "faults::crashes", "faults::injected", "simulator::matrix"]);
    }

    #[test]
    fn groups_modules_and_packages_are_selected_whole_and_tests_by_parts_of_names() {
        assert_eq!(selected(&[]).len(), 4);
        assert_eq!(selected(&["faults"]).len(), 2);
        let crashes = ("faults::crashes".to_owned(), names(&["crashes::a_kill", "crashes::a_cut"]));
        assert_eq!(selected(&["crashes"]), [crashes]);
        let cuts = selected(&["a_cut"]);
        assert_eq!(cuts.iter().map(|(_, tests)| tests.len()).sum::<usize>(), 3, "{cuts:?}");
        assert_eq!(selected(&["engine", "injected"]).len(), 2);
    }

    #[test]
    fn a_name_that_nothing_has_is_an_error_that_lists_what_there_is() {
        let error = select(jobs(), &names(&["faults", "crash_es"])).unwrap_err().to_string();
        assert!(error.contains("'crash_es'") && error.contains("crashes, engine, faults"), "{error}");
    }
}
