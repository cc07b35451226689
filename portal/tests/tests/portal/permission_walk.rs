//! Every route, asked by everybody, about their own things, those of others, and those that are not
//! there: the answers are what the table of permissions says, and nothing else.
//!
//! [`people`] makes those who ask, [`requests`] says how each route is asked: so that whoever may,
//! is refused later, for another reason, wherever that is possible. A request that is permitted is
//! known by its code: neither "log in" nor "not permitted" nor "not there".

mod people;
mod requests;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use culvert_portal_api::route_table::{ROUTES, Route};
use culvert_portal_model::permission::{Access, Action, TokenAccess, access};
use culvert_portal_tests::http::Answer;
use culvert_portal_tests::live::LivePortal;
use culvert_portal_tests::live_on_both_databases;

use people::{Asker, Cast, Credential};
use requests::{Target, Wish};

live_on_both_databases! {
    fn every_route_answers_everybody_as_the_table_says(portal) {
        let mut cast = Cast::make(&portal);
        let mut wrong = Vec::new();
        let mut asked = 0;
        for asker in cast.askers.clone() {
            // What ends the asker's own session or token is asked about last.
            let (last, first): (Vec<&Route>, Vec<&Route>) =
                ROUTES.iter().partition(|route| ends(route, &asker));
            for route in first.iter().chain(&last) {
                for target in requests::targets(route) {
                    let wish = requests::wish(route, *target, &asker, &mut cast);
                    let answer = wish.send(&portal, &asker);
                    asked += 1;
                    let (expected, told) = (expected(route, *target, &asker), Told::of(&answer));
                    if !expected.is_met_by(&told) {
                        let what = format!("{} {} about {target:?}", route.method, route.path);
                        wrong.push(format!("{}: {what}: {told:?} instead of {expected:?}", asker.name));
                    }
                }
            }
        }
        println!("{asked} requests of {} askers to {} routes", cast.askers.len(), ROUTES.len());
        assert!(wrong.is_empty(), "{} of {asked} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
    }

    /// Whoever may not do a thing hears that, however little of the request can be understood.
    fn who_may_not_hears_that_first(portal) {
        let mut cast = Cast::make(&portal);
        let (mut wrong, mut asked) = (Vec::new(), 0);
        let writes = ROUTES.iter().filter(|route| route.method != "GET" && route.action.is_some());
        let askers = cast.askers.clone();
        for (route, asker) in writes.flat_map(|route| askers.iter().map(move |asker| (route, asker))) {
            for target in requests::targets(route) {
                let expected = expected(route, *target, asker);
                if expected == Expected::Permitted {
                    continue;
                }
                let wish = requests::wish(route, *target, asker, &mut cast);
                let long = "k".repeat(300);
                for header in [None, Some(("if-match", "W/\"nonsense\"")), Some(("idempotency-key", long.as_str()))] {
                    // A key that is none is told to whoever may do this to some thing; it says
                    // nothing of this one.
                    let is_key = header.is_some_and(|(name, _)| name == "idempotency-key");
                    if is_key && matches!(expected, Expected::Refused(404, _)) {
                        continue;
                    }
                    let told = Told::of(&wish.send_spoiled(&portal, asker, header.as_slice()));
                    asked += 1;
                    if !expected.is_met_by(&told) {
                        let what = format!("{} {} about {target:?}", route.method, route.path);
                        wrong.push(format!("{}: {what}: {told:?} instead of {expected:?}", asker.name));
                    }
                }
            }
        }
        println!("{asked} spoiled requests");
        assert!(wrong.is_empty(), "{} of {asked} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
    }

    fn what_belongs_to_others_looks_like_what_is_not_there(portal) {
        let mut cast = Cast::make(&portal);
        let asker = cast.asker("user");
        for route in ROUTES.iter().filter(|route| requests::has_owner(route)) {
            let mut shown = Vec::new();
            for target in [Target::Foreign, Target::Missing] {
                let answer = requests::wish(route, target, &asker, &mut cast).send(&portal, &asker);
                let headers: BTreeSet<String> = answer
                    .headers
                    .iter()
                    .filter(|(name, _)| !["x-request-id", "date"].contains(&name.as_str()))
                    .map(|(name, value)| format!("{name}: {value}"))
                    .collect();
                shown.push((answer.status, headers, answer.text()));
            }
            // Whoever has not proved anything since they logged in hears that, about either.
            let status = if route.action.is_some_and(Action::needs_new_proof) { 403 } else { 404 };
            assert_eq!(shown[0].0, status, "{} {}", route.method, route.path);
            assert_eq!(shown[0], shown[1], "{} {}", route.method, route.path);
            measure(route, &asker, &mut cast, &portal);
        }
    }
}

/// Whether a route ends what somebody asks with.
fn ends(route: &Route, asker: &Asker) -> bool {
    let own = match asker.credential {
        Credential::Token(..) => "/api/v1/tokens/current",
        _ => "/api/v1/sessions/current",
    };
    route.method == "DELETE" && route.path == own
}

/// Prints how long both kinds take. A clock says nothing certain on a loaded host, so only a
/// difference that anybody would see fails.
fn measure(route: &Route, asker: &Asker, cast: &mut Cast, portal: &LivePortal) {
    let mut times = [Vec::new(), Vec::new()];
    let wishes: Vec<Wish> =
        [Target::Foreign, Target::Missing].map(|target| requests::wish(route, target, asker, cast)).into();
    for _ in 0..100 {
        for (wish, times) in wishes.iter().zip(&mut times) {
            let began = Instant::now();
            let _ = wish.send(portal, asker);
            times.push(began.elapsed());
        }
    }
    let [foreign, missing] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    println!("{} {}: foreign {foreign:?}, missing {missing:?} (median of 100)", route.method, route.path);
    assert!(foreign.abs_diff(missing) < Duration::from_millis(20), "{foreign:?} and {missing:?} differ");
}

/// What an answer must be.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    /// A refusal with this status and code.
    Refused(u16, &'static str),
    /// Anything that only whoever is permitted hears.
    Permitted,
}

/// What an answer is.
#[derive(Debug)]
struct Told {
    status: u16,
    code: String,
}

impl Told {
    fn of(answer: &Answer) -> Self {
        Self { status: answer.status, code: answer.header("culvert-problem").unwrap_or_default().to_owned() }
    }
}

impl Expected {
    fn is_met_by(&self, told: &Told) -> bool {
        match self {
            Self::Refused(status, code) => (*status, *code) == (told.status, told.code.as_str()),
            Self::Permitted => {
                let refusals = [
                    "bad-request",
                    "not-logged-in",
                    "forbidden",
                    "step-up-needed",
                    "not-found",
                    "too-many",
                    "cross-site",
                ];
                told.status < 500 && !refusals.contains(&told.code.as_str())
            }
        }
    }
}

fn expected(route: &Route, target: Target, asker: &Asker) -> Expected {
    let not_logged_in = Expected::Refused(401, "not-logged-in");
    let Some(action) = route.action else {
        // A token that is none is refused everywhere: it was sent on purpose.
        let is_bad_token = matches!(asker.credential, Credential::BadToken(_));
        let is_there = target != Target::Missing;
        return match (is_bad_token, is_there) {
            (true, _) => not_logged_in,
            (false, true) => Expected::Permitted,
            (false, false) => Expected::Refused(404, "not-found"),
        };
    };
    let scopes = match &asker.credential {
        Credential::Nothing | Credential::BadToken(_) | Credential::BadSession(_) => return not_logged_in,
        Credential::Session(_) => None,
        Credential::Token(_, scopes) => Some(scopes),
    };
    let is_covered = |action: Action| match (scopes, action.token()) {
        (None, _) | (Some(_), TokenAccess::Every) => true,
        (Some(scopes), TokenAccess::Scope(scope)) => scopes.contains(&scope),
        (Some(_), TokenAccess::Never) => false,
    };
    let may = access(&asker.roles, action);
    if !is_covered(action) || may == Access::None {
        return Expected::Refused(403, "forbidden");
    }
    // Everybody here has logged in, and has not proved anything since.
    if action.needs_step_up() && scopes.is_none() && (!asker.has_proved || action.needs_new_proof()) {
        return Expected::Refused(403, "step-up-needed");
    }
    match (target, may) {
        (Target::Missing, _) | (Target::Foreign, Access::Own) => Expected::Refused(404, "not-found"),
        _ => Expected::Permitted,
    }
}
