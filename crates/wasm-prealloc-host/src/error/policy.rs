//! The errors of limits that do not suit a pool's policy.

use crate::error::text::{maximum_pages, raise_cap};

/// The limits that a module declares for a memory do not suit the pool's policy. It is found when
/// the module is verified, and also when memory is lent without that.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The module's memory can grow, or has another size than is required. Sizes are wasm pages
    /// of 64 KiB.
    #[error(
        "memory not pinned: the module declares a minimum of {minimum} pages and {}, but both \
         must be {expected} pages of 64 KiB; run `wasm-prealloc rewrite --pages {expected}` on it",
        maximum_pages(.maximum)
    )]
    NotPinned {
        /// The minimum that the module declares, in pages.
        minimum: u64,
        /// The maximum that the module declares, in pages.
        maximum: Option<u64>,
        /// The required value of both, in pages.
        expected: u64,
    },

    /// A module's memory can become larger than the pool's slots. Sizes are wasm pages of 64 KiB.
    #[error(
        "the module's memory has {}, and the pool's slots have {slot_pages} pages of 64 KiB; make \
         the slots larger (MemoryPoolBuilder::pages), or run `wasm-prealloc rewrite --pages \
         {slot_pages}` on the module",
        maximum_pages(.maximum)
    )]
    SlotTooSmall {
        /// The maximum that the module declares, in pages.
        maximum: Option<u64>,
        /// The size of a slot, in pages.
        slot_pages: u64,
    },

    /// A memory's minimum is above the cap of [`Policy::Cap`](crate::Policy::Cap). Sizes are wasm
    /// pages of 64 KiB.
    #[error(
        "the module's memory has a minimum of {minimum} pages of 64 KiB, and each memory is capped \
         at {cap}; {}",
        raise_cap(.minimum)
    )]
    AboveCap {
        /// The minimum that the module declares, in pages.
        minimum: u64,
        /// The number of pages that the memory could grow to.
        cap: u64,
    },
}

impl PolicyError {
    /// Returns the name of the variant, for programs: lower case, with hyphens.
    pub fn kind(&self) -> &'static str {
        match self {
            PolicyError::NotPinned { .. } => "not-pinned",
            PolicyError::SlotTooSmall { .. } => "slot-too-small",
            PolicyError::AboveCap { .. } => "above-cap",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpinned_module_is_refused_with_the_command_that_pins_it() {
        let error = PolicyError::NotPinned {
            minimum: 17,
            maximum: None,
            expected: 65_536,
        };
        assert_eq!(
            error.to_string(),
            "memory not pinned: the module declares a minimum of 17 pages and no maximum, but both \
             must be 65536 pages of 64 KiB; run `wasm-prealloc rewrite --pages 65536` on it"
        );
    }
}
