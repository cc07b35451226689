//! Server-sent events: what happens, as it happens, from where a client left off.
//!
//! The stream looks at the database when events were numbered here, and every second for those of
//! other portals. It ends when the portal stops or its credential is no longer good.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use culvert_portal_model::problem::Problem;
use culvert_portal_seams::randomness::{Randomness, bytes};
use culvert_portal_service::actor::Reach;
use culvert_portal_service::events;
use culvert_portal_service::fault::Fault;
use futures_util::stream::{self, Stream};

use crate::caller::{Caller, ClientAddress, Credential};
use crate::problem::{Answer, Refusal};
use crate::state::Api;
use crate::streams::Place;

/// How long a stream waits before it looks again: events of other portals come without a ring.
const PERIOD: Duration = Duration::from_secs(1);
/// When clients whose stream has ended come back: after the first, spread over the second.
const RETRY_LEAST: Duration = Duration::from_millis(500);
const RETRY_SPREAD: Duration = Duration::from_secs(3);
/// How often it looks whether its credential is still good.
const CHECK_EVERY: Duration = Duration::from_secs(3);

/// Follow events.
///
/// Each has an `id`; send the last as `Last-Event-ID` to go on behind it. An event `gap` says that
/// events in between are no longer kept: read the lists again.
#[utoipa::path(
    get, path = "/events", operation_id = "followEvents", tag = "events",
    params(("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was seen.")),
    responses((status = 200, description = "A stream of events.", content_type = "text/event-stream", body = String)),
)]
pub async fn follow(
    State(api): State<Api>,
    Caller(actor): Caller,
    credential: Credential,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
) -> Answer<Response> {
    let reach = events::may_follow(&api.portal, &actor).await?;
    let last = last_seen(&headers)?;
    let place = api.streams.take(actor.oneself()?, &api.metrics)?;
    let beginning = events::begin(&api.portal, last).await?;
    let pause = pause(&*api.portal.seams.randomness);
    let check = Check { credential, address: ClientAddress(address), at: Instant::now() };
    let follower = Follower { api, reach, number: beginning.number, waiting: Vec::new(), check, _place: place };
    let first =
        if beginning.has_gap { Event::default().event("gap").data("{}") } else { Event::default().comment("begun") };
    let first = first.id(beginning.number.to_string()).retry(pause);
    let events = stream::once(async { Ok::<_, Infallible>(first) });
    let events = futures_util::StreamExt::chain(events, rest(follower));
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response();
    // nginx would keep events back until its buffer is full.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// When a client comes back after the stream has ended: not all at once when a portal stops.
fn pause(randomness: &dyn Randomness) -> Duration {
    let [random] = bytes::<1>(randomness);
    RETRY_LEAST + RETRY_SPREAD * u32::from(random) / 256
}

fn last_seen(headers: &HeaderMap) -> Result<Option<i64>, Refusal> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok()).filter(|number| *number >= 0);
    number
        .map(Some)
        .ok_or_else(|| Refusal::new(Problem::BadRequest, "the value of Last-Event-ID is not an id that an event had"))
}

struct Follower {
    api: Api,
    reach: Reach,
    number: i64,
    waiting: Vec<Event>,
    check: Check,
    _place: Place,
}

struct Check {
    credential: Credential,
    address: ClientAddress,
    at: Instant,
}

fn rest(follower: Follower) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(follower, |mut follower| async move {
        loop {
            if let Some(event) = follower.waiting.pop() {
                return Some((Ok(event), follower));
            }
            // A task of its own: a client that goes away must not drop what is on its way to the
            // database (tasks.rs).
            let looking = tokio::spawn(async move {
                let seen = follower.look().await;
                (follower, seen)
            });
            let (looked, seen) = looking.await.ok()?;
            follower = looked;
            seen.ok()?;
            if follower.waiting.is_empty() {
                follower.wait().await.ok()?;
            }
        }
    })
}

impl Follower {
    /// Fetches the next events, the first of them last.
    async fn look(&mut self) -> Result<(), Fault> {
        if *self.api.stopping.borrow() {
            return Err(Fault::new(Problem::Unavailable, "the portal stops"));
        }
        if self.check.at.elapsed() >= CHECK_EVERY {
            let actor =
                self.check.credential.actor(&self.api, self.check.address.0).await.map_err(|refusal| refusal.0)?;
            self.reach = events::may_follow(&self.api.portal, &actor).await?;
            self.check.at = Instant::now();
        }
        let events = events::after(&self.api.portal, self.reach, self.number).await?;
        if let Some(last) = events.last() {
            self.number = last.number;
        }
        let shown = events
            .into_iter()
            .rev()
            .map(|event| Event::default().id(event.number.to_string()).event(event.kind).data(event.body));
        self.waiting = shown.collect();
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), ()> {
        let mut stopping = self.api.stopping.clone();
        tokio::select! {
            _ = self.api.portal.numbered.notified() => Ok(()),
            () = tokio::time::sleep(PERIOD) => Ok(()),
            changed = stopping.changed() => if changed.is_ok() && *stopping.borrow() { Err(()) } else { Ok(()) },
        }
    }
}
