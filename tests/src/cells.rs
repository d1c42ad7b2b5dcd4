//! The four cells that the project exists for: two guests, with enough memory and with too little,
//! each on a host of today's kind and on one that secures its memory.

use std::fmt;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{Guests, MemoryGroup};

const MIB: u64 = 1 << 20;

/// Enough for a 4 GiB memory, its page tables, and the host around it.
pub const ENOUGH_BYTES: u64 = 4608 * MIB;
/// Far too little.
pub const LITTLE_BYTES: u64 = 512 * MIB;

/// 20 allocations of 50 MiB: MiB each and their number, u32 little-endian.
const BLOCK: &str = "3200000014000000";
/// What the stress guest stores for that block.
const SUCCESS: &str = "/memory-stress-result/0 = SUCCESS:1000MB";

/// Which guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// Allocates and writes 1,000 MiB, and stores that it did.
    Stress,
    /// Is instantiated, and returns.
    Minimal,
}

/// How the host treats the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// The module as cargo links it, in memory that is only reserved.
    Before,
    /// The module pinned, in memory that is committed at instantiation.
    After,
}

/// One cell of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The guest.
    pub guest: Guest,
    /// The limit of the cgroup that the host runs in.
    pub limit_bytes: u64,
    /// The host's way with memory.
    pub setup: Setup,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guest = match self.guest {
            Guest::Stress => "stress",
            Guest::Minimal => "minimal",
        };
        let setup = match self.setup {
            Setup::Before => "before",
            Setup::After => "after",
        };
        write!(f, "{guest}, {} MiB, {setup}", self.limit_bytes / MIB)
    }
}

impl Cell {
    /// All of them, before and after.
    pub fn all() -> impl Iterator<Item = Self> {
        [Setup::Before, Setup::After].into_iter().flat_map(|setup| {
            [ENOUGH_BYTES, LITTLE_BYTES]
                .into_iter()
                .flat_map(move |limit_bytes| {
                    [Guest::Stress, Guest::Minimal].map(|guest| Self {
                        guest,
                        limit_bytes,
                        setup,
                    })
                })
        })
    }
}

/// What was seen of one cell.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The exit status as a shell gives it: 128 and the signal's number where one ended it.
    pub status: i32,
    /// The most memory that was in use in the group, in bytes; `None` where the kernel does not
    /// tell.
    pub peak_bytes: Option<u64>,
    /// What the database holds afterwards, one line a value.
    pub stored: Vec<String>,
    /// What the host said on stderr.
    pub stderr: String,
    /// The file that holds the group's limit.
    limit_file: PathBuf,
}

/// Runs the cells.
#[derive(Debug)]
pub struct Bench {
    /// The indexer host.
    pub indexer: PathBuf,
    /// The guests as cargo links them.
    pub natural: Guests,
    /// The guests as this project makes them.
    pub pinned: Guests,
    /// A folder for databases.
    pub scratch: PathBuf,
}

impl Bench {
    /// Runs one cell: a real process in a real memory cgroup.
    ///
    /// # Errors
    /// Where it could not be run at all, or nothing is known of it. What the cell came to is no
    /// error.
    pub fn run(&self, cell: Cell) -> Result<Outcome> {
        let group = MemoryGroup::create(cell.limit_bytes).map_err(anyhow::Error::msg)?;
        let guests = match cell.setup {
            Setup::Before => &self.natural,
            Setup::After => &self.pinned,
        };
        let module = match cell.guest {
            Guest::Stress => &guests.memory_stress,
            Guest::Minimal => &guests.minimal,
        };
        let database = self.scratch.join("index.redb");
        if database.exists() {
            fs::remove_file(&database)?;
        }
        let mut command = group.command(&self.indexer);
        command.arg(module).args(["--block", BLOCK]);
        command.arg("--db").arg(&database);
        if cell.setup == Setup::Before {
            command.arg("--unsecured");
        }
        let output = command.output().context("cannot start the indexer")?;
        let killed = output.status.signal().map(|signal| 128 + signal);
        let status = output.status.code().or(killed);
        Ok(Outcome {
            status: status.context("the indexer neither exited nor was killed")?,
            peak_bytes: group.peak_bytes().ok(),
            stored: self.stored(&database)?,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            limit_file: group.limit_file(),
        })
    }

    /// What a database holds. A host that was refused early may not have made one.
    fn stored(&self, database: &Path) -> Result<Vec<String>> {
        if !database.exists() {
            return Ok(Vec::new());
        }
        let output = std::process::Command::new(&self.indexer)
            .args(["--dump", "--db"])
            .arg(database)
            .output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "the database cannot be read: {stderr}"
        );
        let stdout = String::from_utf8(output.stdout)?;
        Ok(stdout.lines().map(str::to_owned).collect())
    }
}

impl Cell {
    /// Compares an outcome with what the cell must come to; `Err` says what differs.
    ///
    /// # Errors
    /// A sentence for each difference.
    pub fn judge(self, outcome: &Outcome) -> Result<(), String> {
        let mut differs = Vec::new();
        let mut must = |holds: bool, what: &str| {
            if !holds {
                differs.push(what.to_owned());
            }
        };
        let enough = self.limit_bytes >= ENOUGH_BYTES;
        let status = match (self.setup, self.guest, enough) {
            (_, _, true) | (Setup::Before, Guest::Minimal, false) => 0,
            (Setup::Before, Guest::Stress, false) => 137,
            (Setup::After, _, false) => 1,
        };
        must(
            outcome.status == status,
            &format!("the exit status must be {status}"),
        );
        let stores = self.guest == Guest::Stress && enough;
        let expected: &[&str] = if stores { &[SUCCESS] } else { &[] };
        must(
            outcome.stored == expected,
            &format!("what is stored must be {expected:?}"),
        );
        if let (Setup::After, Some(peak)) = (self.setup, outcome.peak_bytes) {
            match enough {
                true => must(peak >= 4096 * MIB, "4 GiB must have been resident"),
                false => must(peak < LITTLE_BYTES / 2, "nothing may have been committed"),
            }
        }
        if self.setup == Setup::After && !enough {
            let limit = outcome.limit_file.display().to_string();
            must(
                outcome.stderr.contains(&limit),
                &format!("the error must name {limit}"),
            );
        }
        match differs.is_empty() {
            true => Ok(()),
            false => Err(differs.join("; ")),
        }
    }
}
