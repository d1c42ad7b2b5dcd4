//! Patches: edits of a range of bytes. Applying one copies what no edit names, and updates the
//! lengths around what changes. Knows LEB128, and nothing else of WebAssembly.

use std::ops::Range;

use super::offset_map::OffsetMap;
use crate::leb128::leb128;

/// A range of the input and the edits within it.
#[derive(Clone, Debug)]
pub(crate) struct Patch {
    pub(crate) range: Range<usize>,
    /// In ascending order, without overlaps.
    edits: Vec<Edit>,
}

#[derive(Clone, Debug)]
enum Edit {
    /// Bytes that replace a range, which may be empty.
    Replace { range: Range<usize>, with: Vec<u8> },
    /// A nested patch, and the LEB128 before it with the length of its content.
    Nested {
        length: Range<usize>,
        content: Patch,
    },
    /// A patch of another range, whose result is inserted at an offset.
    Copied { at: usize, content: Patch },
}

impl Edit {
    fn range(&self) -> Range<usize> {
        match self {
            Self::Replace { range, .. } => range.clone(),
            Self::Nested { length, content } => length.start..content.range.end,
            Self::Copied { at, .. } => *at..*at,
        }
    }
}

impl Patch {
    pub(crate) fn new(range: Range<usize>) -> Self {
        Self {
            range,
            edits: Vec::new(),
        }
    }

    /// A patch that replaces the whole range.
    pub(crate) fn whole(range: Range<usize>, with: Vec<u8>) -> Self {
        let mut patch = Self::new(range.clone());
        patch.replace(range, with);
        patch
    }

    pub(crate) fn is_unchanged(&self) -> bool {
        self.edits.is_empty()
    }

    /// Returns true if every edit replaces bytes by as many bytes.
    pub(crate) fn keeps_offsets(&self) -> bool {
        self.edits.iter().all(|edit| match edit {
            Edit::Replace { range, with } => range.len() == with.len(),
            Edit::Nested { .. } | Edit::Copied { .. } => false,
        })
    }

    /// Replaces a range. Edits are added in any order; of two insertions at one offset, the first
    /// added comes first.
    pub(crate) fn replace(&mut self, range: Range<usize>, with: Vec<u8>) {
        self.push(Edit::Replace { range, with });
    }

    pub(crate) fn insert(&mut self, at: usize, with: Vec<u8>) {
        self.replace(at..at, with);
    }

    /// Adds bytes at the end of the range.
    pub(crate) fn append(&mut self, with: Vec<u8>) {
        self.insert(self.range.end, with);
    }

    /// Adds a copy of another range at the end of this one, with the edits of `content`.
    pub(crate) fn append_copy(&mut self, content: Patch) {
        let at = self.range.end;
        self.push(Edit::Copied { at, content });
    }

    /// Nests a patch of a part of the range. `length` is the LEB128 before that part.
    pub(crate) fn nest(&mut self, length: Range<usize>, content: Patch) {
        debug_assert_eq!(
            length.end, content.range.start,
            "a length precedes its content"
        );
        if !content.is_unchanged() {
            self.push(Edit::Nested { length, content });
        }
    }

    fn push(&mut self, edit: Edit) {
        let range = edit.range();
        let position = self
            .edits
            .partition_point(|other| other.range().start <= range.start);
        let (before, after) = self.edits.split_at(position);
        let start = before.last().map_or(self.range.start, |e| e.range().end);
        let end = after.first().map_or(self.range.end, |e| e.range().start);
        debug_assert!(
            start <= range.start && range.end <= end,
            "edits do not overlap"
        );
        self.edits.insert(position, edit);
    }

    /// The length of the range once the edits are applied.
    pub(crate) fn new_len(&self) -> usize {
        self.edits
            .iter()
            .fold(self.range.len(), |len, edit| match edit {
                Edit::Replace { range, with } => len - range.len() + with.len(),
                Edit::Nested { length, content } => {
                    let old = length.len() + content.range.len();
                    let new = content.new_len();
                    len - old + leb128(new as u64, length.len()).len() + new
                }
                Edit::Copied { content, .. } => len + content.new_len(),
            })
    }

    /// Copies the range from the input, applies the edits, and appends the result to `output`.
    pub(crate) fn apply_into(&self, input: &[u8], output: &mut Vec<u8>) {
        // The output may be as large as memory allows, so no more than its length is reserved.
        output.reserve_exact(self.new_len());
        self.write(input, output);
    }

    fn write(&self, input: &[u8], output: &mut Vec<u8>) {
        let mut at = self.range.start;
        for edit in &self.edits {
            let range = edit.range();
            output.extend_from_slice(&input[at..range.start]);
            match edit {
                Edit::Replace { with, .. } => output.extend_from_slice(with),
                Edit::Nested { length, content } => {
                    output.extend(leb128(content.new_len() as u64, length.len()));
                    content.write(input, output);
                }
                Edit::Copied { content, .. } => content.write(input, output),
            }
            at = range.end;
        }
        output.extend_from_slice(&input[at..self.range.end]);
    }

    /// The offsets in the output of the input's bytes, if the output of this patch begins at
    /// `output`.
    pub(crate) fn offset_map(&self, output: usize) -> OffsetMap {
        let mut map = OffsetMap::default();
        self.trace(output, &mut map);
        map.sort();
        map
    }

    /// Adds the offsets of this patch to a map, and returns the end of its output.
    fn trace(&self, mut output: usize, map: &mut OffsetMap) -> usize {
        let mut at = self.range.start;
        for edit in &self.edits {
            let range = edit.range();
            map.add(at..range.start, output);
            output += range.start - at;
            output = match edit {
                Edit::Replace { with, .. } => {
                    if !range.is_empty() && !with.is_empty() {
                        map.add(range.start..range.start + 1, output);
                    }
                    output + with.len()
                }
                Edit::Nested { length, content } => {
                    map.add(length.start..length.start + 1, output);
                    let new_length = leb128(content.new_len() as u64, length.len());
                    content.trace(output + new_length.len(), map)
                }
                Edit::Copied { content, .. } => content.trace(output, map),
            };
            at = range.end;
        }
        map.add(at..self.range.end, output);
        output + (self.range.end - at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(patch: &Patch, input: &[u8]) -> Vec<u8> {
        let mut output = Vec::new();
        patch.apply_into(input, &mut output);
        output
    }

    #[test]
    fn nested_lengths_follow_their_content() {
        // A length of 4, then: a length of 2 with its content, and one more byte; then the rest.
        let input = [9, 4, 2, b'a', b'b', b'c', b'z'];
        let mut inner = Patch::new(3..5);
        inner.replace(4..5, vec![b'B'; 200]);
        let mut outer = Patch::new(2..6);
        outer.nest(2..3, inner);
        outer.append(vec![b'!']);
        let mut whole = Patch::new(0..7);
        whole.insert(0, vec![7]);
        whole.nest(1..2, outer);
        let output = apply(&whole, &input);

        let mut expected = vec![7, 9];
        expected.extend(leb128(2 + 201 + 1 + 1, 1));
        expected.extend(leb128(201, 1));
        expected.push(b'a');
        expected.extend([b'B'; 200]);
        expected.extend(*b"c!z");
        assert_eq!(output, expected);
        assert_eq!(whole.new_len(), expected.len());

        let map = whole.offset_map(0);
        let mapped: Vec<_> = (0..8).map(|offset| map.get(offset)).collect();
        // The `b` maps to the first byte of its replacement.
        let expected = [1, 2, 4, 6, 7, 207, 209].map(Some);
        assert_eq!(mapped, [&expected[..], &[None]].concat());
    }

    #[test]
    fn a_copy_has_the_edits_of_its_content_and_is_where_offsets_lead() {
        let input = *b"abcdef";
        let mut copy = Patch::new(1..4);
        copy.replace(2..3, b"CC".to_vec());
        let mut whole = Patch::new(0..6);
        whole.replace(1..4, Vec::new());
        whole.insert(4, b"!".to_vec());
        whole.append_copy(copy);
        let output = apply(&whole, &input);
        assert_eq!(output, *b"a!efbCCd");
        assert_eq!(whole.new_len(), output.len());
        let map = whole.offset_map(10);
        let mapped: Vec<_> = (0..6).map(|offset| map.get(offset)).collect();
        assert_eq!(mapped, [10, 14, 15, 17, 12, 13].map(Some));
    }

    #[test]
    fn a_padded_length_stays_padded() {
        let input = [0x82, 0x80, 0x00, 1, 2];
        let mut content = Patch::new(3..5);
        content.append(vec![3]);
        let mut whole = Patch::new(0..5);
        whole.nest(0..3, content);
        assert_eq!(apply(&whole, &input), [0x83, 0x80, 0x00, 1, 2, 3]);
    }

    #[test]
    fn a_patch_without_edits_copies_the_input() {
        let mut whole = Patch::new(0..3);
        whole.nest(0..1, Patch::new(1..3));
        assert!(whole.is_unchanged());
        assert_eq!(apply(&whole, &[2, 1, 1]), [2, 1, 1]);
    }
}
