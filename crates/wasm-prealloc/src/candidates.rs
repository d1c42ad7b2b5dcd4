//! Searches code for the bytes that `memory.size` and `memory.grow` begin with, without knowing
//! where instructions begin.

use std::ops::Range;

const MEMORY_SIZE: u8 = 0x3f;
const MEMORY_GROW: u8 = 0x40;

/// Finds offsets of bytes that may be a `memory.size` or `memory.grow`.
pub(crate) struct Candidates<'a> {
    wasm: &'a [u8],
    /// How many memories there are, as far as the first seven bits of an index tell.
    indices: u8,
}

/// Bytes looked at together where there seldom is anything, and where there is.
const BLOCK: usize = 256;
const SMALL_BLOCK: usize = 32;

impl<'a> Candidates<'a> {
    pub(crate) fn new(wasm: &'a [u8], memories: usize) -> Self {
        Self {
            wasm,
            indices: memories.min(0x80) as u8,
        }
    }

    /// The first at an offset or behind it.
    pub(crate) fn first(&self, from: usize) -> Option<usize> {
        // The opcode at the last byte has no index.
        let end = self.wasm.len().saturating_sub(1);
        let mut at = from;
        while at < end {
            at = self.skip_blocks::<BLOCK>(at);
            at = self.skip_blocks::<SMALL_BLOCK>(at);
            let next = end.min(at + SMALL_BLOCK);
            if let Some(found) = (at..next).find(|at| self.is_candidate(*at)) {
                return Some(found);
            }
            at = next;
        }
        None
    }

    /// The last in a range.
    pub(crate) fn last(&self, range: Range<usize>) -> Option<usize> {
        let mut end = range.end.min(self.wasm.len().saturating_sub(1));
        while range.start < end {
            end = self.skip_blocks_back::<BLOCK>(range.start..end);
            end = self.skip_blocks_back::<SMALL_BLOCK>(range.start..end);
            let next = range.start.max(end.saturating_sub(SMALL_BLOCK));
            if let Some(found) = (next..end).rev().find(|at| self.is_candidate(*at)) {
                return Some(found);
            }
            end = next;
        }
        None
    }

    /// Skips blocks of `N` bytes in which no candidate begins.
    fn skip_blocks<const N: usize>(&self, mut at: usize) -> usize {
        while let Some(block) = self.wasm.get(at..at + N + 1)
            && !self.has_match(&block[..N], &block[1..])
        {
            at += N;
        }
        at
    }

    /// As [`Candidates::skip_blocks`], from the end of a range, which is given back, to its start.
    fn skip_blocks_back<const N: usize>(&self, range: Range<usize>) -> usize {
        let mut end = range.end;
        while end - range.start >= N
            && let Some(block) = self.wasm.get(end - N..end + 1)
            && !self.has_match(&block[..N], &block[1..])
        {
            end -= N;
        }
        end
    }

    /// Whether any two bytes match.
    fn has_match(&self, opcodes: &[u8], groups: &[u8]) -> bool {
        // No early exit, so that they can be compared at once.
        let pairs = opcodes.iter().zip(groups);
        pairs.fold(false, |hit, (&a, &b)| hit | self.matches(a, b))
    }

    fn is_candidate(&self, at: usize) -> bool {
        let instruction = &self.wasm[at..];
        self.matches(instruction[0], instruction[1]) && self.is_index(&instruction[1..])
    }

    /// Whether two bytes may be an opcode and the first group of an index. Of an index that takes
    /// several groups, the lowest seven bits must be those of an index too, where there are no more
    /// memories than seven bits can tell.
    fn matches(&self, opcode: u8, group: u8) -> bool {
        ((opcode == MEMORY_SIZE) | (opcode == MEMORY_GROW)) & ((group & 0x7f) < self.indices)
    }

    /// Whether the groups behind the first are those of an index. Padding is all that they can be,
    /// where there are no more memories than the first group can tell.
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

    /// The candidates are the pairs that a byte-by-byte search finds, wherever they lie relative to
    /// the blocks.
    #[test]
    fn candidates_are_what_a_plain_search_finds() {
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
                    let candidates = Candidates::new(&bytes, memories);
                    let first = |at| candidates.first(at);
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
                        assert_eq!(
                            candidates.last(from..end).as_ref(),
                            last,
                            "{place} to {end}"
                        );
                    }
                    // Where the first group cannot tell all memories apart, more may be found.
                    if memories < 128 {
                        assert_eq!(found, plain, "{place}");
                    }
                }
            }
        }
    }
}
