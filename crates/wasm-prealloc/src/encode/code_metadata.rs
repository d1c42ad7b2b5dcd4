//! The `metadata.code.*` sections: hints that refer to instructions by their offsets from the start
//! of the function's body. Branch hints are the best known (tool conventions, "Code Metadata").
//!
//! All such sections have one form: functions by their index, and for each of them offsets with
//! data. So the hints of a changed function can be moved along without knowing what they mean. An
//! offset of 0 is no instruction: such a hint is about the whole function.

use std::collections::BTreeMap;

use wasm_encoder::Encode as _;
use wasmparser::BinaryReader;

use super::offset_map::OffsetMap;
use super::splice::Patch;
use crate::analysis::module_info::ModuleInfo;

const PREFIX: &str = "metadata.code.";

/// Hints that cannot follow the code they are about.
#[derive(Debug)]
pub(crate) struct DroppedHints {
    /// The name of the section.
    pub(crate) section: String,
    /// Their number; `None` for the whole of a section that cannot be read.
    pub(crate) hints: Option<usize>,
}

/// Returns true if a module has hints.
pub(super) fn has_hints(info: &ModuleInfo<'_>) -> bool {
    info.customs().any(|(_, name, _)| name.starts_with(PREFIX))
}

/// Moves the hints of all changed functions along. Returns the hints that were dropped.
pub(super) fn follow_code(
    module: &mut Patch,
    info: &ModuleInfo<'_>,
    moved: &BTreeMap<u32, MovedFunction>,
) -> Vec<DroppedHints> {
    let mut dropped = Vec::new();
    if moved.is_empty() {
        return dropped;
    }
    for (section, name, reader) in info.customs() {
        if !name.starts_with(PREFIX) {
            continue;
        }
        let hints = match Follower::new(moved, info.next_function()).read(reader) {
            Some(follower) if !follower.changed => continue,
            Some(follower) => {
                let mut content = Vec::new();
                name.encode(&mut content);
                follower.encode(&mut content);
                let patch = Patch::whole(section.content.clone(), content);
                module.nest(section.length.clone(), patch);
                Some(follower.dropped)
            }
            None => {
                let whole = section.start()..section.content.end;
                module.replace(whole, Vec::new());
                None
            }
        };
        if hints != Some(0) {
            let section = name.to_owned();
            dropped.push(DroppedHints { section, hints });
        }
    }
    dropped
}

/// A function in which instructions have other offsets than before.
#[derive(Debug)]
pub(super) struct MovedFunction {
    /// The offset of its body in the input.
    start: u64,
    /// Maps offsets in the input to offsets in the new body.
    map: OffsetMap,
    /// The index of the function that holds the code now, if it is another one.
    copy: Option<u32>,
}

impl MovedFunction {
    pub(super) fn new(body: &Patch, copy: Option<u32>) -> Self {
        Self {
            start: body.range.start as u64,
            map: body.offset_map(0),
            copy,
        }
    }

    /// The new offset of an instruction within its function.
    fn offset(&self, before: u32) -> Option<u32> {
        if before == 0 {
            return Some(0);
        }
        let after = self.map.get(self.start.checked_add(before.into())?)?;
        u32::try_from(after).ok()
    }
}

/// The entries of a section after the rewrite, read one by one.
#[derive(Debug)]
struct Follower<'m> {
    moved: &'m BTreeMap<u32, MovedFunction>,
    /// The number of functions in the input.
    functions: u32,
    entries: Entries,
    /// The entries of functions that are added. They come last.
    added: Entries,
    dropped: usize,
    /// True if the section has an entry of a function that moved.
    changed: bool,
}

/// The encoded entries of functions.
#[derive(Debug, Default)]
struct Entries {
    count: u32,
    bytes: Vec<u8>,
}

impl Entries {
    fn push(&mut self, function: u32, hints: &Hints) {
        if hints.count > 0 {
            self.count += 1;
            function.encode(&mut self.bytes);
            hints.count.encode(&mut self.bytes);
            self.bytes.extend(&hints.bytes);
        }
    }
}

/// The encoded hints of a function.
#[derive(Debug, Default)]
struct Hints {
    count: u32,
    bytes: Vec<u8>,
}

impl Hints {
    fn push(&mut self, offset: u32, data: &[u8]) {
        self.count += 1;
        offset.encode(&mut self.bytes);
        data.encode(&mut self.bytes);
    }
}

impl<'m> Follower<'m> {
    fn new(moved: &'m BTreeMap<u32, MovedFunction>, functions: u32) -> Self {
        Self {
            moved,
            functions,
            entries: Entries::default(),
            added: Entries::default(),
            dropped: 0,
            changed: false,
        }
    }

    /// Reads a section; `None` if it has another form, or its functions are not in order.
    fn read(mut self, mut section: BinaryReader<'_>) -> Option<Self> {
        let mut next = 0;
        for _ in 0..section.read_var_u32().ok()? {
            let function = section.read_var_u32().ok()?;
            if function < next || function >= self.functions {
                return None;
            }
            next = function + 1;
            self.read_function(function, &mut section).ok()?;
        }
        section.eof().then_some(self)
    }

    fn read_function(
        &mut self,
        function: u32,
        section: &mut BinaryReader<'_>,
    ) -> wasmparser::Result<()> {
        let moved = self.moved.get(&function);
        self.changed |= moved.is_some();
        let (mut here, mut there) = (Hints::default(), Hints::default());
        for _ in 0..section.read_var_u32()? {
            let offset = section.read_var_u32()?;
            let size = section.read_var_u32()?;
            let data = section.read_bytes(size as usize)?;
            let new = moved.map_or(Some(offset), |moved| moved.offset(offset));
            match (moved.and_then(|moved| moved.copy), new) {
                (_, None) => self.dropped += 1,
                (None, Some(new)) => here.push(new, data),
                (Some(_), Some(new)) => {
                    there.push(new, data);
                    // The old function still exists, and calls the copy.
                    if new == 0 {
                        here.push(new, data);
                    }
                }
            }
        }
        self.entries.push(function, &here);
        if let Some(copy) = moved.and_then(|moved| moved.copy) {
            self.added.push(copy, &there);
        }
        Ok(())
    }

    /// Appends the content of the section, without its name.
    fn encode(&self, bytes: &mut Vec<u8>) {
        (self.entries.count + self.added.count).encode(bytes);
        bytes.extend(&self.entries.bytes);
        bytes.extend(&self.added.bytes);
    }
}
