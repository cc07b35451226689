//! What the service promises to operators, on both databases, with a clock that the test moves.
// Seeds and measurements are shown when a test fails.
#![allow(clippy::print_stdout)]

mod repetition;
mod sequencer;
mod webhooks;
