//! The table of all cases, and the sizes that a decision contains.

use super::MemorySites;
use super::checks::{check_start_above_data, check_start_above_minimum};
use super::sharing::{Access, Reach};
use crate::analysis::Module;
use crate::error::Error;
use crate::growth::GrowthHandling;
use crate::limits::{MAX_PAGES, MAX_SIGNED_PAGES, Memory, WASM_PAGE_SIZE};
use crate::rewrite::options::{EmulateFrom, Growth, MemoryImportPolicy, Options};
use crate::rewrite::report::Warning;

/// The largest size that `memory.size` may return where addresses are 32-bit and pages are 64 KiB:
/// guests compute `size << 16`, which is 0 for one page more.
const MAX_READABLE_PAGES: u64 = MAX_PAGES - 1;

/// The instructions that a module has for a memory.
#[derive(Clone, Copy)]
enum Uses {
    Neither,
    Size,
    /// The module measures the memory, and other modules grow it.
    SizeOfGrown,
    Grow,
    Both,
}

/// The limits of a memory, as the module that defines it declares them.
#[derive(Clone, Copy)]
enum Limits {
    Growable,
    /// Pinned, below the target.
    Pinned,
    /// Pinned at the target: the declaration does not change.
    AtTarget,
}

/// The start of emulated growth: the declared minimum, or a page that the caller has chosen. The
/// minimum of a pinned memory says nothing about where growth started before it was pinned.
#[derive(Clone, Copy)]
enum Start {
    Declared,
    Chosen,
}

/// A memory, with the facts and options that the decision about it depends on.
pub(super) struct Subject<'s, 'm, 'a> {
    pub(super) module: &'m Module<'a>,
    pub(super) memory: &'m Memory,
    /// The size that the memory will have, in its own pages.
    pub(super) target: u64,
    pub(super) sites: &'s MemorySites,
    pub(super) access: Access<'m>,
    pub(super) options: &'s Options,
    /// The index of the next global that is added.
    pub(super) global: u32,
    /// The index of the next function that is added.
    pub(super) function: u32,
}

impl Subject<'_, '_, '_> {
    /// The table of all cases: option, instructions, limits, start of growth and reach. The first
    /// row that matches applies.
    pub(super) fn choose(&self) -> Result<(GrowthHandling, Option<Warning>), Error> {
        use Growth::{Auto, Emulate, Keep, Pregrown};
        use Limits::{AtTarget, Growable, Pinned};
        use Reach::{Exported, Private};
        use Start::Declared;
        use Uses::{Both, Grow, Neither, Size, SizeOfGrown};

        let memory = self.memory.id;
        let can_only_fail = (self.sites.count.grow > 0).then_some(Warning::GrowthCanOnlyFail {
            memory,
            sites: self.sites.count.grow,
            pinned_before: !matches!(self.limits(), Growable),
        });
        let embedder_cannot_grow = Some(Warning::EmbedderCannotGrow {
            memory,
            measured: self.sites.count.size > 0,
            beyond_signed_sizes: self.wraps()
                && self.target > MAX_SIGNED_PAGES
                && self.access.definition.minimum <= MAX_SIGNED_PAGES,
        });
        let size_wraps = (self.wraps() && self.access.definition.minimum > MAX_READABLE_PAGES)
            .then_some(Warning::SizeWraps {
                memory,
                sites: self.sites.count.size,
            });
        let no_minimum = Error::NoNaturalMinimum {
            memory,
            pages: self.access.definition.minimum,
        };

        let facts = (
            self.options.growth,
            self.uses(),
            self.limits(),
            self.start(),
            self.access.reach,
        );
        Ok(match facts {
            (_, Neither, Growable, _, Exported) => (GrowthHandling::None, embedder_cannot_grow),
            (_, Neither, _, _, _) => (GrowthHandling::None, None),

            (Auto, Size, AtTarget, _, _) => (GrowthHandling::Kept, size_wraps),
            (Auto, Size, _, _, Private) => (self.fixed(), None),
            (Auto, Size, Growable, _, _) => (self.pregrown(), embedder_cannot_grow),
            (Auto, Size, Pinned, _, _) => (self.pregrown(), None),
            (Auto, SizeOfGrown | Grow | Both, AtTarget, Declared, _) => {
                (GrowthHandling::Kept, can_only_fail)
            }

            (Emulate, _, AtTarget, Declared, _) => return Err(no_minimum),

            (Auto | Emulate, _, Pinned, Declared, _) => (self.emulated()?, can_only_fail),
            (Auto | Emulate, _, _, _, _) => {
                let growth = self.emulated()?;
                let assumed = self.limits_assumed(&growth);
                (growth, assumed)
            }

            (Pregrown, Grow, _, _, _) => (GrowthHandling::Kept, can_only_fail),
            (Pregrown, Both, _, _, _) => (self.pregrown(), can_only_fail),
            (Pregrown, Size, Growable, _, _) => (self.pregrown(), embedder_cannot_grow),
            (Pregrown, Size | SizeOfGrown, _, _, _) => (self.pregrown(), None),

            (Keep, _, _, _, _) => (GrowthHandling::Kept, can_only_fail),
        })
    }

    fn uses(&self) -> Uses {
        match (self.sites.count.size, self.sites.count.grow) {
            (0, 0) => Uses::Neither,
            (_, 0) if self.access.grown_elsewhere => Uses::SizeOfGrown,
            (_, 0) => Uses::Size,
            (0, _) => Uses::Grow,
            (_, _) => Uses::Both,
        }
    }

    fn limits(&self) -> Limits {
        let definition = self.access.definition;
        let maximum = definition.maximum.unwrap_or(definition.most_pages());
        match definition.minimum == maximum {
            false => Limits::Growable,
            true if maximum == self.target => Limits::AtTarget,
            true => Limits::Pinned,
        }
    }

    fn start(&self) -> Start {
        let definition = self.access.definition;
        match self.options.emulate_from {
            EmulateFrom::Pages(_) if self.is_apart() && !definition.is_pinned() => Start::Declared,
            EmulateFrom::Pages(_) => Start::Chosen,
            // Linkers place the heap in memory 0.
            EmulateFrom::HeapBase if definition.id.index == 0 => Start::Chosen,
            EmulateFrom::HeapBase | EmulateFrom::Declared | EmulateFrom::Auto => Start::Declared,
        }
    }

    /// Returns true if the caller gives limits for memories that core modules share, and no other
    /// module can reach this memory.
    fn is_apart(&self) -> bool {
        self.options.memory_import == MemoryImportPolicy::Keep
            && self.access.reach == Reach::Private
            && self.memory.id.module.is_none()
    }

    fn fixed(&self) -> GrowthHandling {
        GrowthHandling::Fixed {
            pages: self.access.definition.minimum,
            global: self.global,
        }
    }

    /// The size reads as the cap, or as the largest size that the module can read.
    fn pregrown(&self) -> GrowthHandling {
        let cap = self.cap();
        let readable = cap.min(MAX_READABLE_PAGES);
        GrowthHandling::Pregrown {
            pages: if self.wraps() { readable } else { cap },
            global: self.global,
        }
    }

    fn emulated(&self) -> Result<GrowthHandling, Error> {
        self.check_start_is_known()?;
        let address = self.access.in_memory.then(|| self.counter_address());
        let room = address.map_or(u64::MAX, |address| address >> self.memory.page_log2());
        self.check_room(room)?;
        let given = self.options.emulate_to.filter(|_| !self.is_apart());
        let given = given.unwrap_or(u64::MAX);
        let cap_pages = self.cap().min(room).min(given);
        let from_pages = self.emulated_start(cap_pages)?;
        let mut functions = self.function..;
        let mut add = |sites: usize| (sites > 0).then(|| functions.next()).flatten();
        Ok(GrowthHandling::Emulated {
            from_pages,
            cap_pages,
            global: (!self.access.in_memory).then_some(self.global),
            address,
            function: add(self.sites.count.grow),
            size_function: address.and_then(|_| add(self.sites.count.size)),
        })
    }

    /// The size beyond which growth fails.
    fn cap(&self) -> u64 {
        let maximum = self.access.definition.maximum.unwrap_or(self.target);
        maximum.min(self.target)
    }

    /// The address of a counter in the memory: the start of its last page, or the last 8 bytes of a
    /// memory with smaller pages.
    fn counter_address(&self) -> u64 {
        let bytes = u128::from(self.target) << self.memory.page_log2();
        (bytes - self.counter_bytes()) as u64
    }

    /// The number of bytes that are reserved for a counter in the memory.
    fn counter_bytes(&self) -> u128 {
        const COUNTER_BYTES: u128 = 8;
        (1_u128 << self.memory.page_log2()).max(COUNTER_BYTES)
    }

    /// Returns true if a size in bytes can wrap to 0 in 32 bits.
    fn wraps(&self) -> bool {
        !self.memory.memory64 && self.memory.page_log2() == WASM_PAGE_SIZE.ilog2()
    }

    /// Returns true if other modules may count the growth of the memory.
    pub(super) fn is_counted_elsewhere(&self) -> bool {
        self.access.grown_elsewhere && matches!(self.options.growth, Growth::Auto | Growth::Emulate)
    }

    /// The size at the start that the caller gives for a memory, in pages, if other modules may count
    /// its growth from there.
    pub(super) fn given_start(&self) -> Option<u64> {
        let imports = || self.module.info.memories().any(|m| m.import.is_some());
        match (self.options.emulate_from, self.access.reach) {
            _ if !self.is_counted_elsewhere() => None,
            // The caller means the imported memory.
            (_, Reach::Exported) if imports() => None,
            (EmulateFrom::Pages(pages), _) => Some(pages),
            (EmulateFrom::Declared, Reach::Imported) => Some(self.memory.minimum),
            _ => None,
        }
    }

    /// Returns true if growth starts at an import's minimum, and the caller has not confirmed that.
    fn assumes_start(&self) -> bool {
        let is_foreign = self.access.reach == Reach::Imported
            && self.options.memory_import != MemoryImportPolicy::Define;
        is_foreign && self.options.emulate_from == EmulateFrom::Auto
    }

    /// A warning about limits of a memory that other modules can reach, if the caller has not
    /// confirmed them.
    fn limits_assumed(&self, growth: &GrowthHandling) -> Option<Warning> {
        let memory = self.memory.id;
        if self.assumes_start() {
            let pages = self.memory.minimum;
            return Some(Warning::StartAssumed { memory, pages });
        }
        let is_shared = self.access.grown_elsewhere && self.access.reach != Reach::Private;
        if let GrowthHandling::Emulated { from_pages, .. } = *growth
            && is_shared
            && self.options.emulate_from == EmulateFrom::HeapBase
        {
            let pages = from_pages;
            return Some(Warning::OwnHeapBase { memory, pages });
        }
        let is_confirmed =
            self.options.emulate_to.is_some() || self.options.emulate_from == EmulateFrom::Declared;
        match *growth {
            GrowthHandling::Emulated { cap_pages, .. }
                if self.access.reach == Reach::Imported && !is_confirmed =>
            {
                let pages = cap_pages;
                Some(Warning::CapAssumed { memory, pages })
            }
            _ => None,
        }
    }

    /// Refuses another size for a memory if an earlier rewrite has added code that contains the size, and
    /// sharing a counter if it has added code that does not share one.
    pub(super) fn check_repinning(&self) -> Result<(), Error> {
        let (memory, provenance) = (self.memory, &self.module.provenance);
        let index = memory.id.index;
        let is_for_size = provenance.has_code_for_size(index) && memory.minimum != self.target;
        let counts_alone = matches!(
            provenance.growth(index),
            Some(GrowthHandling::Emulated { address: None, .. })
        );
        let is_shared = self.is_counted_elsewhere() && self.access.reach != Reach::Private;
        match is_for_size || (counts_alone && is_shared) {
            true => Err(Error::AlreadyRewritten {
                memory: memory.id,
                pages: memory.minimum,
            }),
            false => Ok(()),
        }
    }

    /// Refuses to count the growth of an imported memory whose size at the start is unknown. The
    /// modules of threads are an exception: linkers write the size into the import, and every
    /// thread has the same module.
    fn check_start_is_known(&self) -> Result<(), Error> {
        let memory = self.memory;
        let offset = self.sites.first.grow.or(self.sites.first.size);
        let (Reach::Imported, Some(import), Some(offset), false) =
            (self.access.reach, &memory.import, offset, memory.shared)
        else {
            return Ok(());
        };
        let import = Box::new(import.clone());
        let memory = memory.id;
        match self.options.memory_import {
            MemoryImportPolicy::Refuse => Err(Error::ImportedMemoryGrows {
                memory,
                import,
                offset,
            }),
            MemoryImportPolicy::Keep if self.assumes_start() => Err(Error::ImportedStartUnknown {
                memory,
                import,
                offset,
                minimum: self.memory.minimum,
            }),
            MemoryImportPolicy::Keep | MemoryImportPolicy::Define => Ok(()),
        }
    }

    /// Returns true if growth may start below the declared minimum.
    fn may_start_below_minimum(&self) -> bool {
        matches!(self.start(), Start::Chosen) && self.access.definition.is_pinned()
    }

    /// Refuses to count growth in a page that the memory has at the start.
    fn check_room(&self, room: u64) -> Result<(), Error> {
        let definition = self.access.definition;
        let minimum = definition.minimum;
        if minimum <= room || self.may_start_below_minimum() {
            return Ok(());
        }
        let bytes = (u128::from(minimum) << definition.page_log2()) + self.counter_bytes();
        Err(Error::NoRoomForCounter {
            memory: definition.id,
            minimum,
            least: bytes.div_ceil(WASM_PAGE_SIZE.into()) as u64,
        })
    }

    /// The page at which emulated growth starts.
    fn emulated_start(&self, cap: u64) -> Result<u64, Error> {
        let (memory, definition) = (self.memory, self.access.definition);
        let minimum = definition.minimum;
        let start = match (self.start(), self.options.emulate_from) {
            (Start::Chosen, EmulateFrom::HeapBase) => {
                let definer = self.access.definer.unwrap_or(&self.module.info);
                let base = definer.landmark("__heap_base")?;
                base.ok_or(Error::NoHeapBase)?
                    .div_ceil(1 << memory.page_log2())
            }
            (Start::Chosen, EmulateFrom::Pages(pages)) => pages,
            _ => minimum,
        };
        check_start_above_minimum(memory, definition, start)?;
        if start > cap {
            let least = match self.may_start_below_minimum() {
                true => 0,
                false => minimum,
            };
            return Err(Error::StartAboveCap {
                memory: memory.id,
                from: start,
                cap,
                least,
            });
        }
        check_start_above_data(self.module, memory, start)?;
        Ok(start)
    }
}
