//! Applies edits to bytes: copies what no edit names, and re-computes the lengths that enclose
//! what one does. Knows LEB128, and no wasm.

use std::ops::Range;

use crate::leb128::leb128;

/// A stretch of the input and what changes within it.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    range: Range<usize>,
    /// In ascending order, none overlapping another.
    edits: Vec<Edit>,
}

#[derive(Clone, Debug)]
enum Edit {
    /// These bytes stand in place of the range, which may be empty.
    Replace { range: Range<usize>, with: Vec<u8> },
    /// A length of this span's content stands here, and then the content.
    Prefixed { length: Range<usize>, content: Span },
}

impl Edit {
    fn range(&self) -> Range<usize> {
        match self {
            Self::Replace { range, .. } => range.clone(),
            Self::Prefixed { length, content } => length.start..content.range.end,
        }
    }
}

impl Span {
    /// A stretch in which nothing changes yet.
    pub(crate) fn new(range: Range<usize>) -> Self {
        Self {
            range,
            edits: Vec::new(),
        }
    }

    /// The stretch of the input that it is.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    pub(crate) fn is_unchanged(&self) -> bool {
        self.edits.is_empty()
    }

    /// Puts bytes in place of a range. Edits are given in ascending order; of two insertions at
    /// one place, the first given comes first.
    pub(crate) fn replace(&mut self, range: Range<usize>, with: Vec<u8>) {
        self.push(Edit::Replace { range, with });
    }

    /// Puts bytes before what stands at an offset.
    pub(crate) fn insert(&mut self, at: usize, with: Vec<u8>) {
        self.replace(at..at, with);
    }

    /// Puts bytes behind the span's last.
    pub(crate) fn append(&mut self, with: Vec<u8>) {
        self.insert(self.range.end, with);
    }

    /// Puts a changed span in place of the same stretch here; `length` is the LEB128 before it.
    pub(crate) fn prefixed(&mut self, length: Range<usize>, content: Span) {
        debug_assert_eq!(
            length.end, content.range.start,
            "a length precedes its content"
        );
        if !content.is_unchanged() {
            self.push(Edit::Prefixed { length, content });
        }
    }

    fn push(&mut self, edit: Edit) {
        let range = edit.range();
        let before = self
            .edits
            .last()
            .map_or(self.range.start, |e| e.range().end);
        debug_assert!(before <= range.start, "edits ascend and do not overlap");
        debug_assert!(range.end <= self.range.end, "an edit lies in its span");
        self.edits.push(edit);
    }

    /// Bytes that the span has once its edits are applied.
    pub(crate) fn new_len(&self) -> usize {
        self.edits
            .iter()
            .fold(self.range.len(), |len, edit| match edit {
                Edit::Replace { range, with } => len - range.len() + with.len(),
                Edit::Prefixed { length, content } => {
                    let old = length.len() + content.range.len();
                    let new = content.new_len();
                    len - old + leb128(new as u64, length.len()).len() + new
                }
            })
    }

    /// Copies the span out of `input`, edits applied.
    pub(crate) fn apply(&self, input: &[u8]) -> Vec<u8> {
        let mut output = Vec::new();
        self.apply_into(input, &mut output);
        output
    }

    /// As [`Span::apply`], appending to what there is.
    pub(crate) fn apply_into(&self, input: &[u8], output: &mut Vec<u8>) {
        // No more than is needed: it may be as large as memory allows.
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
                Edit::Prefixed { length, content } => {
                    output.extend(leb128(content.new_len() as u64, length.len()));
                    content.write(input, output);
                }
            }
            at = range.end;
        }
        output.extend_from_slice(&input[at..self.range.end]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_lengths_follow_their_content() {
        // A length of 4, then: a length of 2 with its content, and one byte more; then a tail.
        let input = [9, 4, 2, b'a', b'b', b'c', b'z'];
        let mut inner = Span::new(3..5);
        inner.replace(4..5, vec![b'B'; 200]);
        let mut outer = Span::new(2..6);
        outer.prefixed(2..3, inner);
        outer.append(vec![b'!']);
        let mut whole = Span::new(0..7);
        whole.insert(0, vec![7]);
        whole.prefixed(1..2, outer);
        let output = whole.apply(&input);

        let mut expected = vec![7, 9];
        expected.extend(leb128(2 + 201 + 1 + 1, 1));
        expected.extend(leb128(201, 1));
        expected.push(b'a');
        expected.extend([b'B'; 200]);
        expected.extend(*b"c!z");
        assert_eq!(output, expected);
        assert_eq!(whole.new_len(), expected.len());
    }

    #[test]
    fn a_padded_length_stays_padded() {
        let input = [0x82, 0x80, 0x00, 1, 2];
        let mut content = Span::new(3..5);
        content.append(vec![3]);
        let mut whole = Span::new(0..5);
        whole.prefixed(0..3, content);
        assert_eq!(whole.apply(&input), [0x83, 0x80, 0x00, 1, 2, 3]);
    }

    #[test]
    fn nothing_named_is_nothing_changed() {
        let mut whole = Span::new(0..3);
        whole.prefixed(0..1, Span::new(1..3));
        assert!(whole.is_unchanged());
        assert_eq!(whole.apply(&[2, 1, 1]), [2, 1, 1]);
    }
}
