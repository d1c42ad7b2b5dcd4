//! Declares other limits for a module's memories, and changes nothing else: what the oracles
//! compare a rewrite with where the module shall behave as if it had been declared so.

use anyhow::Result;
use wasm_encoder::{MemorySection, RawSection};
use wasmparser::{MemoryType, Parser, Payload, TypeRef};

use crate::generate::usize_range;

/// What the oracles want to know of a module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memories {
    /// Imported ones first, as in the index space.
    pub(crate) types: Vec<MemoryType>,
    pub(crate) imported: usize,
    /// By memory: how many instructions measure and grow it.
    pub(crate) sites: Vec<(usize, usize)>,
    /// By memory: whether an active data segment is placed in it.
    pub(crate) has_data: Vec<bool>,
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
                            memories.imported += 1;
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
                Payload::DataSection(reader) => {
                    memories.has_data.resize(memories.types.len(), false);
                    for data in reader {
                        if let wasmparser::DataKind::Active { memory_index, .. } = data?.kind {
                            memories.has_data[memory_index as usize] = true;
                        }
                    }
                }
                _ => {}
            }
        }
        memories.sites.resize(memories.types.len(), (0, 0));
        memories.has_data.resize(memories.types.len(), false);
        Ok(memories)
    }
}

/// The module with other limits for the memories that it defines. `limits` gets a memory's index
/// and type.
pub(crate) fn declare(
    wasm: &[u8],
    mut limits: impl FnMut(usize, MemoryType) -> MemoryType,
) -> Result<Vec<u8>> {
    let mut module = wasm_encoder::Module::new();
    let mut index = Memories::read(wasm)?.imported;
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        if let Payload::MemorySection(reader) = payload {
            let mut memories = MemorySection::new();
            for memory in reader {
                let ty = limits(index, memory?);
                index += 1;
                memories.memory(wasm_encoder::MemoryType {
                    minimum: ty.initial,
                    maximum: ty.maximum,
                    memory64: ty.memory64,
                    shared: ty.shared,
                    page_size_log2: ty.page_size_log2,
                });
            }
            module.section(&memories);
        } else if let Some((id, range)) = payload.as_section() {
            let data = &wasm[usize_range(&range)];
            module.section(&RawSection { id, data });
        }
    }
    Ok(module.finish())
}
