//! Each counterpart works by itself: what a test of the portal relies on is there, and is gone when
//! the test ends.
#![forbid(unsafe_code)]
// Seeds and measurements are shown when a test fails.
#![allow(clippy::print_stdout)]

mod browser;
mod nginx;
mod oidc_provider;
mod postgres;
mod python;
mod smtp;
mod tcp_proxy;
mod upstream;

use std::path::Path;
use std::time::{Duration, Instant};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something is so.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn runs(process_id: u32) -> bool {
    Path::new("/proc").join(process_id.to_string()).exists()
}
