//! Gives entries and events their numbers, in the order of commits.
//!
//! A number that is drawn when a row is inserted becomes visible when its transaction commits,
//! which may be after a higher one; whoever resumes behind the higher one never sees the lower. So
//! rows are said without a number, and one sequencer at a time, of all portals of a database,
//! numbers what is committed. It is also the only one who extends the audit chain: changes need not
//! wait for one another to be chained. In the same transaction, events become deliveries to
//! webhooks: none is lost, and none is made twice.
//!
//! A row that cannot be read would stop everything behind it for ever. It is set aside, and the
//! trail says so.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use culvert_portal_model::audit::{AuditEntry, Outcome, Who};
use culvert_portal_store::Writing;
use culvert_portal_store::audit::{self, AuditRow};
use culvert_portal_store::events::{self, EventRow};
use culvert_portal_store::outbox::{self, Head, OutboxRow, Said, Taken, Unreadable};
use serde_json::{Value, json};

use crate::chain::{AUDIT, EVENTS, chain_hash, head_message};
use crate::fault::Fault;
use crate::portal::Portal;
use crate::signing::is_signed;
use crate::tally::Counted;
use crate::webhooks::fan_out::FanOut;

/// Rows of one round: a transaction that stays far below the 50 ms that others may wait.
const ROUND: i64 = 200;
/// How long a sequencer sleeps if nobody wakes it: what other portals say is numbered by then.
const PERIOD: Duration = Duration::from_millis(500);
/// How long it lets rows come together for the next round: a round costs the same for one row as
/// for a hundred.
const GATHERING: Duration = Duration::from_millis(20);
/// How often the log is told that it still fails.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Numbers what was said, for ever.
pub async fn run(portal: &Portal) {
    let mut complained: Option<Instant> = None;
    loop {
        // What cannot be numbered now waits in the database, and is tried again.
        let numbered = number_all(portal).await;
        match &numbered {
            Ok(()) if complained.take().is_some() => tracing::info!("what was said gets its numbers again"),
            Ok(()) => {}
            Err(fault) => {
                portal.tally.count(Counted::RoundFailed);
                if complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
                    let cause = fault.log.as_deref().unwrap_or(&fault.detail);
                    tracing::error!(cause, "what was said gets no numbers: events and the audit trail wait");
                    complained = Some(Instant::now());
                }
            }
        }
        let pause = if numbered.is_ok() { PERIOD } else { PERIOD * 4 };
        let is_woken = tokio::time::timeout(pause, portal.said.notified()).await.is_ok();
        if is_woken {
            tokio::time::sleep(GATHERING).await;
        }
    }
}

/// Numbers all that is committed by now.
///
/// # Errors
/// [`Fault`] if the database cannot be written.
pub async fn number_all(portal: &Portal) -> Result<(), Fault> {
    loop {
        let waiting_since = outbox::waiting_since(&mut portal.database.read().await?).await?;
        portal.tally.waits(waiting_since);
        if waiting_since.is_none() {
            return Ok(());
        }
        let mut writing = portal.database.write().await?;
        let mut round = Round::begin(portal, &mut writing).await?;
        let taken = outbox::take(&mut writing, ROUND).await?;
        let count = taken.len() as i64;
        for one in taken {
            round.append(&mut writing, one).await?;
        }
        let done = round.end(&mut writing).await?;
        writing.commit().await?;
        done.tell(portal);
        if count < ROUND {
            portal.tally.waits(None);
            return Ok(());
        }
    }
}

/// Refuses to go on from an end of the trail that this portal's key has not signed, or that lies
/// before one that this portal has seen: with its signature, what somebody has written in its place
/// would become the trail.
fn check_end(portal: &Portal, end: &Head) -> Result<(), Fault> {
    if !is_signed(&portal.signing.public_key(), &head_message(end.number, &end.hash), &end.signature) {
        return Err(Fault::internal(format!(
            "the end of the audit trail (entry {}) is not signed by the portal's key: somebody has written to the \
             database; 'culvert-portal audit verify' says more",
            end.number
        )));
    }
    let seen = portal.end_seen.fetch_max(end.number, Ordering::Relaxed);
    if end.number < seen {
        return Err(Fault::internal(format!(
            "the audit trail ends with entry {}, and this portal has seen entry {seen}: its end was cut while the \
             portal ran",
            end.number
        )));
    }
    Ok(())
}

/// The rows of one transaction.
struct Round<'a> {
    portal: &'a Portal,
    chain: Head,
    sequence: Head,
    entries: Vec<AuditRow>,
    events: Vec<EventRow>,
    fan_out: FanOut,
    set_aside: u64,
}

/// What a round has done, once it is committed.
struct Done {
    numbered: u64,
    set_aside: u64,
    has_deliveries: bool,
    /// The number of the trail's last entry.
    end: i64,
}

impl<'a> Round<'a> {
    async fn begin(portal: &'a Portal, writing: &mut Writing) -> Result<Self, Fault> {
        // Whoever holds the ends is the sequencer; others wait here, and find the outbox empty.
        let chain = outbox::hold(writing, AUDIT).await?;
        check_end(portal, &chain)?;
        let sequence = outbox::hold(writing, EVENTS).await?;
        let (entries, events) = (Vec::new(), Vec::new());
        Ok(Self { portal, chain, sequence, entries, events, fan_out: FanOut::default(), set_aside: 0 })
    }

    async fn append(&mut self, writing: &mut Writing, taken: Taken) -> Result<(), Fault> {
        let unreadable = match taken {
            Taken::Unreadable(row) => row,
            Taken::Said(said) if !self.portal.has_said(&said) => {
                Unreadable::of(said, "it does not have the portal's mark: something else has written it".to_owned())
            }
            Taken::Said(said) => match said.said {
                Said::Audit => match serde_json::from_str(&said.body) {
                    Ok(entry) => {
                        self.append_entry(entry, said.body);
                        return Ok(());
                    }
                    Err(error) => Unreadable::of(said, format!("it is no entry of the audit trail: {error}")),
                },
                Said::Event => match serde_json::from_str(&said.body) {
                    Ok(data) => return self.append_event(writing, &said, data).await,
                    Err(error) => Unreadable::of(said, format!("its text is not JSON: {error}")),
                },
            },
        };
        self.put_aside(writing, unreadable).await
    }

    fn append_entry(&mut self, entry: AuditEntry, body: String) {
        self.chain.number += 1;
        self.chain.hash = chain_hash(&self.chain.hash, self.chain.number, &body);
        self.entries.push(AuditRow {
            number: self.chain.number,
            at: entry.at,
            action: entry.action,
            object: entry.id,
            body,
            hash: self.chain.hash.clone(),
        });
    }

    async fn append_event(&mut self, writing: &mut Writing, said: &OutboxRow, data: Value) -> Result<(), Fault> {
        self.sequence.number += 1;
        let row = EventRow {
            number: self.sequence.number,
            at: said.at,
            kind: said.kind.clone(),
            owner: said.owner,
            body: said.body.clone(),
        };
        self.fan_out.deliver(self.portal, writing, &row, &data).await?;
        self.events.push(row);
        Ok(())
    }

    async fn put_aside(&mut self, writing: &mut Writing, row: Unreadable) -> Result<(), Fault> {
        tracing::error!(row = row.id, reason = row.reason, "a row of the outbox cannot be read, and was set aside");
        let now = self.portal.now();
        outbox::set_aside(writing, &row, now).await?;
        self.set_aside += 1;
        let entry = AuditEntry {
            at: now,
            who: Who::Portal,
            address: None,
            request: None,
            action: "outbox.set-aside".to_owned(),
            object: "outbox".to_owned(),
            id: Some(row.id),
            before: None,
            after: Some(json!({ "reason": row.reason })),
            outcome: Outcome::Done,
        };
        let body = serde_json::to_string(&entry).map_err(Fault::internal)?;
        self.append_entry(entry, body);
        Ok(())
    }

    async fn end(mut self, writing: &mut Writing) -> Result<Done, Fault> {
        if !self.entries.is_empty() {
            audit::insert(writing, &self.entries).await?;
            let message = head_message(self.chain.number, &self.chain.hash);
            self.chain.signature = self.portal.signing.sign(&message);
            outbox::move_head(writing, AUDIT, &self.chain).await?;
        }
        if !self.events.is_empty() {
            events::insert(writing, &self.events).await?;
            outbox::move_head(writing, EVENTS, &self.sequence).await?;
        }
        let numbered = (self.entries.len() + self.events.len()) as u64;
        let has_deliveries = self.fan_out.has_deliveries();
        Ok(Done { numbered, set_aside: self.set_aside, has_deliveries, end: self.chain.number })
    }
}

impl Done {
    fn tell(self, portal: &Portal) {
        portal.end_seen.fetch_max(self.end, Ordering::Relaxed);
        portal.tally.add(Counted::Numbered, self.numbered);
        portal.tally.add(Counted::SetAside, self.set_aside);
        portal.numbered.notify_waiters();
        if self.has_deliveries {
            portal.due.notify_one();
        }
    }
}
