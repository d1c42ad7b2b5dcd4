//! The place in a rewritten module of each byte of the input.

use std::ops::Range;

/// Maps byte offsets in an input to byte offsets in its rewritten form.
///
/// Every byte that the output has in common with the input is mapped exactly, whether it is in code
/// that stayed, in a function that moved, or in another section. The first byte of a replaced
/// instruction maps to the replacement. All other bytes that the output lacks map to nothing.
///
/// ```
/// use wasm_prealloc::{Options, rewrite};
///
/// let module = wat::parse_str("(module (memory 2 100) (func unreachable))")?;
/// let rewritten = rewrite(&module, &Options::default())?;
/// let is_unreachable = |byte: &u8| *byte == 0;
/// let trap = module.iter().rposition(is_unreachable).unwrap() as u64;
/// let moved = rewritten.offset_map.get(trap).unwrap();
/// assert!(moved > trap, "the declaration of the memory before the code is longer");
/// assert_eq!(rewritten.wasm[moved as usize], 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetMap {
    /// Ascending and without overlaps.
    spans: Vec<Span>,
    /// Ascending and without overlaps.
    added_code: Vec<Range<u64>>,
}

/// Bytes that are in the input and in the output.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    input: Range<usize>,
    /// The offset in the output of the first of them.
    output: usize,
}

impl OffsetMap {
    /// Returns the offset in the output of the byte at an offset in the input; `None` if the output
    /// lacks it. Takes logarithmic time in the number of edits.
    #[must_use]
    pub fn get(&self, offset: u64) -> Option<u64> {
        let offset = usize::try_from(offset).ok()?;
        let after = self.spans.partition_point(|s| s.input.start <= offset);
        let span = &self.spans[after.checked_sub(1)?];
        let contained = span.input.contains(&offset);
        contained.then(|| (span.output + (offset - span.input.start)) as u64)
    }

    /// The ranges of the output with code that does not come from the input, ascending: the functions
    /// that were added, and the calls at the old places of functions that moved to the end.
    #[must_use]
    pub fn added_code(&self) -> &[Range<u64>] {
        &self.added_code
    }

    /// Adds a range to [`Self::added_code`].
    pub(super) fn add_code(&mut self, output: Range<usize>) {
        self.added_code.push(output.start as u64..output.end as u64);
    }

    /// Adds bytes that are in the input and, from `output` on, in the output.
    pub(super) fn add(&mut self, input: Range<usize>, output: usize) {
        match self.spans.last_mut() {
            _ if input.is_empty() => {}
            Some(last)
                if last.input.end == input.start && last.output + last.input.len() == output =>
            {
                last.input.end = input.end;
            }
            _ => self.spans.push(Span { input, output }),
        }
    }

    pub(super) fn sort(&mut self) {
        self.spans.sort_by_key(|span| span.input.start);
    }
}
