//! Decides what becomes of each memory and of the instructions that grow and measure it. `plan`
//! turns the decisions into edits, and `inspect` shows them.

use super::options::{EmulateFrom, Growth, MemoryImportPolicy, Options};
use super::report::{GrowthHandling, MemoryReport, Warning};
use crate::analysis::module_info::MappedMemory;
use crate::analysis::site::{FirstSites, Sites, count_sites};
use crate::analysis::{Analysis, Module};
use crate::error::{Error, Unsupported};
use crate::limits::{MAX_PAGES, Memory, WASM_PAGE_SIZE};

/// The largest size that `memory.size` may return where addresses are 32-bit and pages are 64 KiB:
/// guests compute `size << 16`, which is 0 for one page more.
const MAX_READABLE_PAGES: u64 = MAX_PAGES - 1;

/// The decision about a memory.
#[derive(Debug)]
pub(crate) struct MemoryPlan<'m> {
    pub(crate) before: &'m MappedMemory,
    /// The memory as the output declares it.
    pub(crate) after: Memory,
    pub(crate) growth: GrowthHandling,
    sites: Sites,
    first: FirstSites,
}

impl MemoryPlan<'_> {
    pub(crate) fn report(&self) -> MemoryReport {
        MemoryReport {
            before: self.before.memory.clone(),
            after: self.after.clone(),
            growth: self.growth.clone(),
            sites: self.sites,
        }
    }

    /// The offset of the first `memory.grow`, if a global counts the memory's growth.
    fn counted_growth(&self) -> Option<u64> {
        let is_emulated = matches!(self.growth, GrowthHandling::Emulated { .. });
        self.first.grow.filter(|_| is_emulated)
    }
}

/// The decisions for one core module.
#[derive(Debug)]
pub(crate) struct Decisions<'m> {
    /// One entry for each memory, in index order.
    pub(crate) memories: Vec<MemoryPlan<'m>>,
    pub(crate) warnings: Vec<Warning>,
}

pub(crate) fn decide<'m>(
    analysis: &'m Analysis<'_>,
    options: &Options,
) -> Result<Vec<Decisions<'m>>, Error> {
    let modules = analysis.modules.iter();
    let decided = modules.map(|module| decide_module(module, options));
    let decided = decided.collect::<Result<Vec<_>, _>>()?;
    check_shared_growth(&decided)?;
    Ok(decided)
}

fn decide_module<'m>(module: &'m Module<'_>, options: &Options) -> Result<Decisions<'m>, Error> {
    let mut decisions = Decisions {
        memories: Vec::new(),
        warnings: Vec::new(),
    };
    let mut next_global = module.info.next_global();
    let mut next_function = module.info.next_function();
    for mapped in &module.info.memories {
        let memory = &mapped.memory;
        let (sites, first) = count_sites(module.bodies()?, memory.id.index);
        // Malformed types are reported before any refusal.
        module.types()?;
        let subject = Subject {
            module,
            memory,
            target: target(memory, options.pages)?,
            sites,
            first,
            options,
            global: next_global,
            function: next_function,
        };
        let (growth, warning) = subject.choose()?;
        match growth {
            GrowthHandling::None | GrowthHandling::Kept => {}
            GrowthHandling::Pregrown { .. } => next_global += 1,
            GrowthHandling::Emulated { function, .. } => {
                next_global += 1;
                next_function += u32::from(function.is_some());
            }
        }
        decisions.warnings.extend(warning);
        decisions.memories.push(MemoryPlan {
            before: mapped,
            after: subject.after(mapped)?,
            growth,
            sites,
            first,
        });
    }
    Ok(decisions)
}

/// The instructions that a module has for a memory.
#[derive(Clone, Copy)]
enum Uses {
    Neither,
    Size,
    Grow,
    Both,
}

/// The declared limits of a memory.
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

/// A memory, and the facts and options that decide what becomes of it.
struct Subject<'m, 'a> {
    module: &'m Module<'a>,
    memory: &'m Memory,
    /// The size that the memory will have, in its own pages.
    target: u64,
    sites: Sites,
    first: FirstSites,
    options: &'m Options,
    /// The index of the next global that is added.
    global: u32,
    /// The index of the next function that is added.
    function: u32,
}

impl Subject<'_, '_> {
    /// The table of all cases: option, instructions, limits and start of growth. The first row that
    /// matches applies.
    fn choose(&self) -> Result<(GrowthHandling, Option<Warning>), Error> {
        use Growth::{Auto, Emulate, Keep, Pregrown};
        use Limits::{AtTarget, Growable, Pinned};
        use Start::Declared;
        use Uses::{Both, Grow, Neither, Size};

        let memory = self.memory.id;
        let can_only_fail = Some(Warning::GrowthCanOnlyFail {
            memory,
            sites: self.sites.grow,
            pinned_before: self.memory.is_pinned(),
        });
        let embedder_cannot_grow = Some(Warning::EmbedderCannotGrow { memory });
        let size_wraps = (self.wraps() && self.memory.minimum > MAX_READABLE_PAGES).then_some(
            Warning::SizeWraps {
                memory,
                sites: self.sites.size,
            },
        );
        let no_minimum = Error::NoNaturalMinimum {
            memory,
            pages: self.memory.minimum,
        };

        let facts = (
            self.options.growth,
            self.uses(),
            self.limits(),
            self.start(),
        );
        Ok(match facts {
            (_, Neither, _, _) => (GrowthHandling::None, None),

            (Auto, Size, Growable, _) => (self.pregrown(), embedder_cannot_grow),
            (Auto, Size, Pinned, _) => (self.pregrown(), None),
            (Auto, Size, AtTarget, _) => (GrowthHandling::Kept, size_wraps),
            (Auto, Grow | Both, AtTarget, Declared) => (GrowthHandling::Kept, can_only_fail),

            (Emulate, _, AtTarget, Declared) => return Err(no_minimum),
            (Emulate, Size, _, _) => (self.emulated()?, None),

            (Auto | Emulate, Grow | Both, Pinned, Declared) => (self.emulated()?, can_only_fail),
            (Auto | Emulate, Grow | Both, _, _) => (self.emulated()?, None),

            (Pregrown, Grow, _, _) => (GrowthHandling::Kept, can_only_fail),
            (Pregrown, Both, _, _) => (self.pregrown(), can_only_fail),
            (Pregrown, Size, Growable, _) => (self.pregrown(), embedder_cannot_grow),
            (Pregrown, Size, Pinned | AtTarget, _) => (self.pregrown(), None),

            (Keep, Grow | Both, _, _) => (GrowthHandling::Kept, can_only_fail),
            (Keep, Size, _, _) => (GrowthHandling::Kept, None),
        })
    }

    fn uses(&self) -> Uses {
        match (self.sites.size, self.sites.grow) {
            (0, 0) => Uses::Neither,
            (_, 0) => Uses::Size,
            (0, _) => Uses::Grow,
            (_, _) => Uses::Both,
        }
    }

    fn limits(&self) -> Limits {
        match self.memory.is_pinned() {
            false => Limits::Growable,
            true if self.memory.minimum == self.target => Limits::AtTarget,
            true => Limits::Pinned,
        }
    }

    fn start(&self) -> Start {
        match self.options.emulate_from {
            EmulateFrom::Pages(_) => Start::Chosen,
            // Linkers place the heap in memory 0.
            EmulateFrom::HeapBase if self.memory.id.index == 0 => Start::Chosen,
            EmulateFrom::HeapBase | EmulateFrom::Declared => Start::Declared,
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
        self.check_sole_counter()?;
        Ok(GrowthHandling::Emulated {
            from_pages: self.emulated_start()?,
            cap_pages: self.cap(),
            global: self.global,
            function: (self.sites.grow > 0).then_some(self.function),
        })
    }

    /// The size beyond which emulated growth fails.
    fn cap(&self) -> u64 {
        let maximum = self.memory.maximum.unwrap_or(self.target);
        maximum.min(self.target)
    }

    /// Returns true if a size in bytes can wrap to 0 in 32 bits.
    fn wraps(&self) -> bool {
        !self.memory.memory64 && self.memory.page_log2() == WASM_PAGE_SIZE.ilog2()
    }

    fn after(&self, mapped: &MappedMemory) -> Result<Memory, Error> {
        let mut after = self.memory.clone();
        after.minimum = self.target;
        after.maximum = Some(self.target);
        if self.options.memory_import == MemoryImportPolicy::Define {
            after.import = None;
        }
        let changes = !matches!(self.limits(), Limits::AtTarget);
        if mapped.entry.is_none() && changes {
            return Err(Error::Unsupported {
                what: Unsupported::CompactImport {
                    memory: self.memory.id,
                },
                offset: self.memory.offset,
            });
        }
        Ok(after)
    }

    /// Refuses to count growth where another module or thread may count it too: both would hand out
    /// the same pages.
    ///
    /// Several instances use a memory that threads share, and each instance has its own globals.
    /// The counter would have to be in the memory itself, at an address that the module is known
    /// never to use. There is no such address: everything up to the end of the memory belongs to
    /// the module.
    fn check_sole_counter(&self) -> Result<(), Error> {
        let (memory, first) = (self.memory, self.first);
        let id = memory.id;
        if memory.shared {
            let offset = first.grow.or(first.size).unwrap_or(memory.offset);
            return Err(Error::SharedMemoryGrows { memory: id, offset });
        }
        if let (Some(import), Some(offset)) = (&memory.import, first.grow)
            && self.options.memory_import == MemoryImportPolicy::Refuse
        {
            return Err(Error::ImportedMemoryGrows {
                memory: id,
                import: Box::new(import.clone()),
                offset,
            });
        }
        Ok(())
    }

    /// The page at which emulated growth starts.
    fn emulated_start(&self) -> Result<u64, Error> {
        let memory = self.memory;
        let page_bytes = 1 << memory.page_log2();
        let start = match (self.start(), self.options.emulate_from) {
            (Start::Chosen, EmulateFrom::HeapBase) => {
                let base = self.module.info.landmark("__heap_base")?;
                base.ok_or(Error::NoHeapBase)?.div_ceil(page_bytes)
            }
            (Start::Chosen, EmulateFrom::Pages(pages)) => pages,
            // `target` has compared the minimum with the cap.
            _ => return Ok(memory.minimum),
        };
        let cap = self.cap();
        if start > cap {
            return Err(Error::StartAboveCap {
                memory: memory.id,
                from: start,
                cap,
            });
        }
        let segments = self.module.data()?.iter();
        let placed = segments.filter(|segment| segment.memory == Some(memory.id.index));
        let data_end = placed
            .filter_map(|segment| segment.end())
            .max()
            .unwrap_or(0);
        let least = data_end.div_ceil(page_bytes);
        if start < least {
            return Err(Error::StartBelowData {
                memory: memory.id,
                from: start,
                data_end,
                least,
            });
        }
        Ok(start)
    }
}

/// The size that a memory will have, in its own pages. The limits are checked here, because no
/// validation of the output sees limits that are overwritten.
fn target(memory: &Memory, pages: u64) -> Result<u64, Error> {
    let invalid = |message: String| {
        Err(Error::Invalid {
            offset: memory.offset,
            message: format!("{}: {message}", memory.id),
        })
    };
    let most = memory.most_pages();
    let minimum = memory.minimum;
    let maximum = memory.maximum.unwrap_or(most);
    if minimum > maximum {
        return invalid(format!(
            "its minimum of {minimum} pages exceeds its maximum of {maximum}"
        ));
    }
    if maximum > most {
        return invalid(format!("its maximum of {maximum} pages exceeds {most}"));
    }
    let Some(target) = memory.in_own_pages(pages).filter(|_| pages > 0) else {
        let most = u128::from(most) << memory.page_log2() >> WASM_PAGE_SIZE.ilog2();
        return Err(Error::PagesOutOfRange {
            memory: memory.id,
            pages,
            most: most as u64,
        });
    };
    if minimum > target {
        let bytes = u128::from(minimum) << memory.page_log2();
        return Err(Error::MinimumExceedsTarget {
            memory: memory.id,
            offset: memory.offset,
            pages,
            least: bytes.div_ceil(WASM_PAGE_SIZE.into()) as u64,
        });
    }
    Ok(target)
}

/// Refuses components in which two modules may count the growth of one memory.
///
/// A module that imports a memory shares it with another, and only one may count its growth. The
/// links between memories are not read: where two modules count, and one of them counts a memory
/// that it imports, both are assumed to count the same memory.
fn check_shared_growth(modules: &[Decisions<'_>]) -> Result<(), Error> {
    for (position, module) in modules.iter().enumerate() {
        let imported = module.memories.iter().find_map(|plan| {
            let memory = &plan.before.memory;
            Some((memory.id, memory.import.as_ref()?, plan.counted_growth()?))
        });
        let Some((memory, import, offset)) = imported else {
            continue;
        };
        let other = modules.iter().enumerate().find(|(other, module)| {
            let mut memories = module.memories.iter();
            *other != position && memories.any(|plan| plan.counted_growth().is_some())
        });
        if let Some((other, _)) = other {
            return Err(Error::ComponentSharesMemory {
                memory,
                import: Box::new(import.clone()),
                offset,
                other: other as u32,
            });
        }
    }
    Ok(())
}
