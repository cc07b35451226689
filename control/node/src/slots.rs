//! Slots held by hosts or partners, so that none of them can take everybody's.
//!
//! A connection that waits in a pool costs little, and only its next step shows whether it is
//! honest. Newcomers are therefore never refused there: the oldest waiting connection makes room,
//! first among the same holder's, then among those of the holder with the most. An honest
//! connection moves on within one or two round trips; one that just waits loses its slot to the
//! next. A busy one ([`Slot::settle`]) keeps its slot; if all are busy, the newcomer gets an
//! error.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// How many places there are.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For all together.
    pub all: usize,
    /// For each holder.
    pub each: usize,
}

/// No place is free, and none can be made free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// This holder has as many as it may.
    Holder,
    /// All are taken.
    All,
}

impl Full {
    /// The word for it in metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Holder => "own_places_taken",
            Self::All => "all_places_taken",
        }
    }
}

#[derive(Debug)]
struct Taken<K> {
    holder: K,
    /// Gone once its holder is at work.
    leave: Option<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct SlotTable<K> {
    next: u64,
    /// In the order in which they were taken.
    taken: BTreeMap<u64, Taken<K>>,
}

/// Places for holders of one kind.
#[derive(Debug)]
pub struct SlotPool<K> {
    limits: Limits,
    table: Mutex<SlotTable<K>>,
}

impl<K: Copy + Eq + Hash> SlotPool<K> {
    /// Empty places.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, table: Mutex::new(SlotTable { next: 0, taken: BTreeMap::new() }) })
    }

    fn lock(&self) -> MutexGuard<'_, SlotTable<K>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot, evicting the oldest waiting holder if none is free.
    ///
    /// # Errors
    /// [`Full`] if all candidates for eviction are busy.
    pub fn take(self: &Arc<Self>, holder: K) -> Result<Slot<K>, Full> {
        self.take_from(self.lock(), holder)
    }

    /// Like [`SlotPool::take`], for slots whose busy holders stay as long as they like, so that
    /// several holders together could lock out all others. A holder gets at most as many slots as
    /// remain free, so each leaves at least half of what it found, and the last `reserved` are for
    /// holders that have none.
    ///
    /// # Errors
    /// [`Full`].
    pub fn take_beside(self: &Arc<Self>, holder: K, reserved: usize) -> Result<Slot<K>, Full> {
        let table = self.lock();
        let (own, free) = (table.count_of(holder), self.limits.all.saturating_sub(table.taken.len()));
        if own > 0 && (own >= free || free <= reserved) {
            return Err(Full::Holder);
        }
        self.take_from(table, holder)
    }

    fn take_from(self: &Arc<Self>, mut table: MutexGuard<'_, SlotTable<K>>, holder: K) -> Result<Slot<K>, Full> {
        let own = table.count_of(holder);
        if own >= self.limits.each {
            table.make_room(|taken| *taken == holder).ok_or(Full::Holder)?;
        } else if table.taken.len() >= self.limits.all {
            let largest = table.largest().ok_or(Full::All)?;
            table.make_room(|taken| *taken == largest).ok_or(Full::All)?;
        }
        let (leave, asked) = oneshot::channel();
        let id = table.next;
        table.next += 1;
        table.taken.insert(id, Taken { holder, leave: Some(leave) });
        drop(table);
        Ok(Slot { slots: self.clone(), id, asked: Some(asked) })
    }

    /// How many are taken.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().taken.len()
    }
}

impl<K: Copy + Eq + Hash> SlotTable<K> {
    fn count_of(&self, holder: K) -> usize {
        self.taken.values().filter(|taken| taken.holder == holder).count()
    }

    /// The holder with the most places, among those that have one that can be made free.
    fn largest(&self) -> Option<K> {
        let mut counts: HashMap<K, (usize, bool)> = HashMap::new();
        for taken in self.taken.values() {
            let (count, has_idle) = counts.entry(taken.holder).or_default();
            *count += 1;
            *has_idle |= taken.leave.is_some();
        }
        counts.into_iter().filter(|(_, (_, has_idle))| *has_idle).max_by_key(|(_, (count, _))| *count).map(|(k, _)| k)
    }

    /// Asks the one that has sat longest, among the holders that `may` names, to leave.
    fn make_room(&mut self, may: impl Fn(&K) -> bool) -> Option<()> {
        let (&id, _) = self.taken.iter().find(|(_, taken)| taken.leave.is_some() && may(&taken.holder))?;
        // If it has gone meanwhile it need not know.
        self.taken.remove(&id)?.leave.map(|leave| leave.send(())).map(drop)
    }
}

/// A place; free again when it is dropped.
#[derive(Debug)]
pub struct Slot<K: Copy + Eq + Hash> {
    slots: Arc<SlotPool<K>>,
    id: u64,
    asked: Option<oneshot::Receiver<()>>,
}

impl<K: Copy + Eq + Hash> Slot<K> {
    /// Waits until somebody else needs the place. It is lost then.
    pub async fn lost(&mut self) {
        if let Some(asked) = &mut self.asked {
            let lost = asked.await.is_ok();
            self.asked = None;
            if lost {
                return;
            }
        }
        // At work, or told already.
        std::future::pending::<()>().await;
    }

    /// Marks the holder as busy, so that it keeps the slot; false if it is already lost.
    #[must_use]
    pub fn settle(&self) -> bool {
        self.worker().settle()
    }

    /// What settles while somebody else waits whether the place is lost.
    #[must_use]
    pub fn worker(&self) -> Worker<K> {
        Worker { slots: self.slots.clone(), id: self.id }
    }
}

/// See [`Slot::worker`].
#[derive(Clone, Debug)]
pub struct Worker<K> {
    slots: Arc<SlotPool<K>>,
    id: u64,
}

impl<K: Copy + Eq + Hash> Worker<K> {
    /// See [`Slot::settle`].
    #[must_use]
    pub fn settle(&self) -> bool {
        match self.slots.lock().taken.get_mut(&self.id) {
            Some(taken) => {
                taken.leave = None;
                true
            }
            None => false,
        }
    }
}

impl<K: Copy + Eq + Hash> Drop for Slot<K> {
    fn drop(&mut self) {
        self.slots.lock().taken.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_lost(place: &mut Slot<u32>) -> bool {
        use std::future::Future as _;
        let lost = std::pin::pin!(place.lost());
        lost.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn who_has_sat_longest_among_the_same_holders_makes_room() {
        let slots = SlotPool::new(Limits { all: 10, each: 2 });
        let (mut first, mut second) = (slots.take(1).unwrap(), slots.take(1).unwrap());
        let mut other = slots.take(2).unwrap();
        let mut third = slots.take(1).unwrap();
        assert!(is_lost(&mut first) && !is_lost(&mut second) && !is_lost(&mut other) && !is_lost(&mut third));
        assert_eq!(slots.count(), 3);
        drop(first);
        assert_eq!(slots.count(), 3, "a place was given back twice");
    }

    #[test]
    fn the_holder_with_most_makes_room_for_another() {
        let slots = SlotPool::new(Limits { all: 6, each: 5 });
        let mut greedy: Vec<_> = (0..5).map(|_| slots.take(1).unwrap()).collect();
        let mut modest = slots.take(2).unwrap();
        let mut fresh: Vec<_> = (3..6).map(|holder| slots.take(holder).unwrap()).collect();
        let lost = greedy.iter_mut().filter_map(|place| is_lost(place).then_some(())).count();
        assert_eq!(lost, 3);
        assert!(!is_lost(&mut modest) && !fresh.iter_mut().any(is_lost));
    }

    #[test]
    fn who_is_at_work_stays_and_who_comes_is_told() {
        let slots = SlotPool::new(Limits { all: 3, each: 2 });
        let (mut one, two) = (slots.take(1).unwrap(), slots.take(1).unwrap());
        assert!(one.settle() && two.settle());
        assert_eq!(slots.take(1).err(), Some(Full::Holder));
        let third = slots.take(2).unwrap();
        assert!(third.settle());
        assert_eq!(slots.take(3).err(), Some(Full::All));
        assert!(!is_lost(&mut one));
        drop(two);
        assert!(slots.take(3).is_ok());
    }

    #[test]
    fn holders_at_work_leave_places_to_those_that_have_none() {
        let slots = SlotPool::new(Limits { all: 64, each: 32 });
        let mut held = Vec::new();
        let mut take_all = |holder: u32| {
            let before = held.len();
            while let Ok(place) = slots.take_beside(holder, 4) {
                assert!(place.settle());
                held.push(place);
            }
            held.len() - before
        };
        let taken: Vec<usize> = (0..4).map(&mut take_all).collect();
        assert_eq!(taken, [32, 16, 8, 4], "each as many as it leaves");
        // Four are left: one for each that has none.
        assert_eq!((4..9).map(&mut take_all).collect::<Vec<_>>(), [1, 1, 1, 1, 0]);
        assert_eq!(take_all(0), 0);
        assert_eq!(slots.take_beside(9, 4).err(), Some(Full::All));
        held.truncate(24);
        let place = slots.take_beside(9, 4).unwrap();
        assert!(slots.take_beside(9, 4).is_ok(), "there is room again");
        drop(place);
    }
}
