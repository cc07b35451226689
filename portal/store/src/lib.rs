//! The portal's truth: its tables, in SQLite or in PostgreSQL.
//!
//! One text of SQL runs on both: parameters are `$1`, times and truth are whole numbers, texts of
//! structure are JSON. Where the two differ ([`kind::Kind`]) is the locking of rows and how a
//! transaction begins. Every module is one table or a few that go together, as functions over a
//! [`Reading`] or a [`Writing`]; what belongs to one change is one [`Writing`], which is all there
//! or not at all.
//!
//! Nothing here decides anything: who may, when, and why is the service's.
#![forbid(unsafe_code)]

pub mod audit;
pub mod ceremonies;
pub mod database;
pub mod deliveries;
pub mod devices;
pub mod error;
pub mod events;
pub mod groups;
pub mod idempotency;
pub mod identities;
pub mod invitations;
pub mod keys;
pub mod kind;
pub mod limits;
pub mod links;
mod many;
mod migrations;
pub mod outbox;
pub mod passkeys;
pub mod providers;
pub mod recovery_codes;
mod row;
pub mod sessions;
pub mod settings;
pub mod tokens;
pub mod users;
pub mod webhooks;
mod writer;

pub use database::{Database, Reading, Reads, Writing};
pub use error::StoreError;
