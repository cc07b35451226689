//! The host that a command examines: this one or a saved one, with its site file.

use std::path::Path;

use culvert_host::facts::Facts;
use culvert_host::fake::FakeHost;
use culvert_host::{Host, RealHost};

use super::arguments::SourceArgs;
use super::context::{CommandContext, Failure, exit};
use crate::audit::Audit;
use crate::site::Site;
use crate::site_file::SiteError;

/// The named site file, or the default one.
pub(super) fn load_site(named: Option<&Path>) -> Result<Site, Failure> {
    let bad = |error: SiteError| Failure::new(exit::BAD_HOST, error.to_string());
    match named {
        Some(path) => Site::load(path).map_err(bad),
        None => Site::of_this_host().map_err(bad),
    }
}

/// An examined host, this one or a saved one: its facts, site and audit.
pub(super) struct Examined {
    pub(super) facts: Facts,
    pub(super) audit: Audit,
    pub(super) host: Box<dyn Host>,
}

impl SourceArgs {
    /// Examines the selected host.
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
