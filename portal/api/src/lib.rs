//! The REST API: `/api/v1`.
//!
//! A request passes the layers of [`mod@router`] (number, log, limits, who asks, repetition,
//! whether they may), then a handler of one of [`routes`], which reads what it was given, calls the
//! service, and writes the answer. What is refused becomes `application/problem+json` in
//! [`problem`]. Nothing here knows a database, and no handler decides who may do what: the service
//! does.
#![forbid(unsafe_code)]

pub mod address;
pub mod admission;
pub mod caller;
pub mod cookie;
pub mod cursor;
pub mod etag;
pub mod events;
pub mod head;
pub mod health;
pub mod landing;
pub mod metrics;
pub mod openapi;
pub mod problem;
pub mod query;
pub mod reading;
pub mod repetition;
pub mod request_log;
pub mod route_table;
pub mod router;
pub mod routes;
pub mod state;
pub mod streams;
pub mod strict_json;
pub mod tasks;

pub use router::router;
pub use state::Api;
