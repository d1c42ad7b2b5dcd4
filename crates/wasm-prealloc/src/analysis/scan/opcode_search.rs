//! Searches code for the bytes that `memory.size` and `memory.grow` begin with. The search does not
//! know the boundaries of instructions, so it also finds such bytes within other instructions.

use std::ops::Range;

const MEMORY_SIZE: u8 = 0x3f;
const MEMORY_GROW: u8 = 0x40;

/// Finds the offsets of bytes that may begin a `memory.size` or `memory.grow`.
pub(crate) struct OpcodeSearch<'a> {
    code: &'a [u8],
    /// The number of memories, at most what the seven bits of an index's first byte can tell.
    indices: u8,
}

/// The number of bytes that are compared together. Most blocks hold no match.
const BLOCK: usize = 256;

impl<'a> OpcodeSearch<'a> {
    pub(crate) fn new(code: &'a [u8], memories: usize) -> Self {
        Self {
            code,
            indices: memories.min(0x80) as u8,
        }
    }

    /// Returns the first match at or after an offset.
    pub(crate) fn first(&self, from: usize) -> Option<usize> {
        // An opcode at the last byte has no index.
        let end = self.code.len().saturating_sub(1);
        let mut at = from;
        while at < end {
            let next = end.min(at + BLOCK);
            if self.may_match(at..next)
                && let Some(found) = (at..next).find(|at| self.is_match(*at))
            {
                return Some(found);
            }
            at = next;
        }
        None
    }

    /// Returns the last match in a range.
    pub(crate) fn last(&self, range: Range<usize>) -> Option<usize> {
        let end = range.end.min(self.code.len().saturating_sub(1));
        (range.start..end).rev().find(|at| self.is_match(*at))
    }

    /// Returns true if any two bytes of a range and the byte after it match.
    fn may_match(&self, range: Range<usize>) -> bool {
        let pairs = self.code[range.clone()]
            .iter()
            .zip(&self.code[range.start + 1..]);
        // Without an early exit, the compiler compares many bytes at once.
        pairs.fold(false, |hit, (&a, &b)| hit | self.matches(a, b))
    }

    fn is_match(&self, at: usize) -> bool {
        let instruction = &self.code[at..];
        self.matches(instruction[0], instruction[1]) && self.is_index(&instruction[1..])
    }

    /// Returns true if two bytes may be an opcode and the first byte of an index. An index of
    /// several bytes has the low seven bits of a valid index in its first byte too, unless there
    /// are more memories than seven bits can tell.
    fn matches(&self, opcode: u8, group: u8) -> bool {
        ((opcode == MEMORY_SIZE) | (opcode == MEMORY_GROW)) & ((group & 0x7f) < self.indices)
    }

    /// Returns true if the bytes after the first can be those of an index. They are padding, unless
    /// there are more memories than the first byte can tell.
    fn is_index(&self, groups: &[u8]) -> bool {
        const LONGEST: usize = 5;
        let last = groups
            .iter()
            .take(LONGEST)
            .position(|group| group & 0x80 == 0);
        match last {
            None => false,
            Some(_) if self.indices == 0x80 => true,
            Some(last) => groups[..=last]
                .iter()
                .skip(1)
                .all(|group| group & 0x7f == 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use wasmparser::BinaryReader;

    use super::*;

    /// The search finds the pairs that a byte-by-byte search finds, at any position relative to the
    /// blocks.
    #[test]
    fn matches_are_those_of_a_plain_search() {
        let mut random = fastrand::Rng::with_seed(7);
        for length in 0..600_usize {
            let pool = [0x3f, 0x40, 0x00, 0x01, 0x02, 0x7f, 0x80, 0xff];
            let sparse = random.bool();
            let bytes: Vec<u8> = (0..length)
                .map(|_| match sparse && random.u8(..) > 8 {
                    true => 0x41,
                    false => pool[random.usize(..pool.len())],
                })
                .collect();
            for memories in [1, 2, 3, 500] {
                for from in [0, 1, 63, 64, 65].into_iter().filter(|&f| f <= length) {
                    let plain: Vec<usize> = (from..length.saturating_sub(1))
                        .filter(|&i| {
                            let mut index = BinaryReader::new(&bytes[i + 1..], 0);
                            let index = index.read_var_u32();
                            matches!(bytes[i], 0x3f | 0x40)
                                && index.is_ok_and(|index| (index as usize) < memories)
                        })
                        .collect();
                    let search = OpcodeSearch::new(&bytes, memories);
                    let first = |at| search.first(at);
                    let found: Vec<usize> =
                        std::iter::successors(first(from), |at| first(at + 1)).collect();
                    let place = format!("{bytes:?} from {from}, {memories} memories");
                    for at in &plain {
                        assert!(found.contains(at), "{at} is missed in {place}");
                    }
                    for end in [from, length / 2, length]
                        .into_iter()
                        .filter(|&e| from <= e)
                    {
                        let last = found.iter().rfind(|at| **at < end);
                        assert_eq!(search.last(from..end).as_ref(), last, "{place} to {end}");
                    }
                    // Where the first byte cannot tell all memories apart, more may be found.
                    if memories < 128 {
                        assert_eq!(found, plain, "{place}");
                    }
                }
            }
        }
    }
}
