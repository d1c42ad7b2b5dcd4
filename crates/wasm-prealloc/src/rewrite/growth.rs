//! Decides what becomes of a memory's growth, and builds what that adds to the module.

use wasm_encoder::{ConstExpr, Encode, Function, GlobalType, ValType};

use super::options::{EmulateFrom, Growth, Options};
use super::report::Warning;
use crate::data::data_segments;
use crate::error::Error;
use crate::limits::{MAX_PAGES, Memory, WASM_PAGE_SIZE};
use crate::map::Map;
use crate::scan::Sites;

/// The largest size that `memory.size` may give: guests compute `size << 16` in 32 bits, and one
/// page more makes that 0.
const MAX_READABLE_PAGES: u64 = 65_535;

/// What becomes of a memory's growth. Sizes are in pages.
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

/// Chooses by what the module does and what the caller wants.
pub(crate) fn decide(
    map: &Map<'_>,
    memory: &Memory,
    sites: Sites,
    options: &Options,
) -> Result<(Decision, Vec<Warning>), Error> {
    let index = memory.index;
    let cap = memory.maximum.unwrap_or(options.pages).min(options.pages);
    let pinned = memory.is_pinned();
    // Nothing is to be declared, so leaving the instructions leaves their meaning.
    let at_target = pinned && memory.minimum == options.pages;
    let natural = options.emulate_from == EmulateFrom::Declared;
    let mut warnings = Vec::new();

    let emulate = || -> Result<Decision, Error> {
        let from = start(map, memory, cap, options.emulate_from)?;
        Ok(Decision::Emulate { from, cap })
    };
    let pregrown = Decision::Pregrown {
        pages: cap.min(MAX_READABLE_PAGES),
    };
    let can_only_fail = Warning::GrowthCanOnlyFail {
        memory: index,
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
            if memory.minimum > MAX_READABLE_PAGES {
                warnings.push(Warning::SizeWraps {
                    memory: index,
                    sites: size,
                });
            }
            Decision::Keep
        }
        (Growth::Auto, _) => {
            if !pinned {
                warnings.push(Warning::EmbedderCannotGrow { memory: index });
            }
            pregrown
        }

        (Growth::Emulate, _) if at_target && natural => {
            return Err(Error::NoNaturalMinimum {
                memory: index,
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
                warnings.push(Warning::EmbedderCannotGrow { memory: index });
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

/// The page at which emulated growth starts.
fn start(map: &Map<'_>, memory: &Memory, cap: u64, from: EmulateFrom) -> Result<u64, Error> {
    let start = match from {
        // The caller's checks have compared it with the cap.
        EmulateFrom::Declared => return Ok(memory.minimum),
        EmulateFrom::HeapBase => {
            let base = map.landmark("__heap_base")?.ok_or(Error::NoHeapBase)?;
            u64::from(base).div_ceil(WASM_PAGE_SIZE)
        }
        EmulateFrom::Pages(pages) => pages,
    };
    if start > cap {
        return Err(Error::StartAboveCap {
            memory: memory.index,
            from: start,
            cap,
        });
    }
    let segments = data_segments(map)?.into_iter();
    let placed = segments.filter(|segment| segment.memory == Some(memory.index));
    let data_end = placed
        .filter_map(|segment| segment.end())
        .max()
        .unwrap_or(0);
    let least = data_end.div_ceil(WASM_PAGE_SIZE);
    if start < least {
        return Err(Error::StartBelowData {
            memory: memory.index,
            from: start,
            data_end,
            least,
        });
    }
    Ok(start)
}

/// An item for the global section: an i32 holding a number of pages.
pub(crate) fn pages_global(pages: u64, mutable: bool) -> Vec<u8> {
    let mut item = Vec::new();
    let ty = GlobalType {
        val_type: ValType::I32,
        mutable,
        shared: false,
    };
    ty.encode(&mut item);
    ConstExpr::i32_const(as_i32(pages)).encode(&mut item);
    item
}

/// An item for the type section: one i32 in, one i32 out, as `memory.grow`.
pub(crate) fn grow_type() -> Vec<u8> {
    const FUNC: u8 = 0x60;
    let mut item = vec![FUNC];
    [ValType::I32].as_slice().encode(&mut item);
    [ValType::I32].as_slice().encode(&mut item);
    item
}

/// An item for the code section: `memory.grow`, on the size that `global` holds.
pub(crate) fn grow_body(global: u32, cap: u64) -> Vec<u8> {
    const DELTA: u32 = 0;
    const OLD_SIZE: u32 = 1;
    let mut function = Function::new([(1, ValType::I32)]);
    let mut code = function.instructions();
    code.local_get(DELTA);
    code.i32_const(as_i32(cap));
    code.global_get(global).local_tee(OLD_SIZE);
    // The size never exceeds the cap, so this does not wrap.
    code.i32_sub();
    code.i32_gt_u();
    code.if_(wasm_encoder::BlockType::Result(ValType::I32));
    code.i32_const(-1);
    code.else_();
    code.local_get(OLD_SIZE).local_get(DELTA).i32_add();
    code.global_set(global);
    code.local_get(OLD_SIZE);
    code.end();
    code.end();
    let mut item = Vec::new();
    function.encode(&mut item);
    item
}

fn as_i32(pages: u64) -> i32 {
    debug_assert!(pages <= MAX_PAGES, "sizes are checked before");
    pages as i32
}
