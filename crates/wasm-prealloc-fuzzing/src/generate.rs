//! Random modules that use their memories. wasm-smith generates them, and growth instructions are then
//! inserted into their functions, because wasm-smith alone generates too few.

use arbitrary::{Result, Unstructured};
use wasm_smith::{Config, InstructionKind, InstructionKinds, MemoryOffsetChoices};
use wasmparser::MemoryType;

use crate::declare::{declare, hide_memories, import_memory};
use crate::insert::Insertions;
use crate::metadata;

/// The number of calls and loop iterations before a module traps. The module itself counts them, so
/// that the original and the rewrite trap at the same point.
const FUEL: u32 = 3_000;

/// A module, and the parameters of its test.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The module. It exports everything that it defines.
    pub wasm: Vec<u8>,
    /// The size that memories are rewritten to, in pages of 64 KiB.
    pub pages: u64,
    /// The seed of the options and of the calls.
    pub calls: u64,
}

impl Generated {
    /// Generates a module from random bytes.
    ///
    /// # Errors
    /// There are too few bytes, or the module does not fit the limits.
    pub fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        // Mostly small sizes, because whole memories are compared, and a memory without a maximum
        // may grow up to this size.
        let pages = *u.choose(&[96, 128, 200, 65_536])?;
        let calls = u.arbitrary()?;
        let kind: u8 = u.int_in_range(0..=19)?;
        let mut wasm = module(u, pages, MOST_PAGES)?;
        let unfit = |_| arbitrary::Error::IncorrectFormat;
        // An import is only the first memory. The others stay definitions.
        if kind < 4 {
            wasm = import_memory(&wasm).map_err(unfit)?;
        }
        match kind {
            3..5 => {
                wasm = declare(&wasm, |index, ty| match index {
                    0 => shared(ty, pages),
                    _ => ty,
                })
                .map_err(unfit)?;
            }
            5..10 => wasm = hide_memories(&wasm).map_err(unfit)?,
            _ => {}
        }
        if kind.is_multiple_of(2) {
            wasm = metadata::add(&wasm, u).map_err(unfit)?;
        }
        Ok(Self { wasm, pages, calls })
    }
}

/// The most pages that a generated memory has at the start.
const MOST_PAGES: u64 = 80;

/// Returns the type of a shared memory, which must have a maximum. Memories with custom page sizes are
/// not shared, because the oracle cannot read them.
pub(crate) fn shared(ty: MemoryType, pages: u64) -> MemoryType {
    MemoryType {
        shared: ty.page_size_log2.is_none(),
        maximum: ty.maximum.or(Some(ty.initial.max(pages))),
        ..ty
    }
}

/// Generates a module that exports everything that it defines, and imports nothing.
pub(crate) fn module(u: &mut Unstructured<'_>, pages: u64, most: u64) -> Result<Vec<u8>> {
    module_with(u, pages, most, |_| {})
}

/// Generates a module with other features.
pub(crate) fn module_with(
    u: &mut Unstructured<'_>,
    pages: u64,
    most: u64,
    change: impl FnOnce(&mut Config),
) -> Result<Vec<u8>> {
    let unfit = |_| arbitrary::Error::IncorrectFormat;
    let insertions = Insertions::new(u)?;
    let mut config = config(u, pages, most)?;
    change(&mut config);
    let mut module = wasm_smith::Module::new(config, u)?;
    module.ensure_termination(FUEL).map_err(unfit)?;
    insertions.insert(&module.to_bytes(), u).map_err(unfit)
}

#[expect(
    clippy::field_reassign_with_default,
    reason = "the settings are in groups, with a comment for each"
)]
fn config(u: &mut Unstructured<'_>, pages: u64, most: u64) -> Result<Config> {
    let mut config = Config::default();
    // If traps are disallowed, the generated code compares addresses with `memory.size`. Most of the
    // other modules trap soon.
    config.disallow_traps = u.ratio(4, 5)?;
    config.memory_offset_choices = MemoryOffsetChoices(1, 0, 0);
    config.canonicalize_nans = true;
    config.export_everything = true;

    config.max_memories = if u.ratio(1, 4)? { 3 } else { 1 };
    config.min_memories = 1;
    config.memory64_enabled = u.ratio(1, 4)?;
    config.custom_page_sizes_enabled = u.ratio(1, 6)?;
    // Small enough to compare as a whole. A maximum is required if the memory could grow to 4 GiB
    // without one.
    config.max_memory32_bytes = most << 16;
    config.max_memory64_bytes = u128::from(most) << 16;
    config.memory_max_size_required = pages > 1000 || u.ratio(1, 2)?;
    config.max_data_segments = 4;

    config.max_imports = 0;
    config.min_types = 1;
    config.min_funcs = 2;
    config.max_funcs = 6;
    config.max_types = 6;
    config.max_globals = 5;
    config.max_instructions = *u.choose(&[30, 60, 120])?;
    config.max_table_elements = 50;
    config.table_max_size_required = true;
    // Over-long encodings of indices make the instructions to replace longer.
    config.min_uleb_size = *u.choose(&[1, 1, 1, 2, 5])?;
    if u.ratio(1, 2)? {
        use InstructionKind::{Control, Memory, Numeric, Parametric, Variable};
        let kinds = [Control, Memory, Numeric, Parametric, Variable];
        config.allowed_instructions = InstructionKinds::new(&kinds);
    }
    config.simd_enabled = u.ratio(1, 4)?;
    config.relaxed_simd_enabled = false;
    config.tail_call_enabled = u.arbitrary()?;
    config.exceptions_enabled = u.ratio(1, 5)?;
    config.gc_enabled = u.ratio(1, 6)?;

    // Features without relation to memories, and instructions that wait for another thread.
    config.threads_enabled = false;
    config.wide_arithmetic_enabled = false;
    config.compact_imports_enabled = false;
    Ok(config)
}
