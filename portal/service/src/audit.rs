//! The audit trail: reading it, and proving that nobody has changed it.
//!
//! Each entry's hash is over the one before, its number and its text, so a changed, removed or
//! inserted entry breaks the chain. The end of the chain is signed with the portal's key, also the
//! one of an empty trail, so a cut tail is missed. Two things the database alone cannot tell: that
//! somebody has put back an older end with its signature, and what somebody does who has the key.
//! Against both, every head that was kept elsewhere ([`AuditHead`]) can be held later.

use culvert_portal_model::audit::{AuditHead, ChainedEntry};
use culvert_portal_model::id::Id;
use culvert_portal_model::page::{Page, PageRequest};
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_store::audit::{self, AuditRow, Filter};
use culvert_portal_store::{Database, outbox};
use jiff::Timestamp;

use crate::actor::Actor;
use crate::chain::{AUDIT, chain_hash, head_message};
use crate::fault::Fault;
use crate::portal::Portal;
use crate::sequencer;
use crate::signing::is_signed;

/// Entries that are read at a time.
const BATCH: i64 = 500;

/// What is wrong with an audit trail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditFault {
    /// An entry was changed, or another put in its place.
    #[error("entry {number} was changed: its hash does not follow from its text and the entry before")]
    Changed {
        /// Its number.
        number: i64,
    },
    /// The columns by which an entry is found say something else than its text.
    #[error("entry {number} was changed: what it is found by is not what its text says")]
    Mislabeled {
        /// Its number.
        number: i64,
    },
    /// Entries were removed.
    #[error("entries {from} to {to} are missing")]
    Missing {
        /// The first that is missing.
        from: i64,
        /// The last that is missing.
        to: i64,
    },
    /// The end of the chain is not what the portal has signed.
    #[error("the trail ends with entry {found}, but the portal has signed one that ends with entry {signed}")]
    Cut {
        /// The last entry that is there.
        found: i64,
        /// The last entry that should be.
        signed: i64,
    },
    /// The signature at the end is not the portal's.
    #[error("the end of the trail is not signed by the portal's key")]
    BadSignature,
    /// A head that was kept elsewhere is not part of the chain.
    #[error("entry {number} is not the one that the portal had signed before: the trail was written anew")]
    Rewritten {
        /// Its number.
        number: i64,
    },
}

/// Which entries somebody asks for.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Those of this action.
    pub action: Option<String>,
    /// Those about this kind of thing.
    pub object: Option<String>,
    /// Those about the thing with this identifier.
    pub id: Option<String>,
    /// Those of what a person did, by identifier, or `host`, `portal` or `nobody`.
    pub who: Option<String>,
    /// Those from this time on.
    pub from: Option<Timestamp>,
    /// Those before this time.
    pub until: Option<Timestamp>,
    /// Which page.
    pub page: PageRequest,
}

/// A page of the trail, newest first.
///
/// # Errors
/// [`Fault`].
pub async fn list(portal: &Portal, actor: &Actor, query: &AuditQuery) -> Result<Page<ChainedEntry>, Fault> {
    portal.permit(actor, Action::AuditRead).await?;
    catch_up(portal).await?;
    let filter = Filter {
        action: query.action.clone().unwrap_or_default(),
        object: query.object.as_deref().map(checked_kind).transpose()?.unwrap_or_default(),
        id: query.id.clone().unwrap_or_default(),
        who: query.who.as_deref().map(checked_who).transpose()?.unwrap_or_default(),
        from: query.from,
        until: query.until,
    };
    let rows = audit::list(&mut portal.database.read().await?, &filter, &query.page).await?;
    let entries = rows.into_iter().map(chained).collect::<Result<Vec<_>, _>>()?;
    Ok(Page::of(entries, query.page.rows, |entry| entry.number.to_string()))
}

/// Entries behind a number, oldest first, for an export in pieces.
///
/// # Errors
/// [`Fault`].
pub async fn export(portal: &Portal, actor: &Actor, after: i64) -> Result<Vec<ChainedEntry>, Fault> {
    portal.permit(actor, Action::AuditRead).await?;
    catch_up(portal).await?;
    let rows = audit::after(&mut portal.database.read().await?, after, BATCH).await?;
    rows.into_iter().map(chained).collect()
}

/// The signed end of the trail.
///
/// # Errors
/// [`Fault`].
pub async fn head(portal: &Portal, actor: &Actor) -> Result<AuditHead, Fault> {
    portal.permit(actor, Action::AuditRead).await?;
    catch_up(portal).await?;
    let head = outbox::head(&mut portal.database.read().await?, AUDIT).await?;
    Ok(AuditHead { number: head.number, hash: head.hash, signature: head.signature, key: portal.signing.public_key() })
}

/// Goes through the whole trail. `key` is the portal's public key in hexadecimal, `kept` a head
/// that was kept elsewhere. Gives the number of entries.
///
/// # Errors
/// A [`Fault`] if the database cannot be read; what is wrong with the trail is the inner result.
pub async fn verify(
    database: &Database,
    key: &str,
    kept: Option<&AuditHead>,
) -> Result<Result<i64, AuditFault>, Fault> {
    let mut reading = database.read().await?;
    // The head first: what comes later is behind it, and is not a cut.
    let head = outbox::head(&mut reading, AUDIT).await?;
    let (mut number, mut hash) = (0, String::new());
    loop {
        let rows = audit::after(&mut reading, number, BATCH).await?;
        let Some(last) = rows.last().map(|row| row.number) else { break };
        for row in rows {
            if let Err(fault) = follows(number, &hash, &row) {
                return Ok(Err(fault));
            }
            if kept.is_some_and(|kept| kept.number == row.number && kept.hash != row.hash) {
                return Ok(Err(AuditFault::Rewritten { number: row.number }));
            }
            if row.number == head.number && row.hash != head.hash {
                return Ok(Err(AuditFault::Changed { number: row.number }));
            }
            (number, hash) = (row.number, row.hash);
        }
        debug_assert_eq!(number, last);
    }
    let signed = kept.map_or(0, |kept| kept.number).max(head.number);
    if number < signed {
        return Ok(Err(AuditFault::Cut { found: number, signed }));
    }
    let head_holds = is_signed(key, &head_message(head.number, &head.hash), &head.signature);
    let kept_holds = kept
        .is_none_or(|kept| kept.number == 0 || is_signed(key, &head_message(kept.number, &kept.hash), &kept.signature));
    if !head_holds || !kept_holds {
        return Ok(Err(AuditFault::BadSignature));
    }
    Ok(Ok(number))
}

/// Who reads after a change sees it. A trail that somebody has tampered with is not gone on with,
/// and is shown as it is: the log and `audit verify` say what is wrong with it.
async fn catch_up(portal: &Portal) -> Result<(), Fault> {
    match sequencer::number_all(portal).await {
        Err(fault) if fault.problem == Problem::Internal => Ok(()),
        other => other,
    }
}

fn checked_kind(object: &str) -> Result<String, Fault> {
    let is_word = |letter: u8| letter.is_ascii_lowercase() || letter == b'-';
    if (1..=100).contains(&object.len()) && object.bytes().all(is_word) {
        return Ok(object.to_owned());
    }
    Err(Fault::of_field("object", "object must be the word of a kind of thing, as entries have it: user, token, …"))
}

fn checked_who(who: &str) -> Result<String, Fault> {
    if who.parse::<Id>().is_ok() || ["host", "portal", "nobody"].contains(&who) {
        return Ok(who.to_owned());
    }
    Err(Fault::of_field("who", "who must be the identifier of a person, or one of host, portal and nobody"))
}

fn follows(number: i64, hash: &str, row: &AuditRow) -> Result<(), AuditFault> {
    if row.number != number + 1 {
        return Err(AuditFault::Missing { from: number + 1, to: row.number - 1 });
    }
    if chain_hash(hash, row.number, &row.body) != row.hash {
        return Err(AuditFault::Changed { number: row.number });
    }
    let told = chained(row.clone()).map_err(|_| AuditFault::Mislabeled { number: row.number })?;
    let same = told.entry.action == row.action && told.entry.id == row.object && told.entry.at == row.at;
    if same { Ok(()) } else { Err(AuditFault::Mislabeled { number: row.number }) }
}

fn chained(row: AuditRow) -> Result<ChainedEntry, Fault> {
    let entry = serde_json::from_str(&row.body)
        .map_err(|error| Fault::internal(format!("entry {} of the audit trail is unreadable: {error}", row.number)))?;
    Ok(ChainedEntry { number: row.number, entry, hash: row.hash })
}
