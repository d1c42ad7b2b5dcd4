//! Searches code for the bytes that `memory.size` and `memory.grow` begin with, without knowing
//! where instructions begin.

const MEMORY_SIZE: u8 = 0x3f;
const MEMORY_GROW: u8 = 0x40;

/// Offsets of byte pairs that may be a `memory.size` or `memory.grow`.
pub(crate) struct Candidates<'a> {
    wasm: &'a [u8],
    at: usize,
    /// How many memories there are, as far as the first seven bits of an index tell.
    indices: u8,
}

impl<'a> Candidates<'a> {
    /// Bytes looked at together.
    const BLOCK: usize = 256;

    pub(crate) fn new(wasm: &'a [u8], from: usize, memories: usize) -> Self {
        Self {
            wasm,
            at: from,
            indices: memories.min(0x80) as u8,
        }
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

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        loop {
            // No early exit within a block, so that it can be compared at once.
            while let Some(block) = self.wasm.get(self.at..self.at + Self::BLOCK + 1) {
                let pairs = block.iter().zip(&block[1..]);
                if pairs.fold(false, |hit, (&a, &b)| hit | self.matches(a, b)) {
                    break;
                }
                self.at += Self::BLOCK;
            }
            let rest = self.wasm.get(self.at..)?;
            let found = rest
                .windows(2)
                .position(|pair| self.matches(pair[0], pair[1]))?;
            let at = self.at + found;
            self.at = at + 1;
            if self.is_index(&self.wasm[at + 1..]) {
                return Some(at);
            }
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
        for length in 0..300_usize {
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
                    let found: Vec<usize> = Candidates::new(&bytes, from, memories).collect();
                    let place = format!("{bytes:?} from {from}, {memories} memories");
                    for at in &plain {
                        assert!(found.contains(at), "{at} is missed in {place}");
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
