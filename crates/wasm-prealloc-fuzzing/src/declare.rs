//! Declares other limits for a module's memories, and changes nothing else: what the oracles
//! compare a rewrite with where the module shall behave as if it had been declared so.

use anyhow::{Result, bail};
use wasm_encoder::{ImportSection, MemorySection, RawSection};
use wasmparser::{MemoryType, Parser, Payload, TypeRef};

use crate::generate::usize_range;

/// What the oracles want to know of a module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memories {
    /// Imported ones first, as in the index space.
    pub(crate) types: Vec<MemoryType>,
    /// By memory: how many instructions measure and grow it.
    pub(crate) sites: Vec<(usize, usize)>,
}

impl Memories {
    pub(crate) fn read(wasm: &[u8]) -> Result<Self> {
        let mut memories = Self::default();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::ImportSection(reader) => {
                    for import in reader.into_imports() {
                        if let TypeRef::Memory(ty) = import?.ty {
                            memories.types.push(ty);
                        }
                    }
                }
                Payload::MemorySection(reader) => {
                    for memory in reader {
                        memories.types.push(memory?);
                    }
                }
                Payload::CodeSectionStart { .. } => {
                    memories.sites.resize(memories.types.len(), (0, 0));
                }
                Payload::CodeSectionEntry(body) => {
                    for operator in body.get_operators_reader()? {
                        match operator? {
                            wasmparser::Operator::MemorySize { mem } => {
                                memories.sites[mem as usize].0 += 1;
                            }
                            wasmparser::Operator::MemoryGrow { mem } => {
                                memories.sites[mem as usize].1 += 1;
                            }
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

/// The module with other limits for its memories. `limits` gets a memory's index and type.
///
/// # Errors
/// Where the module imports something else than memories: the generator makes none such.
pub(crate) fn declare(
    wasm: &[u8],
    mut limits: impl FnMut(usize, MemoryType) -> MemoryType,
) -> Result<Vec<u8>> {
    let mut module = wasm_encoder::Module::new();
    let mut index = 0;
    let mut declared = |ty: MemoryType| {
        let ty = limits(index, ty);
        index += 1;
        wasm_encoder::MemoryType {
            minimum: ty.initial,
            maximum: ty.maximum,
            memory64: ty.memory64,
            shared: ty.shared,
            page_size_log2: ty.page_size_log2,
        }
    };
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        let section = payload.as_section();
        match payload {
            Payload::ImportSection(reader) => {
                let mut imports = ImportSection::new();
                for import in reader.into_imports() {
                    let import = import?;
                    let TypeRef::Memory(ty) = import.ty else {
                        bail!("an import other than a memory");
                    };
                    imports.import(import.module, import.name, declared(ty));
                }
                module.section(&imports);
            }
            Payload::MemorySection(reader) => {
                let mut memories = MemorySection::new();
                for memory in reader {
                    memories.memory(declared(memory?));
                }
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
