//! Tools that people move data with today, as contenders. Each comes from the distribution; one
//! that is not installed is skipped by name.

mod certificates;
mod gridftp;
pub mod iperf3;
mod ssh;
mod xrootd;

pub use gridftp::{GridFtp, Security};
pub use ssh::Ssh;
pub use xrootd::Xrootd;

use anyhow::ensure;

/// Makes sure that the programs of a peer are installed.
fn need(programs: &[&str]) -> anyhow::Result<()> {
    for program in programs {
        ensure!(culvert_tests::program::is_installed(program), "{program} is not installed");
    }
    Ok(())
}
