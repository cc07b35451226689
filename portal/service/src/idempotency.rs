//! Requests that a client may repeat without doing their work twice.

use std::time::Duration;

use culvert_portal_model::problem::Problem;
use culvert_portal_store::idempotency;
pub use culvert_portal_store::idempotency::{Claim, KeptAnswer};

use crate::fault::Fault;
use crate::portal::Portal;

/// How long a request may be worked on before a repetition takes its place. Its portal has died,
/// most likely, and nothing of it is committed, since that would have marked it as done. Should it
/// still be at work, it cannot commit any more: its claim is gone.
const WORK_MAX: Duration = Duration::from_secs(60);

const BUSY: &str = "the first request with this Idempotency-Key is being worked on: try again in a moment";

/// Its change is committed, and its answer is not kept yet: in a moment, if its portal lives.
const ON_ITS_WAY: &str = "the request with this Idempotency-Key was carried out, and its answer is on its way: try \
                          again in a moment, or read what is there";
const LOST: &str = "the request with this Idempotency-Key was carried out, but its answer was lost with the portal \
                    that made it: read what is there";

/// The kind under which answers are sealed.
const KIND: &str = "answer";

/// What to do with a request that has a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody has done it: do it.
    Do(Claim),
    /// It was done: this was the answer.
    Repeat(KeptAnswer),
}

/// Claims a key for a request of a caller.
///
/// # Errors
/// [`Problem::IdempotencyConflict`] if the key was used for another request, or that request is
/// being worked on.
pub async fn claim(portal: &Portal, caller: &str, key: &str, request_hash: &str) -> Result<Verdict, Fault> {
    let now = portal.now();
    let claim = Claim { caller: caller.to_owned(), name: key.to_owned(), at: now };
    let mut writing = portal.database.write().await?;
    if idempotency::begin(&mut writing, &claim, request_hash).await? {
        writing.commit().await?;
        return Ok(Verdict::Do(claim));
    }
    let seen = idempotency::find(&mut writing, caller, key).await?;
    let is_old = |seen: &idempotency::Seen| now.as_second() - seen.created_at.as_second() > WORK_MAX.as_secs() as i64;
    let conflict = |detail| Err(Fault::new(Problem::IdempotencyConflict, detail));
    match seen {
        Some(seen) if seen.request_hash != request_hash => {
            conflict("this Idempotency-Key was used for another request: use a new one")
        }
        Some(idempotency::Seen { answer: Some(answer), .. }) => {
            let row = format!("{caller} {key}");
            let Ok(body) = portal.sealer.open(KIND, &row, &answer.body) else {
                return conflict("the answer to this request can no longer be read: read what is there");
            };
            Ok(Verdict::Repeat(KeptAnswer { body: body.to_vec(), ..answer }))
        }
        Some(seen) if seen.is_done => conflict(if is_old(&seen) { LOST } else { ON_ITS_WAY }),
        Some(seen) if is_old(&seen) => {
            if !idempotency::take_over(&mut writing, &claim, &seen).await? {
                return conflict(BUSY);
            }
            writing.commit().await?;
            Ok(Verdict::Do(claim))
        }
        // It may also have been forgotten since it was found in the way.
        _ => conflict(BUSY),
    }
}

/// Keeps the answer to a request, or forgets the request if it changed nothing and may come
/// again.
///
/// # Errors
/// [`Fault`] if the database cannot be written.
pub async fn settle(portal: &Portal, claim: &Claim, answer: Option<&KeptAnswer>) -> Result<(), Fault> {
    let mut writing = portal.database.write().await?;
    match answer {
        Some(answer) => {
            // An answer may show a secret this once: it is kept as secrets are.
            let row = format!("{} {}", claim.caller, claim.name);
            let body = portal.sealer.seal(KIND, &row, &answer.body, &*portal.seams.randomness);
            idempotency::finish(&mut writing, claim, &KeptAnswer { body, ..answer.clone() }).await?;
        }
        None => idempotency::forget(&mut writing, claim).await?,
    }
    Ok(writing.commit().await?)
}
