//! Locks that outlive a panic: no critical section in weir leaves what it guards half changed, so that a
//! poisoned lock is used on.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::Mutex,
    };

    use super::*;

    #[test]
    fn a_panic_of_another_user_does_not_close_a_lock() {
        let mutex = Mutex::new(1);
        let guarded = RwLock::new(1);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let (_mutex, _guarded) = (lock(&mutex), write(&guarded));
            panic!("while both are held");
        }));
        assert!(panicked.is_err());
        *lock(&mutex) += 1;
        *write(&guarded) += 1;
        assert_eq!((*lock(&mutex), *read(&guarded)), (2, 2));
    }
}
