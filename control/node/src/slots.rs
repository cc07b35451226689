//! Slots held per host or partner, so that no holder can take them all.
//!
//! A connection that waits in a pool costs little, and only its next message shows whether it is
//! honest. A pool of waiting connections therefore never refuses a newcomer: it evicts the oldest
//! waiting connection, first among those of the same holder, otherwise among those of the holder
//! with the most slots. An honest connection moves on within one or two round trips; an idle one
//! loses its slot to the next newcomer. A busy connection ([`Slot::mark_busy`]) keeps its slot; if
//! all candidates are busy, the newcomer gets an error.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// How many slots a pool has.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For all holders together.
    pub all: usize,
    /// For each holder; at most `all`.
    pub each: usize,
}

/// No slot is free, and nobody can be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// This holder has as many slots as it may have.
    Holder,
    /// All slots are taken.
    All,
}

impl Full {
    /// The label in metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Holder => "own_places_taken",
            Self::All => "all_places_taken",
        }
    }
}

/// A pool of slots for holders of one kind.
#[derive(Debug)]
pub struct SlotPool<K> {
    limits: Limits,
    table: Mutex<SlotTable<K>>,
}

impl<K: Copy + Eq + Hash> SlotPool<K> {
    /// A pool whose slots are all free.
    ///
    /// # Panics
    /// If a holder may have no slot, or more than there are.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        // Invariant I-slots-limits: A pool grants each holder at least one slot and at most all of
        // them.
        assert!(0 < limits.each && limits.each <= limits.all, "a pool with the limits {limits:?}");
        Arc::new(Self { limits, table: Mutex::new(SlotTable { next_id: 0, taken: BTreeMap::new() }) })
    }

    /// Takes a slot, evicting the oldest waiting holder if none is free.
    ///
    /// # Errors
    /// [`Full`] if all candidates for eviction are busy.
    pub fn take(self: &Arc<Self>, holder: K) -> Result<Slot<K>, Full> {
        self.take_from(self.lock(), holder)
    }

    /// Like [`SlotPool::take`], for slots that busy holders keep for as long as they like, so that
    /// several holders together could lock out all others. A holder gets at most as many slots as
    /// remain free, so each leaves at least half of the slots that it found free, and the last
    /// `reserved` slots are for holders that have none.
    ///
    /// # Errors
    /// [`Full`].
    pub fn take_share(self: &Arc<Self>, holder: K, reserved: usize) -> Result<Slot<K>, Full> {
        let table = self.lock();
        let (own, free) = (table.count_of(holder), self.limits.all.saturating_sub(table.taken.len()));
        if own > 0 && (own >= free || free <= reserved) {
            return Err(Full::Holder);
        }
        self.take_from(table, holder)
    }

    /// How many slots are taken.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().taken.len()
    }

    fn take_from(self: &Arc<Self>, mut table: MutexGuard<'_, SlotTable<K>>, holder: K) -> Result<Slot<K>, Full> {
        let mut own = table.count_of(holder);
        if own >= self.limits.each {
            table.evict_oldest_of(holder).ok_or(Full::Holder)?;
            own -= 1;
        } else if table.taken.len() >= self.limits.all {
            let largest = table.largest_evictable_holder().ok_or(Full::All)?;
            table.evict_oldest_of(largest).ok_or(Full::All)?;
        }
        // Invariant I-slots-bounds: Neither a holder nor all holders together ever have more slots
        // than the pool's limits.
        assert!(own < self.limits.each && table.taken.len() < self.limits.all, "a pool holds more than its limits");
        let (evict, evicted) = oneshot::channel();
        let id = table.insert(TakenSlot { holder, evict: Some(evict) });
        drop(table);
        Ok(Slot { pool: self.clone(), id, evicted: Some(evicted) })
    }

    fn lock(&self) -> MutexGuard<'_, SlotTable<K>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot, which is free again when this is dropped.
#[derive(Debug)]
pub struct Slot<K: Copy + Eq + Hash> {
    pool: Arc<SlotPool<K>>,
    id: u64,
    evicted: Option<oneshot::Receiver<()>>,
}

impl<K: Copy + Eq + Hash> Slot<K> {
    /// Waits until this slot is given to a newcomer. A busy slot waits forever.
    pub async fn evicted(&mut self) {
        if let Some(evicted) = &mut self.evicted {
            let is_evicted = evicted.await.is_ok();
            self.evicted = None;
            if is_evicted {
                return;
            }
        }
        // The holder is busy, or the eviction was reported before.
        std::future::pending::<()>().await;
    }

    /// Marks the holder as busy, so that it keeps the slot; false if the slot is already lost.
    #[must_use]
    pub fn mark_busy(&self) -> bool {
        self.handle().mark_busy()
    }

    /// Marks the slot as busy while another task waits for its eviction.
    #[must_use]
    pub fn handle(&self) -> SlotHandle<K> {
        SlotHandle { pool: self.pool.clone(), id: self.id }
    }
}

impl<K: Copy + Eq + Hash> Drop for Slot<K> {
    fn drop(&mut self) {
        // An evicted slot has left the table already; ids are never reused.
        self.pool.lock().taken.remove(&self.id);
    }
}

/// See [`Slot::handle`].
#[derive(Clone, Debug)]
pub struct SlotHandle<K> {
    pool: Arc<SlotPool<K>>,
    id: u64,
}

impl<K: Copy + Eq + Hash> SlotHandle<K> {
    /// See [`Slot::mark_busy`].
    #[must_use]
    pub fn mark_busy(&self) -> bool {
        match self.pool.lock().taken.get_mut(&self.id) {
            Some(taken) => {
                taken.evict = None;
                true
            }
            None => false,
        }
    }
}

#[derive(Debug)]
struct SlotTable<K> {
    next_id: u64,
    /// By id, hence oldest first.
    taken: BTreeMap<u64, TakenSlot<K>>,
}

#[derive(Debug)]
struct TakenSlot<K> {
    holder: K,
    /// Evicts the holder; none once it is busy.
    evict: Option<oneshot::Sender<()>>,
}

impl<K: Copy + Eq + Hash> SlotTable<K> {
    fn insert(&mut self, slot: TakenSlot<K>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let earlier = self.taken.insert(id, slot);
        // Invariant I-slots-id: An id names one slot for the life of its pool, so a slot that is
        // dropped late frees no other.
        assert!(earlier.is_none(), "two slots have the id {id}");
        id
    }

    fn count_of(&self, holder: K) -> usize {
        self.taken.values().filter(|taken| taken.holder == holder).count()
    }

    /// The holder with the most slots, among those with a slot that can be evicted.
    fn largest_evictable_holder(&self) -> Option<K> {
        let mut counts: HashMap<K, (usize, bool)> = HashMap::new();
        for taken in self.taken.values() {
            let (count, is_evictable) = counts.entry(taken.holder).or_default();
            *count += 1;
            *is_evictable |= taken.evict.is_some();
        }
        let evictable = counts.into_iter().filter(|(_, (_, is_evictable))| *is_evictable);
        evictable.max_by_key(|(_, (count, _))| *count).map(|(holder, _)| holder)
    }

    /// Frees the oldest slot of `holder` that is not busy; none if all are.
    fn evict_oldest_of(&mut self, holder: K) -> Option<()> {
        let is_evictable = |taken: &TakenSlot<K>| taken.evict.is_some() && taken.holder == holder;
        let (&id, _) = self.taken.iter().find(|(_, taken)| is_evictable(taken))?;
        let evict = self.taken.remove(&id)?.evict?;
        // A receiver that is gone has dropped its slot in the meantime.
        let _ = evict.send(());
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_evicted(slot: &mut Slot<u32>) -> bool {
        use std::future::Future as _;
        let evicted = std::pin::pin!(slot.evicted());
        evicted.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn the_oldest_slot_of_the_same_holder_is_evicted() {
        let slots = SlotPool::new(Limits { all: 10, each: 2 });
        let (mut first, mut second) = (slots.take(1).unwrap(), slots.take(1).unwrap());
        let mut other = slots.take(2).unwrap();
        let mut third = slots.take(1).unwrap();
        assert!(
            is_evicted(&mut first) && !is_evicted(&mut second) && !is_evicted(&mut other) && !is_evicted(&mut third)
        );
        assert_eq!(slots.count(), 3);
        drop(first);
        assert_eq!(slots.count(), 3, "a slot was freed twice");
    }

    #[test]
    fn the_holder_with_the_most_slots_makes_room_for_another() {
        let slots = SlotPool::new(Limits { all: 6, each: 5 });
        let mut greedy: Vec<_> = (0..5).map(|_| slots.take(1).unwrap()).collect();
        let mut modest = slots.take(2).unwrap();
        let mut fresh: Vec<_> = (3..6).map(|holder| slots.take(holder).unwrap()).collect();
        let evicted = greedy.iter_mut().filter_map(|slot| is_evicted(slot).then_some(())).count();
        assert_eq!(evicted, 3);
        assert!(!is_evicted(&mut modest) && !fresh.iter_mut().any(is_evicted));
    }

    #[test]
    fn busy_holders_stay_and_the_newcomer_gets_an_error() {
        let slots = SlotPool::new(Limits { all: 3, each: 2 });
        let (mut one, two) = (slots.take(1).unwrap(), slots.take(1).unwrap());
        assert!(one.mark_busy() && two.mark_busy());
        assert_eq!(slots.take(1).err(), Some(Full::Holder));
        let third = slots.take(2).unwrap();
        assert!(third.mark_busy());
        assert_eq!(slots.take(3).err(), Some(Full::All));
        assert!(!is_evicted(&mut one));
        drop(two);
        assert!(slots.take(3).is_ok());
    }

    #[test]
    fn busy_holders_leave_slots_for_those_that_have_none() {
        let slots = SlotPool::new(Limits { all: 64, each: 32 });
        let mut held = Vec::new();
        let mut take_all = |holder: u32| {
            let before = held.len();
            while let Ok(slot) = slots.take_share(holder, 4) {
                assert!(slot.mark_busy());
                held.push(slot);
            }
            held.len() - before
        };
        let taken: Vec<usize> = (0..4).map(&mut take_all).collect();
        assert_eq!(taken, [32, 16, 8, 4], "each takes as many as it leaves");
        // Four are left: one for each that has none.
        assert_eq!((4..9).map(&mut take_all).collect::<Vec<_>>(), [1, 1, 1, 1, 0]);
        assert_eq!(take_all(0), 0);
        assert_eq!(slots.take_share(9, 4).err(), Some(Full::All));
        held.truncate(24);
        let slot = slots.take_share(9, 4).unwrap();
        assert!(slots.take_share(9, 4).is_ok(), "there is room again");
        drop(slot);
    }
}
