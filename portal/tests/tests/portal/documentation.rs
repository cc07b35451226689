//! `docs/portal.md` against the program: its tables of problem codes and of who may do what are
//! made from the code.
//!
//! `CULVERT_UPDATE_GOLDEN=1 cargo xtask test documentation` writes them again.

use std::fs;
use std::path::{Path, PathBuf};

use culvert_portal_api::route_table::{ROUTES, Route};
use culvert_portal_model::permission::{Access, TokenAccess};
use culvert_portal_model::problem::Problem;
use culvert_portal_model::role::Role;

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/portal.md")
}

/// One test, since both tables are in one file.
#[test]
fn the_tables_are_the_programs() {
    let found = fs::read_to_string(page()).expect("docs/portal.md");
    let made = replaced(&replaced(&found, "problems", &problems()), "routes", &routes());
    if std::env::var_os("CULVERT_UPDATE_GOLDEN").is_some() {
        fs::write(page(), &made).expect("docs can be written");
        return;
    }
    assert!(found == made, "docs/portal.md is not what the program says: CULVERT_UPDATE_GOLDEN=1 writes it anew");
}

fn replaced(text: &str, name: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("no {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no {end}"));
    format!("{before}{begin}\n{table}\n{end}{after}")
}

fn problems() -> String {
    let mut problems = Problem::ALL.to_vec();
    // Those of one status stay in the order of the code.
    problems.sort_by_key(|problem| problem.status());
    let rows = problems
        .iter()
        .map(|problem| format!("| {} | `{}` | {} |\n", problem.status(), problem.code(), problem.title()));
    format!("| status | code | what it is |\n|---|---|---|\n{}", rows.collect::<String>())
}

fn routes() -> String {
    let roles: String = Role::ALL.iter().map(|role| format!(" {role} |")).collect();
    let rows: String = ROUTES.iter().map(row).collect();
    format!("| route |{roles} token | proof |\n|---|---|---|---|---|---|---|---|\n{rows}")
}

fn row(route: &Route) -> String {
    let name = format!("| `{} {}` |", route.method, route.path);
    let Some(action) = route.action else { return format!("{name} open to everybody | | | | | | |\n") };
    let access = |role: &Role| match action.access(*role) {
        Access::None => " – |",
        Access::Own => " own |",
        Access::Any => " any |",
    };
    let cells: String = Role::ALL.iter().map(access).collect();
    let token = match action.token() {
        TokenAccess::Never => "no".to_owned(),
        TokenAccess::Every => "any".to_owned(),
        TokenAccess::Scope(scope) => format!("`{scope}`"),
    };
    let proof = if action.needs_step_up() { " yes |" } else { " |" };
    format!("{name}{cells} {token} |{proof}\n")
}
