//! Where the portal's links lead until it has pages: what to do with the secret behind `#`.
//!
//! A browser sends nothing of what stands behind `#`, and opening a link spends and changes
//! nothing, so all of this is fixed text. Who does not ask for HTML hears the same as a problem.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use culvert_portal_model::problem::Problem;
use url::form_urlencoded;

use crate::problem::Refusal;
use crate::state::Api;

/// A path that links lead to, and what to do there. `PORTAL` stands for the portal's address; the
/// other words in capitals are for whoever reads it.
struct Place {
    path: &'static str,
    title: &'static str,
    text: &'static str,
    commands: &'static [&'static str],
}

const LOG_IN: &str = "curl -c cookies -X POST PORTAL/api/v1/sessions -H 'content-type: application/json' \
                      -d '{\"name\": \"NAME\", \"password\": \"PASSWORD\"}'";

const PLACES: [Place; 7] = [
    Place {
        path: "/",
        title: "Culvert portal",
        text: "This portal has no pages yet: programs and command lines use it at PORTAL/api/v1, which \
               PORTAL/api/v1/openapi.json describes. To log in, put your name and password into this line, and run it \
               in a shell.",
        commands: &[LOG_IN],
    },
    Place {
        path: "/setup",
        title: "Make the first administrator's account",
        text: "This portal has no page for this link yet, and opening it has not used it up. Put what stands behind # \
               in its address in place of SECRET, choose a name and a password, and run the line in a shell; or, on \
               the portal's host, run culvert-portal users create NAME --role admin.",
        commands: &["curl -X POST PORTAL/api/v1/setup -H 'content-type: application/json' \
                     -d '{\"secret\": \"SECRET\", \"account\": {\"name\": \"NAME\", \"password\": \"PASSWORD\"}}'"],
    },
    Place {
        path: "/reset",
        title: "Set a new password",
        text: "This portal has no page for this link yet, and opening it has not used it up. Put what stands behind # \
               in its address in place of SECRET, choose a password, and run the line in a shell; if the link is no \
               longer good, culvert-portal users reset NAME on the portal's host makes another.",
        commands: &["curl -X POST PORTAL/api/v1/password-resets/complete -H 'content-type: application/json' \
                     -d '{\"secret\": \"SECRET\", \"password\": \"PASSWORD\"}'"],
    },
    Place {
        path: "/join",
        title: "Make your account",
        text: "This portal has no page for this invitation yet, and opening it has not used it up. Put what stands \
               behind # in its address in place of SECRET, choose a name and a password, and run the line in a shell; \
               or let an administrator run culvert-portal users create NAME on the portal's host.",
        commands: &["curl -X POST PORTAL/api/v1/invitations/accept -H 'content-type: application/json' \
                     -d '{\"secret\": \"SECRET\", \"account\": {\"name\": \"NAME\", \"password\": \"PASSWORD\"}}'"],
    },
    Place {
        path: "/device",
        title: "Let a device in",
        text: "A device shows a code and waits to be let in as you, and this portal has no page for that yet. Put the \
               code in place of CODE and run these lines in a shell: log in, look at what asks and from where, and let \
               it in if it is yours.",
        commands: &[
            LOG_IN,
            "curl -b cookies 'PORTAL/api/v1/device?user_code=CODE'",
            "curl -b cookies -X POST PORTAL/api/v1/device/approve -H 'content-type: application/json' \
             -d '{\"user_code\": \"CODE\"}'",
        ],
    },
    Place {
        path: "/login",
        title: "Log in",
        text: "This portal has no page to log in yet. Put your name and password into this line, and run it in a \
               shell; the identity providers by which a browser logs in are at PORTAL/api/v1/login/providers.",
        commands: &[LOG_IN],
    },
    Place {
        path: "/login/code",
        title: "A code of your second factor is needed",
        text: "The identity provider has said who you are, your account has a second factor as well, and this portal \
               has no page for its code yet. If your account has a password, log in by this line in a shell instead.",
        commands: &["curl -c cookies -X POST PORTAL/api/v1/sessions -H 'content-type: application/json' \
                     -d '{\"name\": \"NAME\", \"password\": \"PASSWORD\", \"code\": \"CODE\"}'"],
    },
];

/// The paths that links lead to.
pub fn routes() -> Router<Api> {
    PLACES.iter().fold(Router::new(), |router, place| {
        let answer = move |State(api): State<Api>, headers: HeaderMap, uri: Uri| async move {
            answer(place, &api.portal.options.public_url, &headers, &uri)
        };
        router.route(place.path, get(answer))
    })
}

/// Whether a client asks for a page.
#[must_use]
pub fn wants_page(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("text/html"))
}

fn answer(place: &Place, portal: &str, headers: &HeaderMap, uri: &Uri) -> Response {
    let text = match problem(uri) {
        Some(problem) => format!("{} ({}). {}", problem.title(), problem.code(), place.text),
        None => place.text.to_owned(),
    }
    .replace("PORTAL", portal);
    let commands = place.commands.join("\n").replace("PORTAL", portal);
    if !wants_page(headers) {
        return Refusal::new(Problem::NotFound, format!("{text}\n{commands}")).into_response();
    }
    let (title, text, commands) = (place.title, escaped(&text), escaped(&commands));
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n<h1>{title}</h1>\n\
         <p>{text}</p>\n<pre>{commands}</pre>\n</html>\n"
    );
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

/// What a browser was sent here to hear: see `provider_login`.
fn problem(uri: &Uri) -> Option<Problem> {
    let query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let code = query.into_iter().find(|(name, _)| name == "problem").map(|(_, code)| code)?;
    Problem::ALL.iter().copied().find(|problem| problem.code() == code)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
