//! Checks whether the programs of a peer are installed.

use anyhow::ensure;

/// Makes sure that the programs of a peer are installed.
pub(super) fn need(programs: &[&str]) -> anyhow::Result<()> {
    for program in programs {
        ensure!(culvert_tests::program::is_installed(program), "{program} is not installed");
    }
    Ok(())
}
