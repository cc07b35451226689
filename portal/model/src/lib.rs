//! The portal's words: people, roles, permissions, problems, and the documents of its API.
//!
//! Values only: nothing here knows a database, a request, or the time. The store keeps these, the
//! service decides with them, the API and the pages show them. What is secret is in none of them.
#![forbid(unsafe_code)]

pub mod audit;
pub mod devices;
pub mod event_kind;
pub mod field_fault;
pub mod id;
pub mod page;
pub mod passkeys;
pub mod people;
pub mod permission;
pub mod problem;
pub mod providers;
pub mod request;
pub mod role;
pub mod schedule;
pub mod scope;
pub mod settings;
pub mod webhooks;
pub mod whole_number;
