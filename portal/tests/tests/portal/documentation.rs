//! The documents against the program: the tables of `docs/portal.md` (problem codes, who may do
//! what, actions) are made from the code, and the program takes the documents' examples.
//!
//! `CULVERT_UPDATE_GOLDEN=1 cargo xtask test documentation` writes them again.

use std::fs;
use std::path::PathBuf;

use culvert_portal_api::route_table::{ROUTES, Route};
use culvert_portal_model::permission::{Access, Action, TokenAccess};
use culvert_portal_model::problem::Problem;
use culvert_portal_model::role::Role;
use culvert_portal_tests::documents::{blocks, document};
use culvert_portal_tests::program::{PortalOptions, RunningPortal};
use serde_json::{Value, json};

/// Words of the audit trail that stand in no table of permissions: nobody asks for them, or whoever
/// asks has no rights yet.
const WITHOUT_PERMISSION: [(&str, &str); 3] = [
    ("session.login", "somebody has logged in, or was refused, in whatever way"),
    ("webhook.disable", "the portal has switched a webhook off, whose receiver has answered 410"),
    ("outbox.set-aside", "the portal has found a row that it cannot read"),
];

fn page() -> PathBuf {
    document("portal.md")
}

/// One test, since all tables are in one file.
#[test]
fn the_tables_are_the_programs() {
    let found = fs::read_to_string(page()).expect("docs/portal.md");
    let made = replaced(&replaced(&found, "problems", &problems()), "routes", &routes());
    let made = replaced(&made, "actions", &actions());
    if std::env::var_os("CULVERT_UPDATE_GOLDEN").is_some() {
        fs::write(page(), &made).expect("docs can be written");
        return;
    }
    assert!(found == made, "docs/portal.md is not what the program says: CULVERT_UPDATE_GOLDEN=1 writes it anew");
}

/// The examples of providers are such that the program takes.
#[test]
fn the_examples_of_providers_are_taken() {
    let running = RunningPortal::start(&PortalOptions::default());
    let mut admin = running.with_admin();
    let examples = blocks("identity-providers.md").into_iter().filter(|block| block.info == "json");
    let mut count = 0;
    for example in examples {
        let body: Value = serde_json::from_str(&example.text).expect("it is JSON");
        let made = admin.post("/providers", &body);
        assert_eq!(made.status, 201, "docs/identity-providers.md:{}: {}", example.line, made.text());
        let mut shown = made.json();
        for (field, value) in body.as_object().expect("an object") {
            if field == "client_secret" {
                assert_eq!(shown["has_client_secret"], true);
            } else if field == "scopes" {
                let scopes = shown[field].as_array_mut().expect("scopes");
                assert_eq!(scopes.remove(0), "openid");
                assert_eq!(json!(scopes), *value);
            } else {
                assert_eq!(&shown[field], value, "{field}");
            }
        }
        count += 1;
    }
    assert!(count > 0);
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

fn actions() -> String {
    let of = |action: Action| {
        let routes = ROUTES.iter().filter(|route| route.action == Some(action));
        let routes: Vec<String> = routes.map(|route| format!("`{} {}`", route.method, short(route))).collect();
        format!("| `{}` | {} |\n", action.word(), routes.join(", "))
    };
    // Reading leaves no entry, and what only reads has no other routes.
    let changes = Action::ALL
        .iter()
        .filter(|action| ROUTES.iter().any(|route| route.action == Some(**action) && route.method != "GET"));
    let others = WITHOUT_PERMISSION.map(|(word, what)| format!("| `{word}` | {what} |\n"));
    let rows: String = changes.map(|action| of(*action)).chain(others).collect();
    format!("| action | by |\n|---|---|\n{rows}")
}

fn short(route: &Route) -> &str {
    route.path.strip_prefix("/api/v1").unwrap_or(route.path)
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
    let proof = match (action.needs_new_proof(), action.needs_step_up()) {
        (true, _) => " newer than the login |",
        (false, true) => " yes |",
        (false, false) => " |",
    };
    format!("{name}{cells} {token} |{proof}\n")
}
