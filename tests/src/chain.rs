//! A chain of blocks for the stress guest, and the values that it must store.

use crate::MIB;

pub(crate) const GUEST_BYTES: u64 = 4096 * MIB;

/// A request to the stress guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The size of each allocation in MiB.
    pub mib_each: u32,
    /// The number of allocations.
    pub allocations: u32,
}

impl Block {
    /// Returns a block with this size of each allocation in MiB, and this number of allocations.
    pub const fn new(mib_each: u32, allocations: u32) -> Self {
        Self {
            mib_each,
            allocations,
        }
    }

    /// Returns the total size of the allocations in MiB.
    pub fn total_mib(self) -> u64 {
        u64::from(self.mib_each) * u64::from(self.allocations)
    }

    /// Encodes a block: both numbers as u32, little-endian, in hexadecimal.
    pub fn to_hexadecimal(self) -> String {
        let bytes = [self.mib_each.to_le_bytes(), self.allocations.to_le_bytes()].concat();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A sequence of blocks, and the state that it leads to.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The blocks.
    pub blocks: Vec<Block>,
    /// The state root after the last block, from the first host that completed the chain. Every
    /// other host must compute the same.
    pub state_root: Option<String>,
}

impl Chain {
    /// Returns 200 blocks of 1 MiB to 6 GiB. A block of more than 4 GiB fails in the guest.
    pub fn long() -> Self {
        Self::new(10, 200)
    }

    /// Returns a chain that is short enough for every run of the tests.
    pub fn short() -> Self {
        Self::new(46, 14)
    }

    fn new(seed: u64, count: usize) -> Self {
        Self {
            blocks: generate(seed, count),
            state_root: None,
        }
    }

    /// Returns the total size of all blocks in MiB.
    pub fn total_mib(&self) -> u64 {
        self.blocks.iter().map(|block| block.total_mib()).sum()
    }

    /// Counts the blocks that request more than 4 GiB.
    pub fn beyond(&self) -> usize {
        let beyond = |block: &&Block| block.total_mib() * MIB > GUEST_BYTES;
        self.blocks.iter().filter(beyond).count()
    }

    /// Returns the largest number of bytes that a block writes. A block that requests too much writes
    /// everything that fits before it fails. The guest's own stack and data are below 2 MiB.
    pub(crate) fn most_written_bytes(&self) -> u64 {
        let written = self.blocks.iter().map(|block| {
            let each = u64::from(block.mib_each) * MIB;
            let fit = (GUEST_BYTES - 2 * MIB) / each;
            each * fit.min(block.allocations.into())
        });
        written.max().unwrap_or(0)
    }

    /// Returns true if the line is the value that the guest must store at this height.
    pub(crate) fn agrees(&self, height: usize, line: &str) -> bool {
        let key = format!("/memory-stress-result/{height} = ");
        let total = self.blocks[height].total_mib();
        line.strip_prefix(&key)
            .is_some_and(|value| match total * MIB > GUEST_BYTES {
                true => value.starts_with("ERROR:allocation "),
                false => value == format!("SUCCESS:{total}MB"),
            })
    }
}

/// Generates mostly small blocks, some large ones, and a few that are larger than any memory.
fn generate(seed: u64, count: usize) -> Vec<Block> {
    let mut random = Random(seed);
    (0..count)
        .map(|_| {
            let (low, high) = match random.up_to(100) {
                ..=68 => (1, 300),
                69..=86 => (300, 900),
                87..=92 => (900, 2000),
                93..=96 => (2000, 3900),
                _ => (4500, 6000),
            };
            let total = low + random.up_to(high - low + 1);
            let mib_each = 1 + random.up_to(total.min(400));
            Block::new(mib_each, total / mib_each)
        })
        .collect()
}

/// SplitMix64. It is not from a library, because another version could generate another chain.
struct Random(u64);

impl Random {
    /// Returns a number below `end`.
    fn up_to(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // The remainder is below `end`, which is a u32.
        (mixed % u64::from(end)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_the_same_every_time() {
        let chain = Chain::long();
        let first = Block::new(4, 3);
        assert_eq!((chain.blocks.len(), chain.blocks[0]), (200, first));
        assert_eq!((chain.total_mib(), chain.beyond()), (85_175, 4));
        let short = Chain::short();
        assert_eq!((short.blocks.len(), short.beyond()), (14, 1));
        let sizes = chain.blocks.iter().map(|block| block.mib_each);
        assert!(sizes.max() <= Some(400));
    }
}
