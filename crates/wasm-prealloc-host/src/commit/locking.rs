//! Locks committed memory, see mlock(2), as [`LockMemory`] says.

use std::ptr::NonNull;

use crate::commit::requirements::LockMemory;
use crate::error::SecureError;
use crate::limits::headroom::Headroom;
use crate::limits::limit::Limit;
use crate::sys;

/// The decision whether memory is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locking {
    /// Nothing is locked.
    None,
    /// A refusal is accepted.
    IfPermitted,
    /// A refusal is an error.
    Required,
}

impl Locking {
    /// Decides for `bytes`, which are all to be locked or none of them.
    pub(crate) fn decide(choice: LockMemory, headroom: &Headroom, bytes: u64) -> Locking {
        match choice {
            LockMemory::Off => Locking::None,
            LockMemory::On => Locking::Required,
            LockMemory::Auto if !sys::HAS_LIMIT_FILES => Locking::None,
            LockMemory::Auto => {
                let mut readings = headroom.readings.iter();
                // There is no reading if nothing limits this process.
                match readings.find(|reading| reading.limit == Limit::LockedMemory) {
                    Some(reading) if reading.available_bytes < bytes => Locking::None,
                    _ => Locking::IfPermitted,
                }
            }
        }
    }

    /// Locks all ranges, and returns their size; or none of them if that is not required and the
    /// system refuses.
    ///
    /// # Safety
    /// The ranges are mapped and writable, and belong to the caller.
    pub(crate) unsafe fn lock(
        self,
        ranges: impl Iterator<Item = (NonNull<u8>, usize)> + Clone,
    ) -> Result<u64, SecureError> {
        if self == Locking::None {
            return Ok(0);
        }
        let mut locked_bytes = 0;
        for (start, bytes) in ranges.clone() {
            // SAFETY: the caller's promise.
            match unsafe { sys::lock_memory(start, bytes) } {
                Ok(()) => locked_bytes += bytes as u64,
                Err(source) if self == Locking::Required => {
                    return Err(SecureError::NotLocked {
                        bytes: bytes as u64,
                        source,
                    });
                }
                Err(_) => {
                    for (start, bytes) in ranges {
                        // SAFETY: the caller's promise.
                        unsafe { sys::unlock_memory(start, bytes) };
                    }
                    return Ok(0);
                }
            }
        }
        Ok(locked_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::limit::Reading;
    use crate::limits::visibility::Visibility;

    #[test]
    fn memory_is_locked_where_the_limit_allows_all_of_it() {
        let limited = |available| Headroom {
            readings: vec![Reading::new(Limit::LockedMemory, available, 0, 0)],
            visibility: Visibility::Complete,
        };
        let free = Headroom {
            readings: vec![],
            visibility: Visibility::Complete,
        };
        for (choice, headroom, expected) in [
            (LockMemory::Auto, &limited(4096), Locking::IfPermitted),
            (LockMemory::Auto, &limited(4095), Locking::None),
            (LockMemory::Auto, &free, Locking::IfPermitted),
            (LockMemory::On, &limited(0), Locking::Required),
            (LockMemory::Off, &free, Locking::None),
        ] {
            let decision = Locking::decide(choice, headroom, 4096);
            assert_eq!(decision, expected, "{choice} {headroom:?}");
        }
    }

    #[test]
    fn a_refusal_is_an_error_only_where_locking_is_required() {
        // Nothing is mapped at the first page.
        let start = NonNull::new(sys::page_bytes() as *mut u8).unwrap();
        let ranges = [(start, sys::page_bytes())].into_iter();
        for (locking, expected) in [
            (Locking::Required, None),
            (Locking::IfPermitted, Some(0)),
            (Locking::None, Some(0)),
        ] {
            // SAFETY: the kernel finds nothing that it could lock.
            let locked = unsafe { locking.lock(ranges.clone()) };
            assert_eq!(locked.as_ref().ok().copied(), expected, "{locked:?}");
        }
    }
}
