//! The names of locals and labels of functions that move to the end of the code section: they follow
//! the code, so that debuggers show them where the code runs.

use wasm_encoder::Encode as _;
use wasmparser::BinaryReader;

use super::splice::Patch;
use crate::analysis::sections::Section;
use crate::leb128::leb128;

/// A function whose code moved to the end of the code section.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopiedFunction {
    pub(crate) function: u32,
    /// The index of the function that holds the code now.
    pub(crate) copy: u32,
    /// The number of its parameters.
    pub(crate) params: u32,
}

/// Gives each copy the names that a subsection has for its function, by function and index. `kept` is the number of indices
/// that still exist in the old function. `copies` is in the order of both indices. Returns `None` if
/// no name changes, or if the subsection is malformed.
pub(super) fn follow_copies(
    subsection: &Section,
    wasm: &[u8],
    copies: &[CopiedFunction],
    kept: impl Fn(&CopiedFunction) -> u32,
) -> Option<Patch> {
    let first_copy = copies.first()?.copy;
    let (count, field) = subsection.count_field(wasm).ok()?;
    let mut reader = subsection.reader(wasm);
    reader.read_var_u32().ok()?;
    let mut patch = Patch::new(subsection.content.clone());
    let (mut added, mut new_count) = (Vec::new(), u64::from(count));
    let mut next = 0;
    for _ in 0..count {
        let start = reader.original_position() as usize;
        let function = reader.read_var_u32().ok()?;
        if function < next || function >= first_copy {
            return None;
        }
        next = function + 1;
        let map = reader.original_position() as usize;
        let copied = copies.binary_search_by_key(&function, |copied| copied.function);
        let copied = copied.ok().map(|position| &copies[position]);
        let keeps = copied.map_or(u32::MAX, &kept);
        let names = reader.read_var_u32().ok()?;
        let first_name = reader.original_position() as usize;
        let (mut kept_names, mut kept_end) = (0_u32, first_name);
        for _ in 0..names {
            let (index, _) = read_name(&mut reader).ok()?;
            if index < keeps {
                kept_names += 1;
                kept_end = reader.original_position() as usize;
            }
        }
        let end = reader.original_position() as usize;
        let Some(copied) = copied else { continue };
        copied.copy.encode(&mut added);
        added.extend_from_slice(&wasm[map..end]);
        new_count += 1;
        if kept_names == 0 {
            patch.replace(start..end, []);
            new_count -= 1;
        } else {
            patch.replace(map..first_name, leb128(kept_names.into(), 1));
            patch.replace(kept_end..end, []);
        }
    }
    if added.is_empty() || !reader.eof() {
        return None;
    }
    patch.replace(field.clone(), leb128(new_count, field.len()));
    patch.append(added);
    Some(patch)
}

/// Reads an entry of a name map. wasmparser would also check every byte of the name, and a map can
/// hold many.
pub(super) fn read_name<'a>(names: &mut BinaryReader<'a>) -> wasmparser::Result<(u32, &'a [u8])> {
    let index = names.read_var_u32()?;
    let length = names.read_var_u32()?;
    Ok((index, names.read_bytes(length as usize)?))
}
