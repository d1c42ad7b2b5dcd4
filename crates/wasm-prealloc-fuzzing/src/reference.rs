//! The contract of a rewrite as limits: the sizes that a rewritten module must see. It follows the
//! documentation and not the rewriter's code.

use wasm_prealloc::{EmulateFrom, Growth, MemoryImportPolicy, Options, WASM_PAGE_SIZE};
use wasmparser::MemoryType;

use crate::declare::MemoryFacts;

/// Returns true if nothing outside of the module can reach the memory.
fn is_private(memory: &MemoryFacts) -> bool {
    !memory.imported && memory.exports.is_empty()
}

/// Returns true if the growth of a memory of a core module is counted in the memory itself.
pub(crate) fn counts_in_memory(memory: &MemoryFacts, options: &Options) -> bool {
    let keep = options.memory_import == MemoryImportPolicy::Keep;
    memory.ty.shared || keep && !is_private(memory)
}

/// Converts `pages` of 64 KiB to pages of the memory's own page size.
pub(crate) fn own_pages(ty: &MemoryType, pages: u64) -> u64 {
    (pages * WASM_PAGE_SIZE) >> ty.page_size_log2.unwrap_or(16)
}

/// Returns the size, in the memory's own pages, to which a memory can grow. A counter in the memory
/// takes its last page, or 8 bytes if a page is smaller.
pub(crate) fn cap(ty: &MemoryType, pages: u64, in_memory: bool) -> u64 {
    let page = 1 << ty.page_size_log2.unwrap_or(16);
    let reserved = if in_memory { 8_u64.div_ceil(page) } else { 0 };
    let target = own_pages(ty, pages).saturating_sub(reserved);
    ty.maximum.unwrap_or(target).min(target)
}

/// Returns the limits that the memory has in the reference module, which grows freely. `None` if no
/// limits describe the behaviour of the rewrite.
pub(crate) fn limits(
    memory: &MemoryFacts,
    heap_base: Option<u64>,
    options: &Options,
) -> Option<MemoryType> {
    use Growth::{Auto, Emulate, Keep, Pregrown};
    let ty = &memory.ty;
    let target = own_pages(ty, options.pages);
    let in_memory = counts_in_memory(memory, options);
    let with = |minimum, maximum| {
        Some(MemoryType {
            initial: minimum,
            maximum: Some(maximum),
            ..*ty
        })
    };
    let as_declared = Some(*ty);
    let emulated = || {
        let keep = options.memory_import == MemoryImportPolicy::Keep;
        let is_pinned = ty.maximum == Some(ty.initial);
        let from = match options.emulate_from {
            EmulateFrom::Pages(_) if keep && is_private(memory) && !is_pinned => ty.initial,
            EmulateFrom::Pages(pages) => pages,
            EmulateFrom::HeapBase => {
                let page = 1 << ty.page_size_log2.unwrap_or(16);
                heap_base?.div_ceil(page)
            }
            _ => ty.initial,
        };
        with(from, cap(ty, options.pages, in_memory))
    };
    // The size that a pregrown memory reports. Its size in bytes must not overflow.
    let readable = match ty.memory64 {
        true => u64::MAX,
        false => u64::from(u32::MAX) >> ty.page_size_log2.unwrap_or(16),
    };
    let cap = cap(ty, options.pages, false);
    let grown = with(cap.min(readable), ty.maximum.unwrap_or(target));
    let at_target = ty.initial == target && ty.maximum == Some(target);
    let start_unknown = matches!(
        options.emulate_from,
        EmulateFrom::Auto | EmulateFrom::Declared
    );
    // With `keep`, other modules may grow a memory that the module only measures.
    let grown_elsewhere = in_memory && options.memory_import == MemoryImportPolicy::Keep;
    match (options.growth, memory.sizes, memory.grows) {
        (_, 0, 0) => as_declared,
        (Auto, ..) if at_target && start_unknown => as_declared,
        (Emulate, ..) | (Auto, _, 1..) => emulated(),
        (Auto, ..) if grown_elsewhere => emulated(),
        (Auto, ..) if at_target => as_declared,
        (Auto, ..) if is_private(memory) => as_declared,
        (Auto | Pregrown, _, 0) => grown,
        // The remaining `memory.grow` fails, or returns the real size if it grows by 0.
        (Pregrown, 1.., 1..) if cap != target || cap > 65_535 => None,
        (Pregrown | Keep, ..) => with(target, target),
        (growth, ..) => unimplemented!("growth {growth}"),
    }
}
