//! The structure of a core module: one pass over its sections gives the byte ranges and counts that
//! everything else works with. Function bodies and the contents of data segments are not read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use wasmparser::{
    BinaryReader, CodeSectionReader, ConstExpr, ExportSectionReader, ExternalKind,
    FunctionSectionReader, GlobalSectionReader, Import, ImportSectionReader, Imports,
    MemorySectionReader, Name, NameSectionReader, Operator, TypeRef,
};

use super::sections::{Section, id, rank, reader, sections};
use crate::error::Error;
use crate::limits::{Memory, MemoryId, MemoryImport};

/// A memory and the bytes that declare it.
#[derive(Clone, Debug)]
pub(crate) struct MappedMemory {
    pub(crate) memory: Memory,
    /// The entry of the import or memory section, and the limits within it, flags included. `None`
    /// for an import in compact encoding, which shares its names or its type with others.
    pub(crate) entry: Option<(Range<usize>, Range<usize>)>,
}

/// The structure of a core module.
#[derive(Debug)]
pub(crate) struct ModuleInfo<'a> {
    pub(crate) wasm: &'a [u8],
    /// The module's bytes within the input.
    pub(crate) range: Range<usize>,
    /// In a component, the module's position among the core modules.
    pub(crate) module: Option<u32>,
    pub(crate) sections: Vec<Section>,
    pub(crate) imported_functions: u32,
    pub(crate) defined_functions: u32,
    pub(crate) imported_globals: u32,
    pub(crate) defined_globals: u32,
    /// The number of exports.
    pub(crate) exports: u32,
    /// All memories, in the order of the index space.
    pub(crate) memories: Vec<MappedMemory>,
}

impl<'a> ModuleInfo<'a> {
    pub(crate) fn read(
        wasm: &'a [u8],
        range: Range<usize>,
        module: Option<u32>,
    ) -> Result<Self, Error> {
        Self::read_through(wasm, range, module, id::DATA)
    }

    /// Reads a module's structure up to the section `last`. No byte after that section is read.
    pub(crate) fn read_through(
        wasm: &'a [u8],
        range: Range<usize>,
        module: Option<u32>,
        last: u8,
    ) -> Result<Self, Error> {
        let mut info = Self {
            wasm,
            range: range.clone(),
            module,
            sections: Vec::new(),
            imported_functions: 0,
            defined_functions: 0,
            imported_globals: 0,
            defined_globals: 0,
            exports: 0,
            memories: Vec::new(),
        };
        for section in sections(wasm, range) {
            let section = section?;
            info.check_order(&section)?;
            if rank(section.id) > rank(last) {
                break;
            }
            info.read_content(&section)?;
            let done = section.id == last && last != id::DATA;
            info.sections.push(section);
            if done {
                break;
            }
        }
        Ok(info)
    }

    /// Refuses sections that are repeated or out of order: such a module has no single meaning.
    fn check_order(&self, section: &Section) -> Result<(), Error> {
        let Some(here) = rank(section.id) else {
            return Ok(());
        };
        match self.sections.iter().rev().find_map(|s| rank(s.id)) {
            Some(before) if before >= here => Err(Error::Malformed {
                offset: section.start() as u64,
                message: format!("section {} is out of order or repeated", section.id),
            }),
            _ => Ok(()),
        }
    }

    fn read_content(&mut self, section: &Section) -> Result<(), Error> {
        let reader = section.reader(self.wasm);
        match section.id {
            id::IMPORT => self.read_imports(reader)?,
            id::MEMORY => self.read_memories(reader)?,
            id::FUNCTION => {
                let functions = FunctionSectionReader::new(reader).map_err(Error::malformed)?;
                self.defined_functions = functions.count();
            }
            id::GLOBAL => {
                let globals = GlobalSectionReader::new(reader).map_err(Error::malformed)?;
                self.defined_globals = globals.count();
            }
            id::EXPORT => {
                let exports = ExportSectionReader::new(reader).map_err(Error::malformed)?;
                self.exports = exports.count();
                // A malformed export is an error, even if nothing looks for its name.
                for export in exports {
                    export.map_err(Error::malformed)?;
                }
            }
            _ => {}
        }
        self.check_counts(section)
    }

    /// Refuses more items than engines accept, as validation does. Below these limits, no index
    /// overflows.
    fn check_counts(&self, section: &Section) -> Result<(), Error> {
        let sum = |a: u32, b: u32| u64::from(a) + u64::from(b);
        let functions = sum(self.imported_functions, self.defined_functions);
        let globals = sum(self.imported_globals, self.defined_globals);
        for (what, count) in [("functions", functions), ("globals", globals)] {
            if count > MAX_ITEMS {
                let offset = section.content.start;
                return Err(too_many(what, MAX_ITEMS, offset));
            }
        }
        Ok(())
    }

    fn read_imports(&mut self, reader: BinaryReader<'a>) -> Result<(), Error> {
        let end = reader.range().end as usize;
        let groups = ImportSectionReader::new(reader).map_err(Error::malformed)?;
        for_each_range(groups.into_iter_with_offsets(), end, |entry, group| {
            let is_single = matches!(group, Imports::Single(..));
            for import in group {
                let (_, import) = import.map_err(Error::malformed)?;
                self.read_import(import, &entry, is_single)?;
            }
            Ok(())
        })
    }

    fn read_import(
        &mut self,
        import: Import<'_>,
        entry: &Range<usize>,
        is_single: bool,
    ) -> Result<(), Error> {
        match import.ty {
            TypeRef::Func(_) | TypeRef::FuncExact(_) => self.imported_functions += 1,
            TypeRef::Global(_) => self.imported_globals += 1,
            TypeRef::Memory(ty) => {
                let names = MemoryImport {
                    module: import.module.to_owned(),
                    name: import.name.to_owned(),
                };
                let limits = limits_of_import(self.wasm, entry).map_err(Error::malformed)?;
                let memory = Memory::new(self.next_memory(), &ty, Some(names), entry.start as u64);
                self.add_memory(MappedMemory {
                    memory,
                    entry: is_single.then(|| (entry.clone(), limits)),
                })?;
            }
            TypeRef::Table(_) | TypeRef::Tag(_) => {}
        }
        Ok(())
    }

    fn read_memories(&mut self, reader: BinaryReader<'a>) -> Result<(), Error> {
        let end = reader.range().end as usize;
        let items = MemorySectionReader::new(reader).map_err(Error::malformed)?;
        for_each_range(items.into_iter_with_offsets(), end, |entry, ty| {
            self.add_memory(MappedMemory {
                memory: Memory::new(self.next_memory(), &ty, None, entry.start as u64),
                entry: Some((entry.clone(), entry)),
            })
        })
    }

    fn add_memory(&mut self, mapped: MappedMemory) -> Result<(), Error> {
        if self.memories.len() == MAX_MEMORIES {
            let offset = mapped.memory.offset as usize;
            return Err(too_many("memories", MAX_MEMORIES as u64, offset));
        }
        self.memories.push(mapped);
        Ok(())
    }

    fn next_memory(&self) -> MemoryId {
        MemoryId {
            module: self.module,
            index: self.memories.len() as u32,
        }
    }

    /// All memories, in the order of the index space.
    pub(crate) fn memories(&self) -> impl Iterator<Item = &Memory> {
        self.memories.iter().map(|mapped| &mapped.memory)
    }

    /// The index of the first function that a rewrite adds.
    pub(crate) fn next_function(&self) -> u32 {
        self.imported_functions + self.defined_functions
    }

    /// The index of the first global that a rewrite adds.
    pub(crate) fn next_global(&self) -> u32 {
        self.imported_globals + self.defined_globals
    }

    pub(crate) fn section(&self, id: u8) -> Option<&Section> {
        self.sections.iter().find(|s| s.id == id)
    }

    /// The custom sections, each with its name and a reader of what follows the name. A section
    /// whose name cannot be read is left out.
    pub(crate) fn customs(&self) -> impl Iterator<Item = (&Section, &'a str, BinaryReader<'a>)> {
        let custom = self.sections.iter().filter(|s| s.id == id::CUSTOM);
        custom.filter_map(|section| {
            let mut reader = section.reader(self.wasm);
            let name = reader.read_string().ok()?;
            Some((section, name, reader))
        })
    }

    /// Returns the first custom section with a name, and a reader of what follows the name.
    pub(crate) fn custom(&self, name: &str) -> Option<(&Section, BinaryReader<'a>)> {
        let mut found = self.customs().filter(|(_, found, _)| *found == name);
        found.next().map(|(section, _, reader)| (section, reader))
    }

    /// Returns the location of the module's source map, shortened if it holds the map itself.
    pub(crate) fn source_map(&self) -> Option<String> {
        const DATA: &str = "data:";
        let (_, mut reader) = self.custom("sourceMappingURL")?;
        let url = reader.read_string().ok()?;
        Some(match url.starts_with(DATA) {
            true => format!("{DATA}..."),
            false => url.to_owned(),
        })
    }

    /// Returns the kind and the index of the item that is exported under a name.
    pub(crate) fn export(&self, name: &str) -> Result<Option<(ExternalKind, u32)>, Error> {
        let exports = self.exports_named(&BTreeSet::from([name]))?;
        Ok(exports.into_values().next())
    }

    /// Returns the kinds and the indices of the items that are exported under some names.
    pub(crate) fn exports_named(
        &self,
        names: &BTreeSet<&str>,
    ) -> Result<BTreeMap<&'a str, (ExternalKind, u32)>, Error> {
        let mut found = BTreeMap::new();
        let Some(section) = self.section(id::EXPORT) else {
            return Ok(found);
        };
        let exports = ExportSectionReader::new(section.reader(self.wasm));
        for export in exports.map_err(Error::malformed)? {
            let export = export.map_err(Error::malformed)?;
            if names.contains(export.name) {
                let item = (export.kind, export.index);
                found.entry(export.name).or_insert(item);
            }
        }
        Ok(found)
    }

    /// Returns the body of a defined function, without the length.
    pub(crate) fn function_body(&self, function: u32) -> Result<Option<&'a [u8]>, Error> {
        let (Some(section), Some(defined)) = (
            self.section(id::CODE),
            function.checked_sub(self.imported_functions),
        ) else {
            return Ok(None);
        };
        let read = || {
            let bodies = CodeSectionReader::new(section.reader(self.wasm))?;
            let body = bodies.into_iter().nth(defined as usize).transpose()?;
            Ok(body.map(|body| body.as_bytes()))
        };
        read().map_err(Error::malformed)
    }

    /// Returns the value of an immutable global with a constant value, found by its export or in
    /// the name section. The value is an address, so it is read as unsigned.
    pub(crate) fn landmark(&self, name: &str) -> Result<Option<u64>, Error> {
        let index = match self.export(name)? {
            Some((ExternalKind::Global, index)) => Some(index),
            _ => self.named_global(name),
        };
        let value = index.map_or(Ok(None), |index| self.constant(index));
        value.map_err(Error::malformed)
    }

    /// Finds a global in the name section. A name section that cannot be parsed names nothing.
    fn named_global(&self, name: &str) -> Option<u32> {
        let (_, reader) = self.custom("name")?;
        let mut subsections = NameSectionReader::new(reader).flatten();
        let globals = subsections.find_map(|subsection| match subsection {
            Name::Global(names) => Some(names),
            _ => None,
        })?;
        let mut found = globals.into_iter().flatten().filter(|n| n.name == name);
        found.next().map(|naming| naming.index)
    }

    fn constant(&self, global: u32) -> wasmparser::Result<Option<u64>> {
        let (Some(section), Some(defined)) = (
            self.section(id::GLOBAL),
            global.checked_sub(self.imported_globals),
        ) else {
            return Ok(None);
        };
        let mut globals = GlobalSectionReader::new(section.reader(self.wasm))?.into_iter();
        match globals.nth(defined as usize).transpose()? {
            Some(global) if !global.ty.mutable => constant_address(&global.init_expr),
            _ => Ok(None),
        }
    }
}

/// The number of types, of functions, of globals and of exports that engines accept (WebAssembly
/// JavaScript interface, "Implementation-defined Limits").
pub(crate) const MAX_ITEMS: u64 = 1_000_000;

/// The number of memories that engines accept (WebAssembly JavaScript interface,
/// "Implementation-defined Limits").
const MAX_MEMORIES: usize = 100;

/// The error with which validation refuses too many items.
fn too_many(what: &str, most: u64, offset: usize) -> Error {
    Error::Invalid {
        offset: offset as u64,
        message: format!("{what} count exceeds limit of {most}"),
    }
}

/// The range of the limits in the entry of an imported memory.
fn limits_of_import(wasm: &[u8], entry: &Range<usize>) -> wasmparser::Result<Range<usize>> {
    // Two names and the kind come before the limits.
    let mut reader = reader(wasm, entry.clone());
    reader.skip_string()?;
    reader.skip_string()?;
    reader.read_u8()?;
    Ok(reader.original_position() as usize..entry.end)
}

/// Visits each item of a section with the range of its bytes. `end` is the end of the section.
fn for_each_range<T>(
    items: impl Iterator<Item = wasmparser::Result<(u64, T)>>,
    end: usize,
    mut visit: impl FnMut(Range<usize>, T) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut items = items.peekable();
    while let Some(item) = items.next() {
        let (start, item) = item.map_err(Error::malformed)?;
        let end = match items.peek() {
            Some(Ok((next, _))) => *next as usize,
            _ => end,
        };
        visit(start as usize..end, item)?;
    }
    Ok(())
}

/// The value of an expression that is a single constant, read as an unsigned address.
pub(crate) fn constant_address(expr: &ConstExpr<'_>) -> wasmparser::Result<Option<u64>> {
    let mut operators = expr.get_operators_reader();
    let first = operators.read()?;
    Ok(match (first, operators.is_end_then_eof()) {
        (Operator::I32Const { value }, true) => Some(value.cast_unsigned().into()),
        (Operator::I64Const { value }, true) => Some(value.cast_unsigned()),
        _ => None,
    })
}
