//! What the service promises about people, on both databases, with a clock that the test moves.

mod devices;
mod logging_in;
