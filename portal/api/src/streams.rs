//! Places for those who follow events: bounded for all, and for each person, so that nobody takes
//! the places of all others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use culvert_portal_model::id::Id;
use culvert_portal_model::problem::Problem;
use culvert_portal_service::fault::Fault;

use crate::metrics::ApiMetrics;

/// Streams of one portal.
const STREAMS_MAX: usize = 2_000;
/// Streams of one person at one portal.
const STREAMS_OF_PERSON_MAX: usize = 500;
/// When somebody who found no place may try again.
const RETRY_SECONDS: u32 = 30;

/// Who follows events, and by how many streams.
#[derive(Debug, Clone, Default)]
pub struct Streams(Arc<Mutex<HashMap<Id, usize>>>);

/// A place among the streams, given back when the stream ends.
#[derive(Debug)]
pub struct Place {
    user: Id,
    streams: Streams,
    metrics: Arc<ApiMetrics>,
}

impl Streams {
    /// Takes a place for a person.
    ///
    /// # Errors
    /// [`Problem::TooMany`] if there is none.
    pub fn take(&self, user: Id, metrics: &Arc<ApiMetrics>) -> Result<Place, Fault> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, own) = (open.values().sum::<usize>(), open.get(&user).copied().unwrap_or_default());
        if all >= STREAMS_MAX || own >= STREAMS_OF_PERSON_MAX {
            let whose = if all >= STREAMS_MAX { "" } else { " of yours" };
            let detail = format!("too many streams of events{whose} are open: try again in {RETRY_SECONDS} s");
            return Err(Fault { retry_after_seconds: Some(RETRY_SECONDS), ..Fault::new(Problem::TooMany, detail) });
        }
        open.insert(user, own + 1);
        metrics.streams.inc();
        Ok(Place { user, streams: self.clone(), metrics: metrics.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.user) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(open.remove(&self.user)),
        }
        self.metrics.streams.dec();
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn nobody_takes_all_places_and_places_come_back() {
        let metrics = Arc::new(ApiMetrics::new("0").unwrap());
        let streams = Streams::default();
        let id = |number: u8| Id::new(Timestamp::UNIX_EPOCH, &[number; 10]);
        let mut places = Vec::new();
        for person in 0..4 {
            places.extend((0..STREAMS_OF_PERSON_MAX).map(|_| streams.take(id(person), &metrics).unwrap()));
            let fault = streams.take(id(person), &metrics).unwrap_err();
            assert_eq!((fault.problem, fault.retry_after_seconds), (Problem::TooMany, Some(RETRY_SECONDS)));
        }
        assert_eq!(streams.take(id(9), &metrics).unwrap_err().problem, Problem::TooMany, "all are taken");
        places.pop();
        assert_eq!(metrics.streams.get(), 1_999);
        drop(streams.take(id(9), &metrics).unwrap());
        places.clear();
        assert_eq!(metrics.streams.get(), 0);
        assert!(streams.0.lock().unwrap().is_empty());
    }
}
