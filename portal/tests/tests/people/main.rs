//! What the service promises about people, on both databases, with a clock that the test moves.
// Seeds and measurements are shown when a test fails.
#![allow(clippy::print_stdout)]

mod authenticator;
mod devices;
mod finding;
mod identities;
mod issuer;
mod joining;
mod leaving;
mod logging_in;
mod second_factors;
mod stolen;
mod tokens;
