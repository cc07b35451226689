//! What the service promises to operators, on both databases, with a clock that the test moves.

mod sequencer;
mod webhooks;
