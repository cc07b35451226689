//! Tools that people move data with today, as contenders. Each comes from the distribution; one
//! that is not installed is skipped by name.

mod certificates;
mod gridftp;
mod installed;
pub mod iperf3;
mod ssh;
mod xrootd;

pub use gridftp::{GridFtp, Security};
pub use ssh::Ssh;
pub use xrootd::Xrootd;
