//! What the portal does, without HTTP and without SQL.
//!
//! [`portal::Portal`] holds the database and the seams to the world. Each operation is a function
//! of one module: it asks the table of permissions ([`actor`]), checks what it was given
//! ([`input`]), changes the database in one transaction, and says in that transaction what it has
//! changed ([`trail`]): an entry of the audit trail, and events. The [`sequencer`] numbers both in
//! the order of commits.
#![forbid(unsafe_code)]

pub mod actor;
pub mod audit;
pub mod chain;
pub mod credential_cache;
pub mod current_settings;
pub mod events;
pub mod fault;
pub mod housekeeping;
pub mod idempotency;
pub mod input;
pub mod limits;
pub mod mail;
pub mod mail_login;
pub mod oidc;
pub mod people;
pub mod portal;
pub mod presence;
pub mod sealing;
pub mod secret;
pub mod sequencer;
pub mod settings;
pub mod signing;
pub mod tally;
pub mod trail;
pub mod webauthn;
pub mod webhooks;
pub mod world;
