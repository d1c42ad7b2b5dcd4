//! A guest that allocates the heap that its block asks for, writes all of it, and stores the result.
//! It allocates as every program does, and does not know its memory's limits. The interface to the
//! host is in `abi.rs`.
//!
//! The block is two little-endian `u32`: MiB per allocation, and the number of allocations. The
//! result is stored under `/memory-stress-result/<height>`: `SUCCESS:<total MiB>MB`, or
//! `ERROR:<reason>`.

mod abi;

use std::hint::black_box;

const MIB: usize = 1 << 20;

/// The distance between bytes that are read back: one byte in each 4 KiB page, the smallest unit in
/// which memory could be lost.
const READ_STRIDE: usize = 4096;

/// Runs the stress test that the block describes.
///
/// # Panics
///
/// Panics if the input is too short to hold a height, because the result's key needs it.
#[expect(unsafe_code, reason = "an export keeps its name only with `no_mangle`")]
// SAFETY: this module has no other symbol `_start`.
#[unsafe(no_mangle)]
pub extern "C" fn _start() {
    let Some(input) = abi::Input::load() else {
        abi::log("memory-stress: the input is shorter than a height (4 bytes)");
        panic!("no height");
    };
    let result = match Request::parse(input.block()).and_then(|request| request.run()) {
        Ok(mib) => format!("SUCCESS:{mib}MB"),
        Err(why) => format!("ERROR:{why}"),
    };
    let height = input.height();
    abi::log(&format!("memory-stress at height {height}: {result}"));
    let key = format!("/memory-stress-result/{height}");
    abi::flush(&[(key.as_bytes(), result.as_bytes())]);
}

/// The allocations that a block asks for.
struct Request {
    mib_each: u32,
    allocations: u32,
}

impl Request {
    fn parse(block: &[u8]) -> Result<Self, String> {
        let Ok([a, b, c, d, e, f, g, h]) = <[u8; 8]>::try_from(block) else {
            return Err(format!(
                "the block has {} bytes, not 8 (two u32: MiB per allocation, allocations)",
                block.len()
            ));
        };
        Ok(Self {
            mib_each: u32::from_le_bytes([a, b, c, d]),
            allocations: u32::from_le_bytes([e, f, g, h]),
        })
    }

    /// Allocates and writes everything, then reads it back. Returns the total in MiB.
    ///
    /// The allocations are freed before this returns, so that there is heap to store an error.
    fn run(&self) -> Result<u64, String> {
        let bytes_each = (self.mib_each as usize)
            .checked_mul(MIB)
            .ok_or_else(|| format!("{} MiB is more than any memory has", self.mib_each))?;
        let mut kept: Vec<Vec<u8>> = Vec::new();
        kept.try_reserve_exact(self.allocations as usize)
            .map_err(|why| format!("a list of {} allocations: {why}", self.allocations))?;
        for index in 0..self.allocations {
            let mut bytes = Vec::new();
            bytes
                .try_reserve_exact(bytes_each)
                .map_err(|why| format!("{}: {why}", self.place(index)))?;
            bytes.resize(bytes_each, pattern(index));
            // Without this, the compiler may predict the reads below and remove the writes.
            kept.push(black_box(bytes));
        }
        for (index, bytes) in (0..).zip(&kept) {
            let expected = pattern(index);
            let samples = bytes.iter().step_by(READ_STRIDE).chain(bytes.last());
            if let Some(found) = samples.copied().find(|found| *found != expected) {
                return Err(format!(
                    "{}: read {found:#04x} where {expected:#04x} was written",
                    self.place(index)
                ));
            }
        }
        Ok(u64::from(self.mib_each) * u64::from(self.allocations))
    }

    fn place(&self, index: u32) -> String {
        format!(
            "allocation {} of {} ({} MiB each)",
            u64::from(index) + 1,
            self.allocations,
            self.mib_each
        )
    }
}

/// Returns the byte that fills an allocation. It is never 0, the content of fresh memory, and differs
/// from that of the next allocation, so that an overlap is found.
fn pattern(index: u32) -> u8 {
    (index % 255) as u8 + 1
}
