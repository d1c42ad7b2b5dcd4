//! One pass over a module, giving the byte ranges that everything else works with.
//!
//! Bodies of functions and contents of data segments are not looked into here.

use std::ops::Range;

use wasmparser::{
    BinaryReader, ExportSectionReader, ExternalKind, FunctionSectionReader, GlobalSectionReader,
    ImportSectionReader, MemorySectionReader, Operator, TypeRef,
};

use crate::error::{Error, Unsupported};
use crate::limits::{Memory, MemoryImport};

/// Section ids of the binary format (core specification, "Sections").
pub(crate) mod id {
    pub(crate) const CUSTOM: u8 = 0;
    pub(crate) const TYPE: u8 = 1;
    pub(crate) const IMPORT: u8 = 2;
    pub(crate) const FUNCTION: u8 = 3;
    pub(crate) const TABLE: u8 = 4;
    pub(crate) const MEMORY: u8 = 5;
    pub(crate) const GLOBAL: u8 = 6;
    pub(crate) const EXPORT: u8 = 7;
    pub(crate) const START: u8 = 8;
    pub(crate) const ELEMENT: u8 = 9;
    pub(crate) const CODE: u8 = 10;
    pub(crate) const DATA: u8 = 11;
    pub(crate) const DATA_COUNT: u8 = 12;
    pub(crate) const TAG: u8 = 13;
}

/// Where a section stands in the order that the format prescribes; `None` where it may stand
/// anywhere (custom sections) or is unknown.
pub(crate) fn rank(section: u8) -> Option<usize> {
    const ORDER: [u8; 13] = [
        id::TYPE,
        id::IMPORT,
        id::FUNCTION,
        id::TABLE,
        id::MEMORY,
        id::TAG,
        id::GLOBAL,
        id::EXPORT,
        id::START,
        id::ELEMENT,
        id::DATA_COUNT,
        id::CODE,
        id::DATA,
    ];
    ORDER.iter().position(|&known| known == section)
}

/// A section's id and the bytes it occupies.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) id: u8,
    /// The LEB128 that says how long the content is. The id is the byte before it.
    pub(crate) length: Range<usize>,
    pub(crate) content: Range<usize>,
}

impl Section {
    /// Offset of the section's first byte, its id.
    pub(crate) fn start(&self) -> usize {
        self.length.start - 1
    }

    pub(crate) fn reader<'a>(&self, wasm: &'a [u8]) -> BinaryReader<'a> {
        reader(wasm, self.content.clone())
    }
}

/// A reader over part of the input whose complaints carry offsets into the whole.
pub(crate) fn reader(wasm: &[u8], range: Range<usize>) -> BinaryReader<'_> {
    BinaryReader::new(&wasm[range.clone()], range.start as u64)
}

/// Offsets that a reader gives lie within the slice it reads, so they fit.
pub(crate) fn to_range(range: &Range<u64>) -> Range<usize> {
    range.start as usize..range.end as usize
}

/// Checks the eight bytes that every core module begins with.
fn check_header(wasm: &[u8]) -> Result<(), Error> {
    const MAGIC: &[u8] = b"\0asm";
    const MODULE: &[u8] = &[1, 0, 0, 0];
    /// A component's layer is 1, a module's 0; the bytes before it are a version.
    const COMPONENT_LAYER: &[u8] = &[1, 0];

    let not_a_module = |found| Err(Error::NotAModule { found });
    if wasm.is_empty() {
        return not_a_module("it is empty");
    }
    if wasm.starts_with(&[0x1f, 0x8b]) {
        return not_a_module("it is gzip-compressed; decompress it first");
    }
    if !wasm.starts_with(MAGIC) {
        let text = wasm.trim_ascii_start();
        if text.starts_with(b"(") || text.starts_with(b";;") {
            return not_a_module("it looks like the text format; convert it to binary first");
        }
        return not_a_module("its first four bytes are not `\\0asm`");
    }
    match wasm.get(4..8) {
        None => not_a_module("it ends within its header"),
        Some(MODULE) => Ok(()),
        Some(version) if version.ends_with(COMPONENT_LAYER) => Err(Error::Unsupported {
            what: Unsupported::Component,
            offset: 4,
        }),
        Some(_) => not_a_module("its version is not 1"),
    }
}

/// The sections of a module, in the order they stand in.
pub(crate) fn sections(
    wasm: &[u8],
) -> Result<impl Iterator<Item = Result<Section, Error>> + '_, Error> {
    check_header(wasm)?;
    let mut reader = reader(wasm, 8..wasm.len());
    Ok(std::iter::from_fn(move || {
        if reader.eof() {
            return None;
        }
        let section = read_section(&mut reader);
        if section.is_err() {
            // Nothing behind a broken header can be told apart: end with the complaint.
            let rest = reader.bytes_remaining();
            let _ = reader.read_bytes(rest);
        }
        Some(section.map_err(|error| Error::malformed(&error)))
    }))
}

fn read_section(reader: &mut BinaryReader<'_>) -> wasmparser::Result<Section> {
    let id = reader.read_u8()?;
    let length = reader.original_position() as usize;
    let content = to_range(&reader.read_reader()?.range());
    Ok(Section {
        id,
        length: length..content.start,
        content,
    })
}

/// A memory and the bytes of its limits.
#[derive(Clone, Debug)]
pub(crate) struct DefinedMemory {
    pub(crate) memory: Memory,
    /// From the limits' flags to their last byte.
    pub(crate) limits: Range<usize>,
}

/// What a rewrite needs to know of a module.
#[derive(Debug)]
pub(crate) struct Map<'a> {
    pub(crate) wasm: &'a [u8],
    pub(crate) sections: Vec<Section>,
    pub(crate) imported_functions: u32,
    pub(crate) defined_functions: u32,
    pub(crate) imported_globals: u32,
    pub(crate) defined_globals: u32,
    /// Imported memories; they come first in the index space.
    pub(crate) imported_memories: Vec<Memory>,
    pub(crate) defined_memories: Vec<DefinedMemory>,
    /// Exported globals that linkers use to tell where things lie: name and global index.
    landmarks: Vec<(&'a str, u32)>,
}

/// The exported globals that [`Map`] keeps.
const LANDMARKS: [&str; 4] = ["__data_end", "__heap_base", "__heap_end", "__stack_pointer"];

impl<'a> Map<'a> {
    /// Reads all of a module's structure but not its code and data.
    pub(crate) fn read(wasm: &'a [u8]) -> Result<Self, Error> {
        Self::read_through(wasm, id::DATA)
    }

    /// Reads a module's structure as far as the section `last`, and not a byte behind it.
    pub(crate) fn read_through(wasm: &'a [u8], last: u8) -> Result<Self, Error> {
        let mut map = Self {
            wasm,
            sections: Vec::new(),
            imported_functions: 0,
            defined_functions: 0,
            imported_globals: 0,
            defined_globals: 0,
            imported_memories: Vec::new(),
            defined_memories: Vec::new(),
            landmarks: Vec::new(),
        };
        for section in sections(wasm)? {
            let section = section?;
            map.check_order(&section)?;
            if rank(section.id) > rank(last) {
                break;
            }
            map.read_content(&section)
                .map_err(|error| Error::malformed(&error))?;
            let done = section.id == last && last != id::DATA;
            map.sections.push(section);
            if done {
                break;
            }
        }
        Ok(map)
    }

    /// A module whose sections are doubled or out of order has no single meaning to keep.
    fn check_order(&self, section: &Section) -> Result<(), Error> {
        let Some(here) = rank(section.id) else {
            return Ok(());
        };
        match self.sections.iter().rev().find_map(|s| rank(s.id)) {
            Some(before) if before >= here => Err(Error::Malformed {
                offset: section.start() as u64,
                message: format!("section {} is out of order or doubled", section.id),
            }),
            _ => Ok(()),
        }
    }

    fn read_content(&mut self, section: &Section) -> wasmparser::Result<()> {
        let reader = section.reader(self.wasm);
        match section.id {
            id::IMPORT => self.read_imports(reader)?,
            id::FUNCTION => self.defined_functions = FunctionSectionReader::new(reader)?.count(),
            id::MEMORY => {
                let first = self.imported_memories.len() as u32;
                self.defined_memories = read_memories(reader, first)?;
            }
            id::GLOBAL => self.defined_globals = GlobalSectionReader::new(reader)?.count(),
            id::EXPORT => {
                for export in ExportSectionReader::new(reader)? {
                    let export = export?;
                    if export.kind == ExternalKind::Global && LANDMARKS.contains(&export.name) {
                        self.landmarks.push((export.name, export.index));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn read_imports(&mut self, reader: BinaryReader<'a>) -> wasmparser::Result<()> {
        for import in ImportSectionReader::new(reader)?.into_imports_with_offsets() {
            let (offset, import) = import?;
            match import.ty {
                TypeRef::Func(_) | TypeRef::FuncExact(_) => self.imported_functions += 1,
                TypeRef::Global(_) => self.imported_globals += 1,
                TypeRef::Memory(ty) => {
                    let index = self.imported_memories.len() as u32;
                    let names = MemoryImport {
                        module: import.module.to_owned(),
                        name: import.name.to_owned(),
                    };
                    self.imported_memories
                        .push(Memory::new(index, &ty, Some(names), offset));
                }
                TypeRef::Table(_) | TypeRef::Tag(_) => {}
            }
        }
        Ok(())
    }

    /// Every memory, in the order of the index space.
    pub(crate) fn memories(&self) -> impl Iterator<Item = &Memory> {
        let defined = self.defined_memories.iter().map(|m| &m.memory);
        self.imported_memories.iter().chain(defined)
    }

    pub(crate) fn section(&self, id: u8) -> Option<&Section> {
        self.sections.iter().find(|s| s.id == id)
    }

    /// The value of an exported global, or of one with that name in the name section, where it is
    /// an i32 constant that never changes. The value is an address, so it is read as unsigned.
    pub(crate) fn landmark(&self, name: &str) -> Result<Option<u32>, Error> {
        let exported = self.landmarks.iter().find(|(n, _)| *n == name);
        match exported
            .map(|(_, index)| *index)
            .or_else(|| self.named_global(name))
        {
            Some(index) => self
                .constant(index)
                .map_err(|error| Error::malformed(&error)),
            None => Ok(None),
        }
    }

    /// Looks a global up in the name section. A name section that does not parse names nothing.
    fn named_global(&self, name: &str) -> Option<u32> {
        let custom = self.sections.iter().filter(|s| s.id == id::CUSTOM);
        for section in custom {
            let mut reader = section.reader(self.wasm);
            if reader.read_string().ok() != Some("name") {
                continue;
            }
            for subsection in wasmparser::NameSectionReader::new(reader) {
                if let Ok(wasmparser::Name::Global(names)) = subsection {
                    let mut found = names.into_iter().flatten().filter(|n| n.name == name);
                    if let Some(naming) = found.next() {
                        return Some(naming.index);
                    }
                }
            }
        }
        None
    }

    fn constant(&self, global: u32) -> wasmparser::Result<Option<u32>> {
        let Some(defined) = global.checked_sub(self.imported_globals) else {
            return Ok(None);
        };
        let Some(section) = self.section(id::GLOBAL) else {
            return Ok(None);
        };
        let mut globals = GlobalSectionReader::new(section.reader(self.wasm))?.into_iter();
        match globals.nth(defined as usize).transpose()? {
            Some(global) if !global.ty.mutable => i32_constant(&global.init_expr),
            _ => Ok(None),
        }
    }
}

/// The value of an expression that is a lone `i32.const`, read as unsigned.
pub(crate) fn i32_constant(expr: &wasmparser::ConstExpr<'_>) -> wasmparser::Result<Option<u32>> {
    let mut operators = expr.get_operators_reader();
    let first = operators.read()?;
    Ok(match (first, operators.is_end_then_eof()) {
        (Operator::I32Const { value }, true) => Some(value.cast_unsigned()),
        _ => None,
    })
}

/// Reads a memory section whose first memory has the given index.
fn read_memories(reader: BinaryReader<'_>, first: u32) -> wasmparser::Result<Vec<DefinedMemory>> {
    let end = reader.range().end as usize;
    let mut memories: Vec<DefinedMemory> = Vec::new();
    for (index, item) in (first..).zip(MemorySectionReader::new(reader)?.into_iter_with_offsets()) {
        let (offset, ty) = item?;
        if let Some(before) = memories.last_mut() {
            before.limits.end = offset as usize;
        }
        memories.push(DefinedMemory {
            memory: Memory::new(index, &ty, None, offset),
            limits: offset as usize..end,
        });
    }
    Ok(memories)
}
