//! A memory of a pool while it is lent.

use std::sync::Arc;

use crate::commit::requirements::WASM_PAGE_BYTES;
use crate::error::{LendError, PolicyError};
use crate::pool::loans::LentTo;
use crate::pool::shared::Shared;
use crate::pool::slot::{GUARD_BYTES, RESERVATION_BYTES, Slot};

/// A memory of a pool, lent until it is dropped. Then it is zeroed, in the thread that the pool's
/// [`Reset`](crate::Reset) names.
///
/// An engine's glue can rely on the layout, which is the same for every policy, every backing and
/// every operating system:
///
/// | from | to | access |
/// |---|---|---|
/// | base - [`guard_bytes`](Self::guard_bytes) | base | none |
/// | base | base + [`len`](Self::len) | read and write; resident, at first zero |
/// | base + [`len`](Self::len) | base + [`reservation_bytes`](Self::reservation_bytes) | none |
/// | the end of the reservation | that + [`guard_bytes`](Self::guard_bytes) | none |
///
/// The base is [`as_ptr`](Self::as_ptr), a multiple of 2 MiB that does not change while the memory
/// is lent. [`grow_to`](Self::grow_to) moves the end of the accessible part and nothing else. All
/// of the range belongs to this memory alone, and an access to a part without access causes a fault
/// (`SIGSEGV` on Unix).
///
/// A child that fork(2) makes does not have the memory. Dropping this value there does nothing.
#[derive(Debug)]
pub struct LentMemory {
    /// `None` only in `drop`.
    slot: Option<Slot>,
    shared: Arc<Shared>,
    bytes: usize,
    maximum_bytes: usize,
}

impl LentMemory {
    /// Lends a slot that was taken, with `minimum` wasm pages accessible and up to `limit`. `to` is
    /// the borrower, unless it was recorded when the slot was reserved.
    pub(crate) fn new(
        slot: Slot,
        shared: &Arc<Shared>,
        minimum: u64,
        limit: u64,
        to: Option<LentTo>,
    ) -> Result<LentMemory, LendError> {
        shared.count_loan(&slot, to);
        let mut lent = LentMemory {
            slot: Some(slot),
            shared: Arc::clone(shared),
            bytes: 0,
            // No more than a slot has, which is at most 4 GiB.
            maximum_bytes: (limit * WASM_PAGE_BYTES) as usize,
        };
        lent.resize((minimum * WASM_PAGE_BYTES) as usize)?;
        Ok(lent)
    }

    /// Makes exactly the first `bytes` accessible.
    fn resize(&mut self, bytes: usize) -> Result<(), LendError> {
        let slot = self.slot.as_mut().expect("there until dropped");
        slot.make_accessible(bytes)
            .map_err(|source| LendError::System {
                call: "mprotect",
                bytes: bytes as u64,
                source,
            })?;
        self.bytes = bytes;
        Ok(())
    }

    /// Returns the address of the first byte. It does not move while the memory is lent.
    pub fn as_ptr(&self) -> *mut u8 {
        let slot = self.slot.as_ref().expect("there until dropped");
        slot.base().as_ptr()
    }

    /// Returns the size of the address space that the memory has from its base on: 4 GiB, of which
    /// the first [`len`](Self::len) bytes are accessible. It covers every 32-bit address.
    pub fn reservation_bytes(&self) -> usize {
        RESERVATION_BYTES
    }

    /// Returns the least size of the guard before the base, and of the one after the reservation:
    /// 32 MiB. Both are inaccessible for as long as the memory is lent.
    pub fn guard_bytes(&self) -> usize {
        GUARD_BYTES
    }

    /// Returns the current size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Returns true if the current size is 0.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns the size that it can grow to, in bytes. All of it is committed.
    pub fn maximum_bytes(&self) -> usize {
        self.maximum_bytes
    }

    /// Makes more of the memory accessible, which is zero. If `bytes` is not more than the current
    /// size, nothing changes.
    ///
    /// # Errors
    /// [`PolicyError::SlotTooSmall`] above the maximum. [`LendError::Forked`] in a child.
    /// [`LendError::System`] if the operating system refuses to make committed memory accessible. A
    /// host has to stop then: on another machine the guest would continue.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), LendError> {
        if bytes <= self.bytes {
            return Ok(());
        }
        if bytes > self.maximum_bytes {
            return Err(LendError::Policy(PolicyError::SlotTooSmall {
                maximum: Some((bytes as u64).div_ceil(WASM_PAGE_BYTES)),
                slot_pages: self.maximum_bytes as u64 / WASM_PAGE_BYTES,
            }));
        }
        // In a child something else may be at the address.
        self.shared.check_here()?;
        self.resize(bytes)
    }

    /// Returns the memory up to its current size.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped and accessible for as long as this value lives, and writing
        // to it takes a mutable borrow of this value, or an engine that owns it.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.bytes) }
    }

    /// Returns the memory up to its current size, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and this value is mutably borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.bytes) }
    }
}

impl Drop for LentMemory {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.shared.take_back(slot);
        }
    }
}
