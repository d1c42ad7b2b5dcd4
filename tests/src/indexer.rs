//! The indexer host as a process in a memory cgroup, and the database that it writes.

use std::fmt;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use wasm_prealloc_build::Linking;

use crate::differences::Differences;
use crate::memory_group::MemoryGroup;
use crate::programs::{self, Guest, Guests, repository};

/// The host's treatment of the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// The module as cargo links it, in memory that is only reserved.
    Before,
    /// The pinned module, in memory that is committed at instantiation.
    After,
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::After => "after",
        })
    }
}

/// The indexer host, and the guests that it runs.
#[derive(Debug)]
pub struct Indexer {
    /// The program.
    pub program: PathBuf,
    /// The guests as cargo links them.
    pub natural: Guests,
    /// The guests as this project links them.
    pub pinned: Guests,
    /// A folder for databases.
    pub scratch: PathBuf,
}

/// The outcome of a host.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The exit status as a shell reports it: 128 plus the number of the signal that ended it.
    pub status: i32,
    /// The contents of the database afterwards: one line for each value, in the order of heights.
    pub stored: Vec<String>,
    /// The state root that the host printed last.
    pub state_root: Option<String>,
    /// The peak memory usage of the group, in bytes. `None` if the kernel does not report it.
    pub peak_bytes: Option<u64>,
    /// The kernel's count of processes that the OOM killer ended.
    pub oom_kills: u64,
    /// The run time of the host.
    pub elapsed: Duration,
    /// The host's stderr.
    pub stderr: String,
    /// The file that contains the group's limit.
    pub limit_file: PathBuf,
}

impl Outcome {
    /// Compares the exit status with the expected one. Status 1 is a refusal, which must name the
    /// limit.
    pub(crate) fn compare_status(&self, status: i32) -> Differences {
        let (stderr, limit) = (&self.stderr, self.limit_file.display().to_string());
        let mut differences = Differences::default();
        differences.expect(
            self.status == status,
            format!("the exit status must be {status}: {stderr}"),
        );
        differences.expect(
            status != 1 || stderr.contains(&limit),
            format!("the error must name {limit}: {stderr}"),
        );
        differences
    }
}

/// The indexer of the end-to-end tests, built once.
pub static INDEXER: LazyLock<Indexer> =
    LazyLock::new(|| Indexer::build("end-to-end").unwrap_or_else(|error| panic!("{error:?}")));

impl Indexer {
    /// Builds the host and the guests if they are not up to date. `scratch` is the name of a folder in
    /// `target/tests`.
    pub fn build(scratch: &str) -> Result<Self> {
        let scratch = repository().join("target/tests").join(scratch);
        fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
        Ok(Self {
            program: programs::example("indexer")?,
            natural: Guests::build(Linking::Natural)?,
            pinned: Guests::build(Linking::Pinned)?,
            scratch,
        })
    }

    /// Returns the path of a database that does not exist yet.
    pub fn new_database(&self) -> Result<PathBuf> {
        let database = self.scratch.join("index.redb");
        if database.exists() {
            fs::remove_file(&database)?;
        }
        Ok(database)
    }

    /// Returns a command that runs a guest in a group. The caller adds the blocks.
    pub fn command(
        &self,
        group: &MemoryGroup,
        setup: Setup,
        guest: Guest,
        database: &Path,
    ) -> Command {
        let mut command = group.command(&self.program);
        match setup {
            Setup::Before => command.arg(self.natural.path(guest)).arg("--unsecured"),
            Setup::After => command.arg(self.pinned.path(guest)),
        };
        command.arg("--db").arg(database);
        command
    }

    /// Runs a command from [`Indexer::command`]. A host that fails is not an error.
    pub fn run(
        &self,
        group: &MemoryGroup,
        mut command: Command,
        database: &Path,
    ) -> Result<Outcome> {
        let begin = Instant::now();
        let output = command.output().context("cannot start the indexer")?;
        let elapsed = begin.elapsed();
        let killed = output.status.signal().map(|signal| 128 + signal);
        let stdout = String::from_utf8_lossy(&output.stdout);
        let mut lines = stdout.lines().rev();
        let state_root = lines.find_map(|line| line.strip_prefix("state root "));
        Ok(Outcome {
            status: output.status.code().or(killed).context("no exit status")?,
            stored: self.stored(database)?,
            state_root: state_root.map(str::to_owned),
            peak_bytes: group.peak_bytes().ok(),
            oom_kills: group.oom_kills()?,
            elapsed,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            limit_file: group.limit_file(),
        })
    }

    /// Reads a database, in the order of heights. A host that was refused may not have created one.
    pub fn stored(&self, database: &Path) -> Result<Vec<String>> {
        if !database.exists() {
            return Ok(Vec::new());
        }
        let mut command = Command::new(&self.program);
        let output = command.args(["--dump", "--db"]).arg(database).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "cannot read the database: {stderr}"
        );
        let stdout = String::from_utf8(output.stdout)?;
        let mut stored: Vec<String> = stdout.lines().map(str::to_owned).collect();
        stored.sort_by_key(|line| {
            let rest = line.strip_prefix("/memory-stress-result/");
            let height = rest.and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
            height.unwrap_or(u64::MAX)
        });
        Ok(stored)
    }
}
