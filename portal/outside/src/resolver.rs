//! Names to addresses, as a step of its own: who connects looks at the addresses first, and uses
//! exactly these. A second look-up could give others.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;

use culvert_portal_seams::Answer;
use tokio::sync::Semaphore;

/// Finds the addresses of names.
pub(crate) trait Resolver: Send + Sync + Debug {
    /// All addresses of a name, in the order in which they should be tried.
    ///
    /// # Errors
    /// If there is no such name, or nobody to ask.
    fn addresses<'a>(&'a self, host: &'a str) -> Answer<'a, io::Result<Vec<IpAddr>>>;
}

/// Look-ups at once. Each holds a thread until the system gives up, long after who asked has.
const LOOKUPS_MAX: usize = 16;

/// The system's resolver.
#[derive(Debug, Clone)]
pub(crate) struct SystemResolver {
    lookups: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self { lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }
}

impl Resolver for SystemResolver {
    fn addresses<'a>(&'a self, host: &'a str) -> Answer<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let permit = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
            let host = host.to_owned();
            let lookup = move || {
                let found = (host.as_str(), 0).to_socket_addrs();
                drop(permit);
                Ok(found?.map(|address| address.ip()).collect())
            };
            tokio::task::spawn_blocking(lookup).await.map_err(io::Error::other)?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_knows_its_own_name_and_not_every_name() {
        let resolver = SystemResolver::default();
        let found = resolver.addresses("localhost").await.unwrap();
        assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
        resolver.addresses("no-such-host.invalid").await.unwrap_err();
    }
}
