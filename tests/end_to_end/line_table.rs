//! Reads the line tables of a module.

use std::collections::HashMap;

use gimli::{Dwarf, EndianSlice, LittleEndian};
use wasmparser::{Parser, Payload};

/// A row of a line table.
#[derive(Debug)]
pub(crate) struct Row {
    /// The offset within the code section.
    pub(crate) address: u64,
    /// The file, the line and the column; `None` for the end of a sequence.
    pub(crate) place: Option<(String, u32, u32)>,
}

/// Returns the offset in the file of the content of the code section.
pub(crate) fn code_start(wasm: &[u8]) -> u64 {
    let mut payloads = Parser::new(0).parse_all(wasm);
    let start = payloads.find_map(|payload| match payload.unwrap() {
        Payload::CodeSectionStart {
            unchecked_range, ..
        } => Some(unchecked_range.start),
        _ => None,
    });
    start.unwrap()
}

/// Returns all rows of a module's line tables.
pub(crate) fn rows(wasm: &[u8]) -> Vec<Row> {
    let mut sections: HashMap<&str, &[u8]> = HashMap::new();
    for payload in Parser::new(0).parse_all(wasm) {
        if let Payload::CustomSection(section) = payload.unwrap() {
            sections.insert(section.name(), section.data());
        }
    }
    let load = |id: gimli::SectionId| -> Result<_, gimli::Error> {
        let bytes = sections.get(id.name()).copied().unwrap_or_default();
        Ok(EndianSlice::new(bytes, LittleEndian))
    };
    let dwarf = Dwarf::load(load).unwrap();
    let mut found = Vec::new();
    let mut units = dwarf.units();
    while let Some(header) = units.next().unwrap() {
        let unit = dwarf.unit(header).unwrap();
        let Some(program) = unit.line_program.clone() else {
            continue;
        };
        let mut rows = program.rows();
        while let Some((header, row)) = rows.next_row().unwrap() {
            let place = row
                .file(header)
                .filter(|_| !row.end_sequence())
                .map(|file| {
                    let name = dwarf.attr_string(&unit, file.path_name()).unwrap();
                    let line = row.line().map_or(0, |line| line.get() as u32);
                    let column = match row.column() {
                        gimli::ColumnType::LeftEdge => 0,
                        gimli::ColumnType::Column(column) => column.get() as u32,
                    };
                    (name.to_string_lossy().into_owned(), line, column)
                });
            let address = row.address();
            found.push(Row { address, place });
        }
    }
    found
}
