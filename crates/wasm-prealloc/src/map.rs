//! One pass over a module, giving the byte ranges that everything else works with.
//!
//! Bodies of functions and contents of data segments are not looked into here.

use std::ops::Range;

use wasmparser::{
    BinaryReader, ExportSectionReader, ExternalKind, FunctionSectionReader, GlobalSectionReader,
    ImportSectionReader, Imports, MemorySectionReader, Operator, TypeRef,
};

use crate::error::Error;
use crate::limits::{Memory, MemoryId, MemoryImport};

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

/// The content whose length stands before it at an offset. `wasm` ends where it has to end.
pub(crate) fn sized(wasm: &[u8], at: usize) -> wasmparser::Result<Range<usize>> {
    let mut length = 0;
    let groups = wasm.get(at..).unwrap_or_default();
    for (position, group) in groups.iter().take(4).enumerate() {
        length |= usize::from(group & 0x7f) << (7 * position);
        if *group < 0x80 {
            let start = at + position + 1;
            if length <= wasm.len() - start {
                return Ok(start..start + length);
            }
            break;
        }
    }
    // Lengths of five bytes are rare, and for all else the parser has the words.
    let rest = reader(wasm, at.min(wasm.len())..wasm.len()).read_reader()?;
    Ok(to_range(&rest.range()))
}

/// What the first eight bytes say that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Module,
    Component,
}

/// Bytes before the first section.
pub(crate) const HEADER_BYTES: usize = 8;

/// Reads the eight bytes that every module and every component begins with.
pub(crate) fn kind(wasm: &[u8]) -> Result<Kind, Error> {
    const MAGIC: &[u8] = b"\0asm";
    const MODULE: &[u8] = &[1, 0, 0, 0];
    /// A component's layer is 1, a module's 0; the bytes before it are a version.
    const COMPONENT_LAYER: &[u8] = &[1, 0];

    let not_wasm = |found| Err(Error::NotWasm { found });
    if wasm.is_empty() {
        return not_wasm("it is empty");
    }
    if wasm.starts_with(&[0x1f, 0x8b]) {
        return not_wasm("it is gzip-compressed; decompress it first");
    }
    if !wasm.starts_with(MAGIC) {
        let text = wasm.trim_ascii_start();
        if text.starts_with(b"(") || text.starts_with(b";;") {
            return not_wasm("it looks like the text format; convert it to binary first");
        }
        return not_wasm("its first four bytes are not `\\0asm`");
    }
    match wasm.get(MAGIC.len()..HEADER_BYTES) {
        None => not_wasm("it ends within its header"),
        Some(MODULE) => Ok(Kind::Module),
        Some(version) if version.ends_with(COMPONENT_LAYER) => Ok(Kind::Component),
        Some(_) => not_wasm("its version is none that is known"),
    }
}

/// The sections of the module or component that stands at `range`, in order.
pub(crate) fn sections(
    wasm: &[u8],
    range: Range<usize>,
) -> impl Iterator<Item = Result<Section, Error>> + '_ {
    let mut reader = reader(wasm, (range.start + HEADER_BYTES).min(range.end)..range.end);
    std::iter::from_fn(move || {
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
    })
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

/// A memory and where it is declared.
#[derive(Clone, Debug)]
pub(crate) struct MappedMemory {
    pub(crate) memory: Memory,
    /// The whole entry of the import or memory section, and its limits within it: from their flags
    /// to their last byte. `None` for an import that shares its names or its type with others.
    pub(crate) entry: Option<(Range<usize>, Range<usize>)>,
}

/// What a rewrite needs to know of a module.
#[derive(Debug)]
pub(crate) struct Map<'a> {
    pub(crate) wasm: &'a [u8],
    /// Where the module stands in the input.
    pub(crate) range: Range<usize>,
    /// In a component, which core module it is.
    pub(crate) module: Option<u32>,
    pub(crate) sections: Vec<Section>,
    pub(crate) imported_functions: u32,
    pub(crate) defined_functions: u32,
    pub(crate) imported_globals: u32,
    pub(crate) defined_globals: u32,
    /// Every memory, in the order of the index space.
    pub(crate) memories: Vec<MappedMemory>,
    /// Exported globals that linkers use to tell where things lie: name and global index.
    landmarks: Vec<(&'a str, u32)>,
}

/// The exported globals that [`Map`] keeps.
const LANDMARKS: [&str; 3] = ["__data_end", "__heap_base", "__heap_end"];

impl<'a> Map<'a> {
    /// Reads all of a module's structure but not its code and data.
    pub(crate) fn read(
        wasm: &'a [u8],
        range: Range<usize>,
        module: Option<u32>,
    ) -> Result<Self, Error> {
        Self::read_through(wasm, range, module, id::DATA)
    }

    /// Reads a module's structure as far as the section `last`, and not a byte behind it.
    pub(crate) fn read_through(
        wasm: &'a [u8],
        range: Range<usize>,
        module: Option<u32>,
        last: u8,
    ) -> Result<Self, Error> {
        let mut map = Self {
            wasm,
            range: range.clone(),
            module,
            sections: Vec::new(),
            imported_functions: 0,
            defined_functions: 0,
            imported_globals: 0,
            defined_globals: 0,
            memories: Vec::new(),
            landmarks: Vec::new(),
        };
        for section in sections(wasm, range) {
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
            id::MEMORY => self.read_memories(reader)?,
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
        let end = reader.range().end as usize;
        let groups = ImportSectionReader::new(reader)?.into_iter_with_offsets();
        let groups = groups.collect::<wasmparser::Result<Vec<_>>>()?;
        let starts = groups.iter().map(|(offset, _)| *offset as usize);
        let ends: Vec<usize> = starts.skip(1).chain([end]).collect();
        for ((offset, group), end) in groups.into_iter().zip(ends) {
            match group {
                Imports::Single(_, import) => {
                    let entry = offset as usize..end;
                    self.read_import(import.module, import.name, import.ty, offset, Some(entry))?;
                }
                Imports::Compact1 { module, items } => {
                    for item in items {
                        let item = item?;
                        self.read_import(module, item.name, item.ty, offset, None)?;
                    }
                }
                Imports::Compact2 { module, ty, names } => {
                    for name in names {
                        self.read_import(module, name?, ty, offset, None)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn read_import(
        &mut self,
        module: &str,
        name: &str,
        ty: TypeRef,
        offset: u64,
        entry: Option<Range<usize>>,
    ) -> wasmparser::Result<()> {
        match ty {
            TypeRef::Func(_) | TypeRef::FuncExact(_) => self.imported_functions += 1,
            TypeRef::Global(_) => self.imported_globals += 1,
            TypeRef::Memory(ty) => {
                let import = MemoryImport {
                    module: module.to_owned(),
                    name: name.to_owned(),
                };
                let memory = Memory::new(self.next_memory(), &ty, Some(import), offset);
                let entry = match entry {
                    Some(entry) => {
                        // Two names and the kind stand before the limits.
                        let mut reader = reader(self.wasm, entry.clone());
                        reader.skip_string()?;
                        reader.skip_string()?;
                        reader.read_u8()?;
                        let limits = reader.original_position() as usize..entry.end;
                        Some((entry, limits))
                    }
                    None => None,
                };
                self.memories.push(MappedMemory { memory, entry });
            }
            TypeRef::Table(_) | TypeRef::Tag(_) => {}
        }
        Ok(())
    }

    fn read_memories(&mut self, reader: BinaryReader<'a>) -> wasmparser::Result<()> {
        let end = reader.range().end as usize;
        let items = MemorySectionReader::new(reader)?.into_iter_with_offsets();
        let items = items.collect::<wasmparser::Result<Vec<_>>>()?;
        let starts = items.iter().map(|(offset, _)| *offset as usize);
        let ends: Vec<usize> = starts.skip(1).chain([end]).collect();
        for ((offset, ty), end) in items.into_iter().zip(ends) {
            let entry = offset as usize..end;
            self.memories.push(MappedMemory {
                memory: Memory::new(self.next_memory(), &ty, None, offset),
                entry: Some((entry.clone(), entry)),
            });
        }
        Ok(())
    }

    fn next_memory(&self) -> MemoryId {
        MemoryId {
            module: self.module,
            index: self.memories.len() as u32,
        }
    }

    /// Every memory, in the order of the index space.
    pub(crate) fn memories(&self) -> impl Iterator<Item = &Memory> {
        self.memories.iter().map(|mapped| &mapped.memory)
    }

    pub(crate) fn section(&self, id: u8) -> Option<&Section> {
        self.sections.iter().find(|s| s.id == id)
    }

    /// The number of items in a section, and the LEB128 that says it.
    pub(crate) fn count_field(&self, section: &Section) -> Result<(u32, Range<usize>), Error> {
        let mut reader = section.reader(self.wasm);
        let count = reader
            .read_var_u32()
            .map_err(|error| Error::malformed(&error))?;
        let end = reader.original_position() as usize;
        Ok((count, section.content.start..end))
    }

    /// The value of an exported global, or of one with that name in the name section, where it is
    /// a constant that never changes. The value is an address, so it is read as unsigned.
    pub(crate) fn landmark(&self, name: &str) -> Result<Option<u64>, Error> {
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

    /// What is exported under a name: its kind and its index.
    pub(crate) fn export(&self, name: &str) -> Result<Option<(ExternalKind, u32)>, Error> {
        let Some(section) = self.section(id::EXPORT) else {
            return Ok(None);
        };
        let read = || {
            for export in ExportSectionReader::new(section.reader(self.wasm))? {
                let export = export?;
                if export.name == name {
                    return Ok(Some((export.kind, export.index)));
                }
            }
            Ok(None)
        };
        read().map_err(|error| Error::malformed(&error))
    }

    /// A defined function's item in the code section: its length, and its body.
    pub(crate) fn function_code(&self, function: u32) -> Result<Option<&'a [u8]>, Error> {
        let (Some(section), Some(defined)) = (
            self.section(id::CODE),
            function.checked_sub(self.imported_functions),
        ) else {
            return Ok(None);
        };
        let read = || {
            let mut reader = section.reader(self.wasm);
            for position in 0..reader.read_var_u32()? {
                let start = reader.original_position() as usize;
                let end = reader.read_reader()?.range().end as usize;
                if position == defined {
                    return Ok(Some(&self.wasm[start..end]));
                }
            }
            Ok(None)
        };
        read().map_err(|error| Error::malformed(&error))
    }

    /// The first custom section of that name, and a reader of what stands behind the name.
    pub(crate) fn custom(&self, name: &str) -> Option<(&Section, BinaryReader<'a>)> {
        let custom = self.sections.iter().filter(|s| s.id == id::CUSTOM);
        custom
            .map(|section| (section, section.reader(self.wasm)))
            .find_map(|(section, mut reader)| {
                let found = reader.read_string().ok()?;
                (found == name).then_some((section, reader))
            })
    }

    /// Looks a global up in the name section. A name section that does not parse names nothing.
    fn named_global(&self, name: &str) -> Option<u32> {
        let (_, reader) = self.custom("name")?;
        let subsections = wasmparser::NameSectionReader::new(reader);
        let globals = subsections
            .flatten()
            .find_map(|subsection| match subsection {
                wasmparser::Name::Global(names) => Some(names),
                _ => None,
            })?;
        let mut found = globals.into_iter().flatten().filter(|n| n.name == name);
        found.next().map(|naming| naming.index)
    }

    fn constant(&self, global: u32) -> wasmparser::Result<Option<u64>> {
        let Some(defined) = global.checked_sub(self.imported_globals) else {
            return Ok(None);
        };
        let Some(section) = self.section(id::GLOBAL) else {
            return Ok(None);
        };
        let mut globals = GlobalSectionReader::new(section.reader(self.wasm))?.into_iter();
        match globals.nth(defined as usize).transpose()? {
            Some(global) if !global.ty.mutable => constant_address(&global.init_expr),
            _ => Ok(None),
        }
    }
}

/// The value of an expression that is a lone constant, read as an unsigned address.
pub(crate) fn constant_address(
    expr: &wasmparser::ConstExpr<'_>,
) -> wasmparser::Result<Option<u64>> {
    let mut operators = expr.get_operators_reader();
    let first = operators.read()?;
    Ok(match (first, operators.is_end_then_eof()) {
        (Operator::I32Const { value }, true) => Some(value.cast_unsigned().into()),
        (Operator::I64Const { value }, true) => Some(value.cast_unsigned()),
        _ => None,
    })
}
