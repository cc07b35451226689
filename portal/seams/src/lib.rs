//! Where the portal touches the world: the clock, randomness, mail, and HTTP to other services.
//!
//! Each is a trait with the real implementation for clock and randomness beside it (those of mail
//! and HTTP are in `culvert-portal-outside`), and one for tests, which own the time, repeat
//! their random numbers from a seed, read the mail that was sent, and answer requests themselves.
#![forbid(unsafe_code)]

pub mod clock;
pub mod http;
pub mod mail;
pub mod randomness;

use std::future::Future;
use std::pin::Pin;

/// A future of a trait's method.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
