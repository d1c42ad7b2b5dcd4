//! Patches: edits of a range of bytes. Applying a patch copies the bytes outside of its edits, and
//! updates the lengths around the edits. LEB128 is the only part of WebAssembly that is used here.

use std::ops::Range;

use super::offset_map::OffsetMap;
use crate::leb128::{leb128, leb128_len};

/// A range of the input and the edits within it.
///
/// All edits are in one list, also nested ones. So many edits need little memory, and deep nesting
/// needs no recursion.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patch {
    pub(crate) range: Range<usize>,
    /// The edits within a nested or copied part follow the edit of that part.
    edits: Vec<Edit>,
    /// The replacements.
    bytes: Vec<u8>,
    /// The positions of the edits whose parts are open, the outermost first.
    open: Vec<usize>,
    /// The offset of the last edit that is in no other edit's part.
    last: usize,
    /// True if such an edit was added after one at a higher offset.
    is_unsorted: bool,
}

#[derive(Clone, Debug)]
struct Edit {
    /// The range of the input that is replaced. It may be empty.
    at: Range<usize>,
    kind: EditKind,
}

#[derive(Clone, Debug)]
enum EditKind {
    /// The replacement is this range of the patch's bytes.
    Replace(Range<usize>),
    /// This range of the patch's bytes is inserted, and is code that the input lacks.
    Code(Range<usize>),
    /// The replaced range is the LEB128 with the length of the content up to `end`, and the next
    /// `edits` edits are within the content.
    Nested { end: usize, edits: u32 },
    /// A copy of `content` is inserted, with the next `edits` edits.
    Copy { content: Range<usize>, edits: u32 },
}

impl Edit {
    /// The position of the next edit that is not within this one, which is at `position`.
    fn next(&self, position: usize) -> usize {
        let within = match self.kind {
            EditKind::Replace(_) | EditKind::Code(_) => 0,
            EditKind::Nested { edits, .. } | EditKind::Copy { edits, .. } => edits,
        };
        position + 1 + within as usize
    }
}

/// A piece of the output.
enum Piece<'p> {
    /// Bytes of the input.
    Kept(Range<usize>),
    /// Bytes that replace a range of the input, which may be empty.
    New {
        replaced: Range<usize>,
        bytes: &'p [u8],
    },
    /// Code that the input lacks.
    Code(&'p [u8]),
}

impl Patch {
    pub(crate) fn new(range: Range<usize>) -> Self {
        Self {
            range,
            ..Self::default()
        }
    }

    /// A patch that replaces the whole range.
    pub(crate) fn whole(range: Range<usize>, with: impl AsRef<[u8]>) -> Self {
        let mut patch = Self::new(range.clone());
        patch.replace(range, with);
        patch
    }

    pub(crate) fn is_unchanged(&self) -> bool {
        self.edits.is_empty()
    }

    /// Returns true if every edit replaces bytes by as many bytes.
    pub(crate) fn keeps_offsets(&self) -> bool {
        self.edits.iter().all(|edit| match &edit.kind {
            EditKind::Replace(with) => edit.at.len() == with.len(),
            EditKind::Code(_) | EditKind::Nested { .. } | EditKind::Copy { .. } => false,
        })
    }

    /// Replaces a range. Edits are added in any order, except within an open part; of two insertions
    /// at one offset, the first added comes first.
    pub(crate) fn replace(&mut self, range: Range<usize>, with: impl AsRef<[u8]>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(with.as_ref());
        if range.is_empty() && start == self.bytes.len() {
            return;
        }
        let kind = EditKind::Replace(start..self.bytes.len());
        self.push(Edit { at: range, kind });
    }

    pub(crate) fn insert(&mut self, at: usize, with: impl AsRef<[u8]>) {
        self.replace(at..at, with);
    }

    /// Adds bytes at the end of the range.
    pub(crate) fn append(&mut self, with: impl AsRef<[u8]>) {
        self.insert(self.range.end, with);
    }

    /// Adds code at the end of the range.
    pub(crate) fn append_code(&mut self, code: impl AsRef<[u8]>) {
        let (start, at) = (self.bytes.len(), self.range.end);
        self.bytes.extend_from_slice(code.as_ref());
        let kind = EditKind::Code(start..self.bytes.len());
        self.push(Edit { at: at..at, kind });
    }

    /// Adds a copy of another range at the end of this one, with the edits of `content`.
    pub(crate) fn append_copy(&mut self, mut content: Patch) {
        content.sort();
        let kind = EditKind::Copy {
            content: content.range.clone(),
            edits: 0,
        };
        let at = self.range.end;
        self.push_open(Edit { at: at..at, kind });
        self.extend(content);
        self.close();
    }

    /// Nests a patch of a part of the range. `length` is the LEB128 before that part.
    pub(crate) fn nest(&mut self, length: Range<usize>, mut content: Patch) {
        debug_assert_eq!(
            length.end, content.range.start,
            "a length precedes its content"
        );
        content.sort();
        if content.new_len() == content.range.len() {
            return self.extend(content);
        }
        self.open(length, content.range.end);
        self.extend(content);
        self.close();
    }

    /// Begins a part: the edits up to [`Patch::close`] are within it, and are added in order.
    /// `length` is the LEB128 before the part, which ends at `end`.
    pub(crate) fn open(&mut self, length: Range<usize>, end: usize) {
        let kind = EditKind::Nested { end, edits: 0 };
        self.push_open(Edit { at: length, kind });
    }

    fn push_open(&mut self, edit: Edit) {
        self.push(edit);
        self.open.push(self.edits.len() - 1);
    }

    /// Ends the part that was opened last. A part without edits is removed.
    pub(crate) fn close(&mut self) {
        let Some(position) = self.open.pop() else {
            return;
        };
        let within = (self.edits.len() - position - 1) as u32;
        match &mut self.edits[position].kind {
            EditKind::Nested { .. } if within == 0 => self.edits.truncate(position),
            EditKind::Nested { edits, .. } | EditKind::Copy { edits, .. } => *edits = within,
            EditKind::Replace(_) | EditKind::Code(_) => {}
        }
    }

    /// Adds all edits of a patch of a part of the range. They are in order, and no edit is added
    /// between them.
    pub(crate) fn extend(&mut self, mut other: Patch) {
        other.sort();
        if let Some(first) = other.edits.first() {
            self.note(first.at.start);
            self.last = self.last.max(other.last);
        }
        // The shorter list moves.
        if other.edits.len() > self.edits.len() {
            shift(&mut self.edits, other.bytes.len());
            other.bytes.append(&mut self.bytes);
            other.edits.splice(0..0, self.edits.drain(..));
            (self.edits, self.bytes) = (other.edits, other.bytes);
        } else {
            shift(&mut other.edits, self.bytes.len());
            self.bytes.append(&mut other.bytes);
            self.edits.append(&mut other.edits);
        }
    }

    fn push(&mut self, edit: Edit) {
        self.note(edit.at.start);
        self.edits.push(edit);
    }

    /// Records whether edits are added out of order.
    fn note(&mut self, start: usize) {
        if self.open.is_empty() {
            self.is_unsorted |= start < self.last;
            self.last = self.last.max(start);
        }
    }

    /// Sorts the edits by their offsets. Functions that do not add edits need this order.
    pub(crate) fn sort(&mut self) {
        let is_flat = || {
            self.edits
                .iter()
                .all(|e| matches!(e.kind, EditKind::Replace(_)))
        };
        if self.is_unsorted && is_flat() {
            self.edits.sort_by_key(|edit| edit.at.start);
            self.is_unsorted = false;
        } else if self.is_unsorted {
            let mut positions = Vec::new();
            let mut position = 0;
            while let Some(edit) = self.edits.get(position) {
                let next = edit.next(position);
                positions.push(position..next);
                position = next;
            }
            positions.sort_by_key(|group| self.edits[group.start].at.start);
            let edits = positions.into_iter().flat_map(|group| &self.edits[group]);
            self.edits = edits.cloned().collect();
            self.is_unsorted = false;
        }
        debug_assert!(self.is_sorted(), "edits do not overlap");
    }

    /// Returns true if the edits that are in no other edit's part are in order, without overlaps,
    /// and in the range.
    fn is_sorted(&self) -> bool {
        let (mut position, mut at) = (0, self.range.start);
        while let Some(edit) = self.edits.get(position) {
            if edit.at.start < at {
                return false;
            }
            at = match edit.kind {
                EditKind::Nested { end, .. } => end,
                _ => edit.at.end,
            };
            position = edit.next(position);
        }
        at <= self.range.end
    }

    /// The length of the range once the edits are applied.
    pub(crate) fn new_len(&self) -> usize {
        self.new_lengths().0
    }

    /// The length of the range once the edits are applied, and the lengths of the nested parts, in
    /// the order of the edits.
    fn new_lengths(&self) -> (usize, Vec<usize>) {
        /// A part that has more edits.
        struct Part {
            /// The position of the first edit after it.
            next: usize,
            len: usize,
            /// The position of its length among the results, and the length of the LEB128 with its
            /// content before. `None` for a copy.
            nested: Option<(usize, usize, usize)>,
        }
        let mut lengths = Vec::new();
        let mut len = self.range.len();
        let mut parts: Vec<Part> = Vec::new();
        for position in 0..=self.edits.len() {
            while let Some(part) = parts.pop_if(|part| part.next == position) {
                let around = parts.last_mut().map_or(&mut len, |around| &mut around.len);
                if let Some((slot, width, old)) = part.nested {
                    lengths[slot] = part.len;
                    *around = *around - width - old + leb128_len(part.len as u64, width);
                }
                *around += part.len;
            }
            let Some(edit) = self.edits.get(position) else {
                break;
            };
            let next = edit.next(position);
            match &edit.kind {
                EditKind::Replace(with) | EditKind::Code(with) => {
                    let len = parts.last_mut().map_or(&mut len, |part| &mut part.len);
                    *len = *len - edit.at.len() + with.len();
                }
                EditKind::Nested { end, .. } => {
                    let old = end - edit.at.end;
                    let nested = Some((lengths.len(), edit.at.len(), old));
                    lengths.push(old);
                    let len = old;
                    parts.push(Part { next, len, nested });
                }
                EditKind::Copy { content, .. } => {
                    let (len, nested) = (content.len(), None);
                    parts.push(Part { next, len, nested });
                }
            }
        }
        (len, lengths)
    }

    /// Copies the range from the input, applies the edits, and appends the result to `output`.
    pub(crate) fn apply_into(&self, input: &[u8], output: &mut Vec<u8>) {
        // The output may be as large as memory allows, so no more than its length is reserved.
        output.reserve_exact(self.new_len());
        self.for_each_piece(|piece| {
            output.extend_from_slice(match piece {
                Piece::Kept(range) => &input[range],
                Piece::New { bytes, .. } | Piece::Code(bytes) => bytes,
            });
        });
    }

    /// The offsets in the output of the input's bytes, if the output of this patch begins at
    /// `output`.
    pub(crate) fn offset_map(&self, mut output: usize) -> OffsetMap {
        let mut map = OffsetMap::default();
        self.for_each_piece(|piece| match piece {
            Piece::Kept(range) => {
                let len = range.len();
                map.add(range, output);
                output += len;
            }
            Piece::New { replaced, bytes } => {
                if !replaced.is_empty() && !bytes.is_empty() {
                    map.add(replaced.start..replaced.start + 1, output);
                }
                output += bytes.len();
            }
            Piece::Code(bytes) => {
                map.add_code(output..output + bytes.len());
                output += bytes.len();
            }
        });
        map.sort();
        map
    }

    /// Calls a function with every piece of the output, in order.
    fn for_each_piece(&self, mut visit: impl FnMut(Piece<'_>)) {
        /// A copy that has more edits.
        struct Copying {
            /// The position of the first edit after it.
            next: usize,
            end: usize,
            /// The offset in the input from which on bytes follow the copy.
            after: usize,
        }
        let mut lengths = self.new_lengths().1.into_iter();
        let mut copies: Vec<Copying> = Vec::new();
        let mut at = self.range.start;
        for position in 0..=self.edits.len() {
            while let Some(copy) = copies.pop_if(|copy| copy.next == position) {
                visit(Piece::Kept(at..copy.end));
                at = copy.after;
            }
            let Some(edit) = self.edits.get(position) else {
                break;
            };
            visit(Piece::Kept(at..edit.at.start));
            at = edit.at.end;
            let replaced = edit.at.clone();
            match &edit.kind {
                EditKind::Replace(with) => {
                    let bytes = &self.bytes[with.clone()];
                    visit(Piece::New { replaced, bytes });
                }
                EditKind::Code(code) => visit(Piece::Code(&self.bytes[code.clone()])),
                EditKind::Nested { end, .. } => {
                    let length = lengths.next().unwrap_or(end - at);
                    let bytes = &leb128(length as u64, edit.at.len());
                    visit(Piece::New { replaced, bytes });
                }
                EditKind::Copy { content, .. } => {
                    copies.push(Copying {
                        next: edit.next(position),
                        end: content.end,
                        after: at,
                    });
                    at = content.start;
                }
            }
        }
        visit(Piece::Kept(at..self.range.end));
    }
}

/// Moves the replacements of edits by some bytes.
fn shift(edits: &mut [Edit], by: usize) {
    for edit in edits {
        if let EditKind::Replace(with) | EditKind::Code(with) = &mut edit.kind {
            *with = with.start + by..with.end + by;
        }
    }
}

#[cfg(test)]
mod tests;
