//! The four cells that the project exists for: two guests, with enough memory and with too little,
//! each on an unmodified host and on one that secures its memory.

use std::fmt;

use anyhow::Result;

use crate::MIB;
use crate::chain::Block;
use crate::indexer::{Indexer, Outcome, Setup};
use crate::memory_group::MemoryGroup;
use crate::programs::Guest;

/// A limit that is enough for a 4 GiB memory, its page tables, and the host.
pub const ENOUGH_BYTES: u64 = 4608 * MIB;
/// A limit that is far too low.
pub const LITTLE_BYTES: u64 = 512 * MIB;

/// The value that the stress guest stores for 20 allocations of 50 MiB.
const SUCCESS: &str = "/memory-stress-result/0 = SUCCESS:1000MB";

/// One cell of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The guest.
    pub guest: Guest,
    /// The limit of the cgroup that the host runs in.
    pub limit_bytes: u64,
    /// The host's setup.
    pub setup: Setup,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.limit_bytes / MIB;
        write!(f, "{}, {mib} MiB, {}", self.guest, self.setup)
    }
}

impl Cell {
    /// Returns all cells, before and after.
    pub fn all() -> Vec<Self> {
        let mut cells = Vec::new();
        for setup in [Setup::Before, Setup::After] {
            for limit_bytes in [ENOUGH_BYTES, LITTLE_BYTES] {
                for guest in [Guest::Stress, Guest::Minimal] {
                    cells.push(Self {
                        guest,
                        limit_bytes,
                        setup,
                    });
                }
            }
        }
        cells
    }

    /// Runs the cell: a process in a memory cgroup. A host that fails is not an error.
    pub fn run(self, indexer: &Indexer) -> Result<Outcome> {
        let group = MemoryGroup::create(self.limit_bytes).map_err(anyhow::Error::msg)?;
        let database = indexer.new_database()?;
        let mut command = indexer.command(&group, self.setup, self.guest, &database);
        command.args(["--block", &Block::new(50, 20).to_hexadecimal()]);
        indexer.run(&group, command, &database)
    }

    /// Compares an outcome with the expectation. The error is a sentence for each difference.
    pub fn judge(self, outcome: &Outcome) -> Result<(), String> {
        let enough = self.limit_bytes >= ENOUGH_BYTES;
        let status = match (self.setup, self.guest, enough) {
            (_, _, true) | (Setup::Before, Guest::Minimal, false) => 0,
            (Setup::Before, Guest::Stress, false) => 137,
            (Setup::After, _, false) => 1,
        };
        let mut differences = outcome.compare_status(status);
        let stores = self.guest == Guest::Stress && enough;
        let stored: &[&str] = if stores { &[SUCCESS] } else { &[] };
        differences.expect(
            outcome.stored == stored,
            format!("the stored values must be {stored:?}"),
        );
        if let (Setup::After, Some(peak)) = (self.setup, outcome.peak_bytes) {
            match enough {
                true => differences.expect(peak >= 4096 * MIB, "4 GiB must be resident"),
                false => differences.expect(peak < LITTLE_BYTES / 2, "no memory may be committed"),
            }
        }
        differences.into_result()
    }
}
