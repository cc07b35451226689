//! Other tools for moving data, as contenders. They come from the distribution; a tool that is not
//! installed is skipped by name.

mod certificates;
mod gridftp;
mod installed;
pub mod iperf3;
mod ssh;
mod xrootd;

pub use gridftp::{GridFtp, Security};
pub use ssh::Ssh;
pub use xrootd::Xrootd;
