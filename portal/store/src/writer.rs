//! The one writer of an SQLite database: transactions take turns on it, and those that wait for
//! one another are committed together.
//!
//! A commit waits for the disk (`synchronous = FULL`), and only one transaction writes at a time:
//! one commit for each would do as many changes a second as the disk does flushes. So a transaction
//! of SQLite lasts as long as somebody waits for a turn, within bounds; each turn is a savepoint in
//! it, kept or rolled back by itself. Whoever has kept theirs hears of it when all of it is on the
//! disk, or that none of it is. decisions/0087 has the figures.

use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool, Executor as _};
use tokio::sync::{mpsc, oneshot};

use crate::error::StoreError;

/// Turns that may wait. Those beyond wait to wait.
const WAITING_MAX: usize = 1_024;
/// Changes that are committed together at most.
const CHANGES_MAX: usize = 128;
/// No turn begins so long after the first of its transaction: nobody waits much longer than their
/// own work and a commit take.
const LASTING_MAX: Duration = Duration::from_millis(20);
/// How long the connection is kept for the next transaction: getting it from the pool costs as much
/// as a statement, twice. A database that is closed waits for it.
const HELD_FOR: Duration = Duration::from_millis(100);

const BEGIN: &str = "BEGIN IMMEDIATE; SAVEPOINT turn;";

/// Gives turns. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Writer(mpsc::Sender<Ask>);

/// Somebody who waits for a turn.
type Ask = oneshot::Sender<Result<Turn, StoreError>>;
/// Somebody who waits for the commit.
type Kept = oneshot::Sender<Result<(), StoreError>>;

/// The connection, for one change. Dropped without [`Turn::keep`], it has changed nothing.
#[derive(Debug)]
pub struct Turn(Option<Lent>);

#[derive(Debug)]
struct Lent {
    connection: PoolConnection<Any>,
    home: oneshot::Sender<(PoolConnection<Any>, Option<Kept>)>,
}

impl Writer {
    /// A writer on the only connection of a pool. It ends with the last of its clones.
    pub fn start(pool: AnyPool) -> Self {
        let (asks, asked) = mpsc::channel(WAITING_MAX);
        tokio::spawn(run(pool, asked));
        Self(asks)
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// [`StoreError`] if it does not come within `patience`, or the database cannot be written.
    pub async fn turn(&self, patience: Duration) -> Result<Turn, StoreError> {
        let (ask, answer) = oneshot::channel();
        let turn = async {
            self.0.send(ask).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        };
        let late = |_| StoreError::Unavailable(format!("no turn to write came within {} s", patience.as_secs()));
        tokio::time::timeout(patience, turn).await.map_err(late)?
    }
}

impl Turn {
    /// Keeps what was changed; it is on the disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`] if nothing of it is.
    pub async fn keep(mut self) -> Result<(), StoreError> {
        let Some(Lent { connection, home }) = self.0.take() else { return Err(gone()) };
        let (kept, committed) = oneshot::channel();
        let _ = home.send((connection, Some(kept)));
        committed.await.map_err(|_| gone())?
    }

    /// The connection.
    ///
    /// # Panics
    /// Never: it is there until the turn ends.
    pub fn connection(&mut self) -> &mut AnyConnection {
        &mut self.0.as_mut().expect("a turn has its connection until it ends").connection
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(Lent { connection, home }) = self.0.take() {
            let _ = home.send((connection, None));
        }
    }
}

async fn run(pool: AnyPool, mut asked: mpsc::Receiver<Ask>) {
    let mut held: Option<PoolConnection<Any>> = None;
    loop {
        let patience = if held.is_some() { HELD_FOR } else { Duration::MAX };
        let ask = match tokio::time::timeout(patience, next(&mut asked)).await {
            Ok(Some(ask)) => ask,
            Ok(None) => return,
            Err(_) => {
                held = None;
                continue;
            }
        };
        match begin(&pool, held.take()).await {
            Ok(connection) => held = transact(connection, ask, &mut asked).await,
            Err(error) => drop(ask.send(Err(error))),
        }
    }
}

async fn begin(pool: &AnyPool, held: Option<PoolConnection<Any>>) -> Result<PoolConnection<Any>, StoreError> {
    let mut connection = match held {
        Some(connection) => connection,
        None => pool.acquire().await?,
    };
    match connection.execute(BEGIN).await {
        Ok(_) => Ok(connection),
        Err(error) => {
            abandon(connection).await;
            Err(error.into())
        }
    }
}

/// One transaction: turns, as long as somebody waits for one, and the commit. Gives the connection
/// back if it is still good.
async fn transact(
    mut connection: PoolConnection<Any>,
    first: Ask,
    asked: &mut mpsc::Receiver<Ask>,
) -> Option<PoolConnection<Any>> {
    let (began, mut kept, mut ask) = (Instant::now(), Vec::new(), Some(first));
    while let Some(now) = ask.take() {
        let Some((back, change)) = lend(connection, now).await else {
            tell(kept, &Err(gone()));
            return None;
        };
        connection = back;
        let is_kept = change.is_some();
        kept.extend(change);
        let has_room = kept.len() < CHANGES_MAX && began.elapsed() < LASTING_MAX;
        ask = if has_room { waiting(asked) } else { None };
        let end = match (is_kept, ask.is_some(), kept.is_empty()) {
            (true, true, _) => "RELEASE turn; SAVEPOINT turn;",
            (true, false, _) => "RELEASE turn; COMMIT;",
            (false, true, _) => "ROLLBACK TO turn; RELEASE turn; SAVEPOINT turn;",
            (false, false, false) => "ROLLBACK TO turn; RELEASE turn; COMMIT;",
            (false, false, true) => "ROLLBACK;",
        };
        if let Err(error) = connection.execute(end).await {
            // Such as a full disk, which has ended the transaction by itself.
            abandon(connection).await;
            if let Some(next) = ask {
                let _ = next.send(Err(undone(&error)));
            }
            tell(kept, &Err(failure(error)));
            return None;
        }
    }
    tell(kept, &Ok(()));
    Some(connection)
}

/// Lends the connection for a turn, and waits for it; with it comes whoever keeps a change.
async fn lend(connection: PoolConnection<Any>, ask: Ask) -> Option<(PoolConnection<Any>, Option<Kept>)> {
    let (home, returned) = oneshot::channel();
    // Whoever has gone meanwhile drops it, which gives it back.
    drop(ask.send(Ok(Turn(Some(Lent { connection, home })))));
    returned.await.ok()
}

async fn next(asked: &mut mpsc::Receiver<Ask>) -> Option<Ask> {
    loop {
        let ask = asked.recv().await?;
        if !ask.is_closed() {
            return Some(ask);
        }
    }
}

fn waiting(asked: &mut mpsc::Receiver<Ask>) -> Option<Ask> {
    loop {
        let ask = asked.try_recv().ok()?;
        if !ask.is_closed() {
            return Some(ask);
        }
    }
}

/// Ends a connection whose state nobody knows; the pool makes another.
async fn abandon(mut connection: PoolConnection<Any>) {
    let _ = connection.execute("ROLLBACK").await;
    let _ = connection.close().await;
}

fn tell(kept: Vec<Kept>, result: &Result<(), StoreError>) {
    for one in kept {
        let _ = one.send(result.clone());
    }
}

fn failure(error: sqlx::Error) -> StoreError {
    match StoreError::from(error) {
        // "no such savepoint": another turn's failure has ended the transaction.
        StoreError::Failed(reason) => undone(&reason),
        other => other,
    }
}

fn undone(reason: &impl ToString) -> StoreError {
    StoreError::Unavailable(format!("the transaction failed that this was part of: {}", reason.to_string()))
}

fn gone() -> StoreError {
    StoreError::Unavailable("the portal stops".to_owned())
}
