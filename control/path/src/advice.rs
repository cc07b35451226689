//! How transfers use path records: as a start rate, and for a warning if a transfer stays far below
//! the recorded rate.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use culvert_engine::clock::unix_ms;
use culvert_engine::partners::{Partners, PathAdvice};
use culvert_engine::records::Waiting;
use culvert_engine::transfer::blocking;
use culvert_model::request::Target;
use culvert_model::result::TransferResult;
use culvert_model::units::show_rate;
use culvert_perfsonar::probe::ramp::Confidence;
use culvert_protocol::identity::PublicKey;
use culvert_protocol::verdict::Limit;
use culvert_state::StateDirectory;

use crate::check::Side;
use crate::grades::{LOSS_WARN, part};
use crate::publish;
use crate::records::{self, PathRecord};
use crate::service::PathService;

/// A transfer below this fraction of the recorded rate gets a warning.
const WARN_BELOW: f64 = 0.5;
/// Shorter transfers spend too much of their time ramping up to say anything about the path.
const SECONDS_MIN: f64 = 2.0;

/// Answers the engine's questions about paths from the records.
#[derive(Debug)]
pub struct Advice {
    /// The node's partners.
    pub partners: Arc<dyn Partners>,
    /// The directory of the records.
    pub state: StateDirectory,
    /// The settings, which say how long a record is fresh.
    pub path: Arc<PathService>,
}

impl PathAdvice for Advice {
    fn start_rate(&self, partner: PublicKey) -> Waiting<'_, Option<u64>> {
        let (partners, state) = (self.partners.clone(), self.state.clone());
        let fresh_ms = self.path.settings().path.fresh_ms();
        Box::pin(blocking(move || {
            let (name, _) = partners.with_key(partner).ok()??;
            let records = records::read(&state, &name, Side::Send).ok()?;
            supported(records::fresh(&records, unix_ms(), fresh_ms)?)
        }))
    }
}

/// The name under which records keep a partner; none for far ends over ssh, which have no profile.
/// Reads files.
#[must_use]
pub fn name_of(partners: &dyn Partners, target: &Target) -> Option<String> {
    match target {
        Target::Profile(name) => Some(name.clone()),
        Target::Address { host, port } => Some(match partners.with_address(&format!("{host}:{port}")) {
            Ok(Some((name, _))) => name,
            _ => target.to_string(),
        }),
        Target::FarEnd { .. } => None,
    }
}

/// Records a transfer, publishes it if an archive is configured, and returns a warning if it stayed
/// far below the recorded rate. `here` is this node's name. Reads and writes files.
pub fn after_transfer(
    state: &StateDirectory,
    service: &PathService,
    here: &str,
    (partner, side): (&str, Side),
    result: &TransferResult,
) -> Option<String> {
    if result.seconds < SECONDS_MIN || result.segments_sent == 0 {
        return None;
    }
    let known = records::read(state, partner, side).unwrap_or_default();
    let now = unix_ms();
    let warning = records::fresh(&known, now, service.settings().path.fresh_ms())
        .and_then(|record| compare(result, record, partner));
    if let Err(error) = records::add(state, partner, side, records::of_transfer(result, now)) {
        say_aside!("culvert: the path's record could not be written: {error}");
    }
    if let Some(table) = &service.settings().archive {
        let document = publish::of_transfer(result, here, partner, side, now);
        let spooled = publish::spool(state, table).and_then(|spool| {
            publish::add(&spool, now, &[document])?;
            service.archive.dropped.fetch_add(spool.dropped(), Ordering::Relaxed);
            Ok(())
        });
        if let Err(why) = spooled {
            say_aside!("culvert: the transfer is not published: {why}");
        }
    }
    warning
}

/// The rate that a record supports from the first packet on: a smaller part of the measured rate
/// the lower the confidence.
fn supported(record: &PathRecord) -> Option<u64> {
    let percent = match record.confidence? {
        Confidence::High => 80,
        Confidence::Medium => 65,
        Confidence::Low => 40,
    };
    Some(record.rate_bits_per_second? / 100 * percent)
}

/// A warning if the path limited the transfer to far less than the recorded rate.
fn compare(result: &TransferResult, record: &PathRecord, partner: &str) -> Option<String> {
    let expected = record.rate_bits_per_second?;
    if result.goodput_bps as f64 >= expected as f64 * WARN_BELOW || result.verdict.limited_by != Some(Limit::Path) {
        return None;
    }
    let ip_bytes = u32::from(result.segment_bytes) + 100;
    let suspect = match (record.loss, record.mtu_bytes) {
        (Some(loss), _) if result.loss > LOSS_WARN * 10.0 && result.loss > loss * 10.0 => {
            format!("the likely cause is loss: {} now, {} then", part(result.loss), part(loss))
        }
        (_, Some(mtu)) if result.segment_bytes > 0 && ip_bytes < mtu.min(9_000) * 9 / 10 => {
            format!(
                "the likely cause is the MTU: segments of {} bytes now, packets of {mtu} bytes then",
                result.segment_bytes
            )
        }
        _ => "the likely cause is the rate: other traffic uses it, or the path has become slower".to_owned(),
    };
    Some(format!(
        "the transfer reached {}, but the path's record has {}; {suspect}. 'culvert path check \
         {partner}' measures again",
        show_rate(result.goodput_bps),
        show_rate(expected)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::tests::record;

    fn transfer(goodput_bps: u64, loss: f64, segment_bytes: u16, limited_by: Limit) -> TransferResult {
        let mut result = TransferResult::empty();
        result.goodput_bps = goodput_bps;
        result.loss = loss;
        result.segment_bytes = segment_bytes;
        result.segments_sent = 1_000_000;
        result.seconds = 10.0;
        result.verdict.limited_by = Some(limited_by);
        result
    }

    #[test]
    fn the_suspect_is_named() {
        let known = record(1, 10_000_000_000);
        let warning = |result: TransferResult| compare(&result, &known, "lab");
        assert_eq!(warning(transfer(9_000_000_000, 0.0, 8_948, Limit::Path)), None);
        assert_eq!(warning(transfer(1_000_000_000, 0.0, 8_948, Limit::SourceRead)), None);
        assert!(warning(transfer(1_000_000_000, 0.001, 8_948, Limit::Path)).unwrap().contains("cause is loss"));
        assert!(warning(transfer(1_000_000_000, 0.0, 1_400, Limit::Path)).unwrap().contains("cause is the MTU"));
        assert!(warning(transfer(1_000_000_000, 0.0, 8_948, Limit::Path)).unwrap().contains("cause is the rate"));
    }

    #[test]
    fn a_record_of_higher_confidence_supports_more() {
        let high = record(1, 1_000_000_000);
        let low = PathRecord { confidence: Some(Confidence::Low), ..high.clone() };
        assert_eq!((supported(&high), supported(&low)), (Some(800_000_000), Some(400_000_000)));
        assert_eq!(supported(&PathRecord { confidence: None, ..high }), None);
    }
}
