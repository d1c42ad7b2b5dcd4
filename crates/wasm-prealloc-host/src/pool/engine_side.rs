//! The parts of a pool that an engine needs besides the slots: room for tables, and memory for the
//! engine's own heap.

use std::sync::Arc;

use crate::commit::backing::Backing;
use crate::commit::group::Group;
use crate::commit::requirements::{Requirements, WASM_PAGE_BYTES};
use crate::error::{Error, LendError, SecureError, VerifyError};
use crate::pool::lent::LentMemory;
use crate::pool::loans::LentTo;
use crate::pool::memory_pool::MemoryPool;
use crate::pool::policy::{Options, Policy};
use crate::pool::shared::{EngineSide, Shared};
use crate::pool::slot::{GUARD_BYTES, RESERVATION_BYTES};

/// The number of table elements that are counted for each slot by default.
pub const DEFAULT_TABLE_ELEMENTS: u64 = 65_536;

/// The bytes that are counted for a table element. wasmtime's largest element that a module can
/// reach without continuations is a pointer. A vector that grows is copied into another, so for a
/// moment both take memory.
const TABLE_ELEMENT_BYTES: u64 = 16;

/// The options of a pool for the parts that an engine needs besides the slots.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EngineOptions {
    /// The number of table elements that are counted for each slot.
    pub(crate) table_elements: u64,
    /// The size of the heap for each slot, or 0.
    pub(crate) heap_bytes: u64,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            table_elements: DEFAULT_TABLE_ELEMENTS,
            heap_bytes: 0,
        }
    }
}

impl EngineOptions {
    /// Makes the parts of a pool with the given options.
    pub(crate) fn prepare(&self, options: &Options) -> EngineSide {
        let heaps = Options {
            pages: self.heap_bytes.div_ceil(WASM_PAGE_BYTES),
            slots: heaps_of(options.slots),
            // A heap grows, and a store sees its current size.
            policy: Policy::CommitMaximum,
            when_exhausted: options.when_exhausted,
            reset: options.reset,
        };
        let heap = || Arc::new(Shared::new(heaps, EngineSide::new(0, None)));
        EngineSide::new(self.table_elements, (heaps.pages > 0).then(heap))
    }

    /// Returns the memory that is counted for the tables of a pool.
    pub(crate) fn table_bytes(&self, slots: usize) -> u64 {
        let elements = self.table_elements.saturating_mul(slots as u64);
        elements.saturating_mul(TABLE_ELEMENT_BYTES)
    }

    /// Returns the number of heaps to commit.
    pub(crate) fn heap_count(&self, slots: usize) -> usize {
        match self.heap_bytes {
            0 => 0,
            _ => heaps_of(slots),
        }
    }

    /// Returns the memory of a pool: its slots, and then its heaps if it has any.
    pub(crate) fn groups(
        &self,
        slots: usize,
        requirements: &Requirements,
    ) -> Result<Vec<Group>, SecureError> {
        let group = |requirements: &_, count| {
            Group::new(requirements, RESERVATION_BYTES, GUARD_BYTES, count)
        };
        let mut groups = vec![group(requirements, slots)?];
        if self.heap_bytes > 0 {
            let backing = match requirements.backing.pool_page_log2() {
                // Those pages cannot be protected exactly to the heap's size.
                Some(_) => Backing::Auto,
                None => requirements.backing,
            };
            let heaps = Requirements {
                pages: self.heap_bytes.div_ceil(WASM_PAGE_BYTES),
                backing,
                ..requirements.clone()
            };
            groups.push(group(&heaps, self.heap_count(slots))?);
        }
        Ok(groups)
    }
}

/// Returns the number of heaps of a pool: one for each slot. A pool without slots serves modules
/// without memories, one at a time.
fn heaps_of(slots: usize) -> usize {
    slots.max(1)
}

impl EngineSide {
    /// Lends a heap, which starts with `minimum` wasm pages of 64 KiB and grows to all of it.
    #[cfg_attr(
        not(feature = "wasmtime-runtime"),
        expect(dead_code, reason = "wasmtime alone")
    )]
    pub(crate) fn lend_heap(&self, minimum: u64) -> Result<LentMemory, Error> {
        let heaps = |heap: &Shared| heap.statistics().slots;
        let Some(heap) = self.heap.as_ref().filter(|heap| heaps(heap) > 0) else {
            return Err(VerifyError::NoEngineHeap.into());
        };
        let lent = MemoryPool::of(Arc::clone(heap)).lend_to(
            minimum,
            Some(heap.options().pages),
            LentTo::Engine,
        );
        lent.map_err(|error| match error {
            LendError::NoSlot { slots: heaps, .. } => LendError::NoEngineHeap { heaps }.into(),
            other => other.into(),
        })
    }
}
