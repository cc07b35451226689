//! Locks of what the registry shares: one that a panic left behind is as good as any, since what it
//! keeps is whole between any two steps.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
