//! Decides what becomes of a memory's growth, and builds what that adds to the module.

use wasm_encoder::{BlockType, ConstExpr, Encode, Function, GlobalType, ValType};

use super::options::{EmulateFrom, Growth, MemoryImportPolicy, Options};
use super::report::Warning;
use crate::data::data_segments;
use crate::error::Error;
use crate::limits::{Memory, WASM_PAGE_SIZE};
use crate::map::Map;
use crate::scan::{FirstSites, Sites};

/// The largest size that `memory.size` may give where addresses are 32-bit and pages are 64 KiB:
/// guests compute `size << 16` there, and one page more makes that 0.
const MAX_READABLE_PAGES: u64 = 65_535;

/// What becomes of a memory's growth. Sizes are in the memory's own pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// There is no instruction to replace.
    Nothing,
    /// The instructions stay.
    Keep,
    /// A global counts the size, from `from` up to `cap`.
    Emulate { from: u64, cap: u64 },
    /// The size reads as a constant.
    Pregrown { pages: u64 },
}

/// A memory whose growth is to be decided on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) memory: &'a Memory,
    /// The size that it shall have, in its own pages.
    pub(crate) target: u64,
    pub(crate) sites: Sites,
    pub(crate) first: FirstSites,
}

/// Chooses by what the module does and what the caller wants.
pub(crate) fn decide(
    map: &Map<'_>,
    subject: Subject<'_>,
    options: &Options,
) -> Result<(Decision, Vec<Warning>), Error> {
    let Subject {
        memory,
        target,
        sites,
        ..
    } = subject;
    let id = memory.id;
    let cap = memory.maximum.unwrap_or(target).min(target);
    let pinned = memory.is_pinned();
    // Nothing is to be declared, so leaving the instructions leaves their meaning.
    let at_target = pinned && memory.minimum == target;
    let natural = match options.emulate_from {
        EmulateFrom::Declared => true,
        EmulateFrom::HeapBase => id.index != 0,
        EmulateFrom::Pages(_) => false,
    };
    let wraps = !memory.memory64 && memory.page_log2() == WASM_PAGE_SIZE.ilog2();
    let mut warnings = Vec::new();

    let emulate = || -> Result<Decision, Error> {
        check_sole_counter(subject, options)?;
        let from = match natural {
            // The caller's checks have compared it with the cap.
            true => memory.minimum,
            false => start(map, memory, cap, options.emulate_from)?,
        };
        Ok(Decision::Emulate { from, cap })
    };
    let pregrown = Decision::Pregrown {
        pages: if wraps {
            cap.min(MAX_READABLE_PAGES)
        } else {
            cap
        },
    };
    let can_only_fail = Warning::GrowthCanOnlyFail {
        memory: id,
        sites: sites.grow,
        pinned_before: pinned,
    };

    let decision = match (options.growth, sites) {
        (_, Sites { size: 0, grow: 0 }) => Decision::Nothing,

        (Growth::Auto, Sites { grow: 1.., .. }) => {
            if pinned && natural {
                warnings.push(can_only_fail);
            }
            match at_target && natural {
                true => Decision::Keep,
                false => emulate()?,
            }
        }
        (Growth::Auto, Sites { size, .. }) if at_target => {
            if wraps && memory.minimum > MAX_READABLE_PAGES {
                warnings.push(Warning::SizeWraps {
                    memory: id,
                    sites: size,
                });
            }
            Decision::Keep
        }
        (Growth::Auto, _) => {
            if !pinned {
                warnings.push(Warning::EmbedderCannotGrow { memory: id });
            }
            pregrown
        }

        (Growth::Emulate, _) if at_target && natural => {
            return Err(Error::NoNaturalMinimum {
                memory: id,
                pages: memory.minimum,
            });
        }
        (Growth::Emulate, Sites { grow, .. }) => {
            if pinned && natural && grow > 0 {
                warnings.push(can_only_fail);
            }
            emulate()?
        }

        (Growth::Pregrown, Sites { size, grow }) => {
            if grow > 0 {
                warnings.push(can_only_fail);
            } else if !pinned {
                warnings.push(Warning::EmbedderCannotGrow { memory: id });
            }
            match size {
                0 => Decision::Keep,
                _ => pregrown,
            }
        }

        (Growth::Keep, Sites { grow, .. }) => {
            if grow > 0 {
                warnings.push(can_only_fail);
            }
            Decision::Keep
        }
    };
    Ok((decision, warnings))
}

/// Refuses to count growth where somebody else may count it too: both would hand out the same
/// pages.
///
/// A memory that threads share is used by several instances, and a global belongs to one. The
/// counter would have to lie in the memory itself, at an address that the module is known never to
/// use, and there is none: everything up to its end is the module's own. So it is refused.
fn check_sole_counter(subject: Subject<'_>, options: &Options) -> Result<(), Error> {
    let Subject { memory, first, .. } = subject;
    let id = memory.id;
    if memory.shared {
        let offset = first.grow.or(first.size).unwrap_or(memory.offset);
        return Err(Error::SharedMemoryGrows { memory: id, offset });
    }
    if let (Some(import), Some(offset)) = (&memory.import, first.grow)
        && options.memory_import == MemoryImportPolicy::Refuse
    {
        return Err(Error::ImportedMemoryGrows {
            memory: id,
            import: Box::new(import.clone()),
            offset,
        });
    }
    Ok(())
}

/// The page at which emulated growth starts, where the caller does not leave that to the module.
fn start(map: &Map<'_>, memory: &Memory, cap: u64, from: EmulateFrom) -> Result<u64, Error> {
    let page_bytes = 1 << memory.page_log2();
    let start = match from {
        EmulateFrom::Declared => memory.minimum,
        EmulateFrom::HeapBase => {
            let base = map.landmark("__heap_base")?.ok_or(Error::NoHeapBase)?;
            base.div_ceil(page_bytes)
        }
        EmulateFrom::Pages(pages) => pages,
    };
    if start > cap {
        return Err(Error::StartAboveCap {
            memory: memory.id,
            from: start,
            cap,
        });
    }
    let segments = data_segments(map)?.into_iter();
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

/// The type of a memory's sizes and addresses.
pub(crate) fn address_type(memory: &Memory) -> ValType {
    match memory.memory64 {
        true => ValType::I64,
        false => ValType::I32,
    }
}

/// An item for the global section: a number of pages.
pub(crate) fn pages_global(memory: &Memory, pages: u64, mutable: bool) -> Vec<u8> {
    let mut item = Vec::new();
    let ty = GlobalType {
        val_type: address_type(memory),
        mutable,
        shared: false,
    };
    ty.encode(&mut item);
    let value = match memory.memory64 {
        true => ConstExpr::i64_const(pages.cast_signed()),
        false => ConstExpr::i32_const(as_i32(pages)),
    };
    value.encode(&mut item);
    item
}

/// An item for the type section: a function type.
pub(crate) fn function_type(params: &[ValType], results: &[ValType]) -> Vec<u8> {
    const FUNC: u8 = 0x60;
    let mut item = vec![FUNC];
    params.encode(&mut item);
    results.encode(&mut item);
    item
}

/// An item for the code section: a memory's `memory.grow`, on the size that `global` holds.
pub(crate) fn grow_body(memory: &Memory, global: u32, cap: u64) -> Vec<u8> {
    const DELTA: u32 = 0;
    const OLD_SIZE: u32 = 1;
    let address = address_type(memory);
    let mut function = Function::new([(1, address)]);
    let mut code = function.instructions();
    code.local_get(DELTA);
    match address {
        ValType::I64 => code.i64_const(cap.cast_signed()),
        _ => code.i32_const(as_i32(cap)),
    };
    code.global_get(global).local_tee(OLD_SIZE);
    // The size never exceeds the cap, so this does not wrap.
    match address {
        ValType::I64 => code.i64_sub().i64_gt_u(),
        _ => code.i32_sub().i32_gt_u(),
    };
    code.if_(BlockType::Result(address));
    match address {
        ValType::I64 => code.i64_const(-1),
        _ => code.i32_const(-1),
    };
    code.else_();
    code.local_get(OLD_SIZE).local_get(DELTA);
    match address {
        ValType::I64 => code.i64_add(),
        _ => code.i32_add(),
    };
    code.global_set(global);
    code.local_get(OLD_SIZE);
    code.end();
    code.end();
    let mut item = Vec::new();
    function.encode(&mut item);
    item
}

/// Sizes of memories with 32-bit addresses fit, read as unsigned.
fn as_i32(pages: u64) -> i32 {
    debug_assert!(u32::try_from(pages).is_ok(), "sizes are checked before");
    (pages as u32).cast_signed()
}
