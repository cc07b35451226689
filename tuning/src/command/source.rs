//! What a command looks at: this host or a saved one, with the site file that goes with it.

use std::path::Path;

use super::arguments::SourceArgs;
use super::context::{CommandContext, Failure, exit};
use crate::audit::Audit;
use crate::facts::Facts;
use crate::host::fake::FakeHost;
use crate::host::{Host, RealHost};
use crate::site::Site;
use crate::site_file::SiteError;

/// The site file that was named, or the one that every host may have.
pub(super) fn load_site(named: Option<&Path>) -> Result<Site, Failure> {
    let bad = |error: SiteError| Failure::new(exit::BAD_HOST, error.to_string());
    match named {
        Some(path) => Site::load(path).map_err(bad),
        None => Site::of_this_host().map_err(bad),
    }
}

/// Facts, site and audit, and the host that they are of: this one, or a saved one.
pub(super) struct Examined {
    pub(super) facts: Facts,
    pub(super) audit: Audit,
    pub(super) host: Box<dyn Host>,
}

impl SourceArgs {
    /// Looks at the host that was named.
    pub(super) fn examine(&self, context: &mut CommandContext<'_>) -> Result<Examined, Failure> {
        let site = load_site(self.site.as_deref())?;
        let (facts, host): (Facts, Box<dyn Host>) = match &self.facts {
            Some(path) => {
                let facts = Facts::load(path).map_err(|error| Failure::new(exit::BAD_HOST, error.to_string()))?;
                let host = FakeHost::from_facts(&facts);
                (facts, Box::new(host))
            }
            None => {
                let mut host = RealHost::open();
                context.recover_if_possible(&mut host);
                (host.facts(&site.partners_to_ask(), self.probe), Box::new(host))
            }
        };
        let audit = Audit::run(&facts, &site, self.profile);
        Ok(Examined { facts, audit, host })
    }
}
