//! The declarations of a module's memories: their limits, imports and exports. The oracles compare a
//! rewrite with a module that differs only in the limits.

use std::convert::Infallible;

use anyhow::Result;
use wasm_encoder::reencode::{self, Reencode};
use wasm_encoder::{Encode as _, ImportSection, MemorySection, RawSection, SectionId};
use wasmparser::{
    BinaryReader, DataKind, Export, ExportSectionReader, ExternalKind, MemoryType, Operator,
    Parser, Payload, TypeRef,
};

use crate::sections::{append, content_of, join, split, usize_range};

/// The name under which linkers export the start of the heap.
pub(crate) const HEAP_BASE: &str = "__heap_base";

/// Facts about a memory of a module.
#[derive(Clone, Debug)]
pub(crate) struct MemoryFacts {
    pub(crate) ty: MemoryType,
    /// The numbers of `memory.size` and `memory.grow` instructions.
    pub(crate) sizes: usize,
    pub(crate) grows: usize,
    pub(crate) imported: bool,
    /// The names of its exports.
    pub(crate) exports: Vec<String>,
    /// The end of its highest active data segment with a constant address.
    pub(crate) data_end: u64,
    /// True if a data segment has another address.
    pub(crate) data_unknown: bool,
}

impl MemoryFacts {
    fn new(ty: MemoryType, imported: bool) -> Self {
        Self {
            ty,
            sizes: 0,
            grows: 0,
            imported,
            exports: Vec::new(),
            data_end: 0,
            data_unknown: false,
        }
    }

    /// Returns a number of pages in bytes.
    pub(crate) fn bytes(&self, pages: u64) -> u64 {
        pages << self.ty.page_size_log2.unwrap_or(16)
    }
}

/// Facts about the memories of a module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memories {
    /// By memory index: imported memories first.
    pub(crate) all: Vec<MemoryFacts>,
    /// The value of the exported global `__heap_base`.
    pub(crate) heap_base: Option<u64>,
    /// True if there is a passive data segment.
    pub(crate) passive_data: bool,
}

impl Memories {
    pub(crate) fn types(&self) -> Vec<MemoryType> {
        self.all.iter().map(|memory| memory.ty).collect()
    }

    /// Returns true if one of them is imported.
    pub(crate) fn imported(&self) -> bool {
        self.all.iter().any(|memory| memory.imported)
    }

    pub(crate) fn read(wasm: &[u8]) -> Result<Self> {
        let mut memories = Self::default();
        let mut globals = Vec::new();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::ImportSection(reader) => {
                    for import in reader.into_imports() {
                        if let TypeRef::Memory(ty) = import?.ty {
                            memories.all.push(MemoryFacts::new(ty, true));
                        }
                    }
                }
                Payload::MemorySection(reader) => {
                    for memory in reader {
                        memories.all.push(MemoryFacts::new(memory?, false));
                    }
                }
                Payload::GlobalSection(reader) => {
                    for global in reader {
                        globals.push(global?.init_expr.get_operators_reader().read()?);
                    }
                }
                Payload::ExportSection(reader) => {
                    for export in reader {
                        memories.read_export(&export?, &globals);
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    for operator in body.get_operators_reader()? {
                        match operator? {
                            Operator::MemorySize { mem } => memories.all[mem as usize].sizes += 1,
                            Operator::MemoryGrow { mem } => memories.all[mem as usize].grows += 1,
                            _ => {}
                        }
                    }
                }
                Payload::DataSection(reader) => {
                    for segment in reader {
                        memories.read_data(&segment?)?;
                    }
                }
                _ => {}
            }
        }
        Ok(memories)
    }

    fn read_export(&mut self, export: &Export<'_>, globals: &[Operator<'_>]) {
        let index = export.index as usize;
        match export.kind {
            ExternalKind::Memory => self.all[index].exports.push(export.name.to_owned()),
            ExternalKind::Global if export.name == HEAP_BASE => {
                if let Operator::I32Const { value } = globals[index] {
                    self.heap_base = Some(u64::from(value.cast_unsigned()));
                }
            }
            _ => {}
        }
    }

    fn read_data(&mut self, segment: &wasmparser::Data<'_>) -> Result<()> {
        let DataKind::Active {
            memory_index,
            offset_expr,
        } = &segment.kind
        else {
            self.passive_data = true;
            return Ok(());
        };
        let memory = &mut self.all[*memory_index as usize];
        let address = match offset_expr.get_operators_reader().read()? {
            Operator::I32Const { value } => u64::from(value.cast_unsigned()),
            Operator::I64Const { value } => value.cast_unsigned(),
            _ => {
                memory.data_unknown = true;
                return Ok(());
            }
        };
        let end = address.saturating_add(segment.data.len() as u64);
        memory.data_end = memory.data_end.max(end);
        Ok(())
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

/// The names of the import that [`import_memory`] makes.
pub(crate) const IMPORT: (&str, &str) = ("env", "memory");

/// Returns the module with its first memory as an import. The module has no other imports.
pub(crate) fn import_memory(wasm: &[u8]) -> Result<Vec<u8>> {
    let mut sections = split(wasm)?;
    let Some(at) = sections
        .iter()
        .position(|(id, _)| *id == SectionId::Memory as u8)
    else {
        return Ok(wasm.to_vec());
    };
    let mut memories = BinaryReader::new(&sections[at].1, 0);
    let count = memories.read_var_u32()?;
    let start = memories.original_position() as usize;
    memories.read::<MemoryType>()?;
    let end = memories.original_position() as usize;
    let content = sections[at].1.clone();
    let mut import = Vec::new();
    IMPORT.0.encode(&mut import);
    IMPORT.1.encode(&mut import);
    import.push(wasm_encoder::ExportKind::Memory as u8);
    import.extend(&content[start..end]);
    match count {
        1 => drop(sections.remove(at)),
        _ => {
            let rest = &mut sections[at].1;
            rest.clear();
            (count - 1).encode(rest);
            rest.extend(&content[end..]);
        }
    }
    append(&mut sections, SectionId::Import, &import)?;
    Ok(join(&sections))
}

/// Returns the module without exports of its memories.
pub(crate) fn hide_memories(wasm: &[u8]) -> Result<Vec<u8>> {
    let mut sections = split(wasm)?;
    let found = sections
        .iter_mut()
        .find(|(id, _)| *id == SectionId::Export as u8);
    if let Some((_, content)) = found {
        let mut exports = wasm_encoder::ExportSection::new();
        for export in ExportSectionReader::new(BinaryReader::new(content, 0))? {
            let export = export?;
            if export.kind != ExternalKind::Memory {
                exports.export(export.name, export.kind.into(), export.index);
            }
        }
        *content = content_of(&exports)?;
    }
    Ok(join(&sections))
}
