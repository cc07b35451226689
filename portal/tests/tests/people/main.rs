//! What the service promises about people, on both databases, with a clock that the test moves.

mod authenticator;
mod devices;
mod identities;
mod issuer;
mod joining;
mod leaving;
mod logging_in;
mod second_factors;
mod tokens;
