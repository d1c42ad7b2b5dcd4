//! Declares other limits for the memories of a module, and changes nothing else. The oracles compare
//! a rewrite with such a module.

use std::convert::Infallible;
use std::ops::Range;

use anyhow::Result;
use wasm_encoder::reencode::{self, Reencode};
use wasm_encoder::{ImportSection, MemorySection, RawSection};
use wasmparser::{MemoryType, Operator, Parser, Payload, TypeRef};

/// The name under which linkers export the start of the heap.
pub(crate) const HEAP_BASE: &str = "__heap_base";

/// Facts about the memories of a module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memories {
    /// The types by memory index: imported memories first.
    pub(crate) types: Vec<MemoryType>,
    /// By memory index: the numbers of `memory.size` and `memory.grow` instructions.
    pub(crate) sites: Vec<(usize, usize)>,
    /// True if one of them is imported.
    pub(crate) imported: bool,
    /// The value of the exported global `__heap_base`.
    pub(crate) heap_base: Option<u64>,
}

impl Memories {
    pub(crate) fn read(wasm: &[u8]) -> Result<Self> {
        let mut memories = Self::default();
        let mut globals = Vec::new();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::ImportSection(reader) => {
                    for import in reader.into_imports() {
                        if let TypeRef::Memory(ty) = import?.ty {
                            memories.imported = true;
                            memories.types.push(ty);
                        }
                    }
                }
                Payload::MemorySection(reader) => {
                    for memory in reader {
                        memories.types.push(memory?);
                    }
                }
                Payload::GlobalSection(reader) => {
                    for global in reader {
                        globals.push(global?.init_expr.get_operators_reader().read()?);
                    }
                }
                Payload::ExportSection(reader) => {
                    for export in reader {
                        let export = export?;
                        if export.name == HEAP_BASE
                            && let Operator::I32Const { value } = globals[export.index as usize]
                        {
                            memories.heap_base = Some(u64::from(value.cast_unsigned()));
                        }
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    memories.sites.resize(memories.types.len(), (0, 0));
                    for operator in body.get_operators_reader()? {
                        match operator? {
                            Operator::MemorySize { mem } => memories.sites[mem as usize].0 += 1,
                            Operator::MemoryGrow { mem } => memories.sites[mem as usize].1 += 1,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        memories.sites.resize(memories.types.len(), (0, 0));
        Ok(memories)
    }
}

/// Returns the module with other limits for its memories. `limits` takes a memory's index and type.
///
/// # Errors
/// The bytes are not a core module.
pub fn declare(
    wasm: &[u8],
    limits: impl FnMut(usize, MemoryType) -> MemoryType,
) -> Result<Vec<u8>> {
    let mut module = wasm_encoder::Module::new();
    let mut limits = Limits { index: 0, limits };
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        let section = payload.as_section();
        match payload {
            Payload::ImportSection(reader) => {
                let mut imports = ImportSection::new();
                limits.parse_import_section(&mut imports, reader)?;
                module.section(&imports);
            }
            Payload::MemorySection(reader) => {
                let mut memories = MemorySection::new();
                limits.parse_memory_section(&mut memories, reader)?;
                module.section(&memories);
            }
            _ => {
                if let Some((id, range)) = section {
                    let data = &wasm[usize_range(&range)];
                    module.section(&RawSection { id, data });
                }
            }
        }
    }
    Ok(module.finish())
}

/// Re-encodes memory types with the limits that a function returns.
struct Limits<F> {
    index: usize,
    limits: F,
}

impl<F: FnMut(usize, MemoryType) -> MemoryType> Reencode for Limits<F> {
    type Error = Infallible;

    fn memory_type(
        &mut self,
        ty: MemoryType,
    ) -> Result<wasm_encoder::MemoryType, reencode::Error<Infallible>> {
        let ty = (self.limits)(self.index, ty);
        self.index += 1;
        Ok(wasm_encoder::MemoryType {
            minimum: ty.initial,
            maximum: ty.maximum,
            memory64: ty.memory64,
            shared: ty.shared,
            page_size_log2: ty.page_size_log2,
        })
    }
}

/// Converts a range that a reader returned. It is within the reader's slice, so it fits.
pub(crate) fn usize_range(range: &Range<u64>) -> Range<usize> {
    range.start as usize..range.end as usize
}
