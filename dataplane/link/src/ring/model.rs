//! The ring on a model of weak memory: loom runs two threads through every order of their accesses,
//! and lets each read see every value that the memory model permits. The code is the one that the
//! processes run; only the memory is the model's.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::sync::{Condvar, Mutex};

use super::{Consumer, Full, Producer, RECORD_BYTES_MAX, RING_CONTROL_BYTES, RingMemory, RingPlace};

/// Two records of eight bytes: the third meets a full ring.
const PLACE: RingPlace = RingPlace { offset: 0, data_bytes: 32 };

/// Words of the model. Records are relaxed: that their bytes are seen is up to the indices.
struct ModelMemory {
    control: [AtomicU64; 3],
    data: [AtomicU64; 4],
}

impl ModelMemory {
    fn new() -> Arc<Self> {
        let word = || AtomicU64::new(0);
        Arc::new(Self { control: [word(), word(), word()], data: [word(), word(), word(), word()] })
    }

    /// The three words of the control lines, each on a line of its own.
    fn word(&self, offset: usize) -> &AtomicU64 {
        assert_eq!(offset % 64, 0);
        &self.control[offset / 64]
    }
}

impl RingMemory for ModelMemory {
    fn load(&self, offset: usize, ordering: Ordering) -> u64 {
        self.word(offset).load(ordering)
    }

    fn store(&self, offset: usize, value: u64, ordering: Ordering) {
        self.word(offset).store(value, ordering);
    }

    fn swap(&self, offset: usize, value: u64, ordering: Ordering) -> u64 {
        self.word(offset).swap(value, ordering)
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        for (at, word) in bytes.chunks_exact(8).enumerate() {
            let value = u64::from_le_bytes(word.try_into().unwrap());
            self.data[(offset - RING_CONTROL_BYTES) / 8 + at].store(value, Ordering::Relaxed);
        }
    }

    fn copy_out(&self, offset: usize, out: &mut [u8]) {
        for (at, word) in out.chunks_exact_mut(8).enumerate() {
            let value = self.data[(offset - RING_CONTROL_BYTES) / 8 + at].load(Ordering::Relaxed);
            word.copy_from_slice(&value.to_le_bytes());
        }
    }

    fn size_bytes(&self) -> usize {
        PLACE.bytes()
    }
}

/// A doorbell: if rung before or during a wait, it wakes the waiter.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// In any order, the reader gets every record once and complete, and never sleeps while one is
/// waiting: loom reports a sleeper that is never woken as a deadlock.
#[test]
fn every_record_arrives_and_no_sleeper_is_forgotten() {
    const RECORDS: u64 = 2;
    // More changes of thread at any place take a minute and have shown nothing further;
    // LOOM_MAX_PREEMPTIONS sets another number.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(4));
    model.check(|| {
        let memory = ModelMemory::new();
        let bell = Arc::new(Bell::default());
        let (mut producer, mut consumer) = (Producer::new(memory.clone(), PLACE), Consumer::new(memory, PLACE));
        let writers_bell = bell.clone();
        let writer = loom::thread::spawn(move || {
            for number in 1..=RECORDS {
                let must_ring = producer.push(&(0x1111 * number).to_le_bytes()).expect("there is room for all");
                if must_ring {
                    writers_bell.ring();
                }
            }
        });
        let mut scratch = Box::new([0; RECORD_BYTES_MAX]);
        let mut expected = 1;
        while expected <= RECORDS {
            match consumer.pop(&mut scratch).expect("the ring is sane") {
                Some(record) => {
                    assert_eq!(record, (0x1111 * expected).to_le_bytes());
                    expected += 1;
                }
                None if consumer.prepare_to_sleep() => {
                    bell.wait();
                    consumer.awake();
                }
                None => {}
            }
        }
        writer.join().unwrap();
    });
}

/// A writer that meets a full ring writes over nothing that is not read yet.
#[test]
fn a_full_ring_is_not_overwritten() {
    loom::model(|| {
        let memory = ModelMemory::new();
        let (mut producer, mut consumer) = (Producer::new(memory.clone(), PLACE), Consumer::new(memory, PLACE));
        for number in [1u64, 2] {
            producer.push(&number.to_le_bytes()).unwrap();
        }
        let writer = loom::thread::spawn(move || producer.push(&3u64.to_le_bytes()));
        let mut scratch = Box::new([0; RECORD_BYTES_MAX]);
        for number in [1u64, 2] {
            assert_eq!(consumer.pop(&mut scratch), Ok(Some(&number.to_le_bytes()[..])));
        }
        match writer.join().unwrap() {
            Ok(_) => assert_eq!(consumer.pop(&mut scratch), Ok(Some(&3u64.to_le_bytes()[..]))),
            Err(Full) => assert_eq!(consumer.pop(&mut scratch), Ok(None)),
        }
    });
}
