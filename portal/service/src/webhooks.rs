//! Webhooks: events, sent to addresses that people have entered.
//!
//! The sequencer makes a delivery of each event for each webhook that wants it and whose owner may
//! follow it ([`fan_out`]), in the transaction that numbers the event. Any portal of the database
//! takes what is due, for a short time, tries it, and notes what became of it ([`deliver`]): so
//! each is sent at least once, and again under the same identifier if a portal dies while it sends.
//! The order is not promised. People manage webhooks by [`manage`], and see the log by [`log`].

pub mod deliver;
pub mod fan_out;
pub mod log;
pub mod manage;
pub mod secret;
