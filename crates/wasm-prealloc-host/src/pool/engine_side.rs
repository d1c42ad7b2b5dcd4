//! The parts of a pool that an engine needs besides the slots: room for tables, and memory for the
//! engine's own heap.

use std::sync::Arc;

use crate::commit::backing::Backing;
use crate::commit::requirements::{Requirements, WASM_PAGE_BYTES};
use crate::commit::secure::{SecuredRegion, layout, need_of_many, secure_many};
use crate::error::Error;
use crate::limits::headroom::Need;
use crate::pool::lent::LentMemory;
use crate::pool::memory_pool::MemoryPool;
use crate::pool::policy::{Options, Policy, Reset};
use crate::pool::shared::{EngineSide, Shared};
use crate::pool::slot::{GUARD_BYTES, RESERVATION_BYTES, Slot};

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
            reset: Reset::Inline,
        };
        let heap = || Arc::new(Shared::new(heaps, EngineSide::new(0, None)));
        EngineSide::new(self.table_elements, (heaps.pages > 0).then(heap))
    }

    /// Returns the requirements for the slots of a pool, with room for the tables.
    pub(crate) fn with_tables(&self, slots: usize, requirements: &Requirements) -> Requirements {
        let elements = self.table_elements.saturating_mul(slots as u64);
        let table_bytes = elements.saturating_mul(TABLE_ELEMENT_BYTES);
        Requirements {
            margin_bytes: requirements.margin_bytes.saturating_add(table_bytes),
            ..requirements.clone()
        }
    }

    /// Returns the requirements for the heaps of a pool, or `None` if it has none.
    fn heaps(&self, requirements: &Requirements) -> Option<Requirements> {
        let backing = match requirements.backing.pool_page_log2() {
            // Those pages cannot be protected exactly to the heap's size.
            Some(_) => Backing::Auto,
            None => requirements.backing,
        };
        (self.heap_bytes > 0).then(|| Requirements {
            pages: self.heap_bytes.div_ceil(WASM_PAGE_BYTES),
            backing,
            ..requirements.clone()
        })
    }

    /// Adds the need of the heaps to that of the slots.
    pub(crate) fn add_need(
        &self,
        slots: usize,
        requirements: &Requirements,
        need: Need,
    ) -> Result<Need, Error> {
        let Some(mut heaps) = self.heaps(requirements) else {
            return Ok(need);
        };
        heaps.margin_bytes = 0;
        let layout = layout(&heaps, RESERVATION_BYTES, GUARD_BYTES)?;
        let added = need_of_many(&heaps, &layout, heaps_of(slots))?;
        Ok(need.and(added))
    }

    /// Commits the heaps, and gives them to the pool. Returns the bytes that are resident, and
    /// those of them that are locked.
    pub(crate) fn secure_heaps(
        &self,
        pool: &MemoryPool,
        requirements: &Requirements,
    ) -> Result<(u64, u64), Error> {
        let side = pool.engine_side();
        let Some(heap) = &side.heap else {
            return Ok((0, 0));
        };
        let Some(heaps) = self.heaps(requirements) else {
            heap.fill(Vec::new(), None, None);
            return Ok((0, 0));
        };
        let layout = layout(&heaps, RESERVATION_BYTES, GUARD_BYTES)?;
        let regions = secure_many(&heaps, layout, heap.options().slots, &mut |_| {})?;
        let secured = regions.iter().map(SecuredRegion::secured);
        let sums = secured.fold((0, 0), |(resident, locked), secured| {
            (
                resident + secured.resident_bytes,
                locked + secured.locked_bytes,
            )
        });
        let regions = regions.into_iter();
        // Nothing is tracked, so nothing fails.
        let slots = regions.map(|region| Slot::new(region, None).0);
        heap.fill(slots.collect(), None, None);
        Ok(sums)
    }

    /// Returns the requirements for the slots, which leave room for the heaps too, so that one
    /// answer counts both.
    pub(crate) fn with_heaps(
        &self,
        slots: usize,
        requirements: &Requirements,
    ) -> Result<Requirements, Error> {
        let bytes = match self.heaps(requirements) {
            Some(heaps) => (heaps.bytes()? as u64).saturating_mul(heaps_of(slots) as u64),
            None => 0,
        };
        let with_page_tables = bytes.saturating_add(bytes / 512);
        Ok(Requirements {
            margin_bytes: requirements.margin_bytes.saturating_add(with_page_tables),
            ..requirements.clone()
        })
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
        not(feature = "wasmtime"),
        expect(dead_code, reason = "wasmtime alone")
    )]
    pub(crate) fn lend_heap(&self, minimum: u64) -> Result<LentMemory, Error> {
        let Some(heap) = &self.heap else {
            return Err(Error::NoEngineHeap { heaps: 0 });
        };
        let lent = MemoryPool::of(Arc::clone(heap)).lend(minimum, Some(heap.options().pages));
        lent.map_err(|error| match error {
            Error::NoSlot { .. } | Error::TooManyMemories { .. } => Error::NoEngineHeap {
                heaps: heap.statistics().slots,
            },
            other => other,
        })
    }
}
