//! Memory that the contenders without the library use.

pub(super) const MIB: usize = 1 << 20;
pub(super) const GIB: usize = 1 << 30;
const HUGE_PAGE: usize = 2 << 20;

/// Zeroed memory that is not resident yet, aligned to huge pages.
pub(super) struct Memory {
    /// A large allocation of zeros is a new mapping in every allocator.
    allocation: Vec<u8>,
    bytes: usize,
}

impl Memory {
    pub(super) fn new(bytes: usize) -> Self {
        let allocation = vec![0; bytes + HUGE_PAGE];
        Self { allocation, bytes }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        let offset = self.allocation.as_ptr().align_offset(HUGE_PAGE);
        &mut self.allocation[offset..offset + self.bytes]
    }

    /// Writes one byte in every `step` bytes.
    pub(super) fn touch(&mut self, step: usize) {
        for chunk in self.bytes().chunks_mut(step) {
            chunk[0] = 0;
            std::hint::black_box(chunk);
        }
    }

    /// Calls memset(3) on the first `bytes`.
    pub(super) fn fill(&mut self, bytes: usize, value: u8) {
        let filled = &mut self.bytes()[..bytes];
        filled.fill(value);
        std::hint::black_box(filled);
    }
}
