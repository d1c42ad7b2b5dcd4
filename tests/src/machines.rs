//! Hosts with different amounts of memory, which run one chain of blocks. Hosts that secure their
//! memory compute the same state root, or refuse to start. Unmodified hosts stop at different blocks.

use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::MIB;
use crate::chain::{Block, Chain, GUEST_BYTES};
use crate::indexer::{Indexer, Outcome, Setup};
use crate::memory_group::MemoryGroup;
use crate::programs::Guest;

/// The memory that a host needs in addition to its guest's: page tables, and the process itself.
const AROUND_BYTES: u64 = 80 * MIB;

/// One host.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// The host's setup.
    pub setup: Setup,
    /// The limit of the cgroup that it runs in.
    pub limit_bytes: u64,
    /// The memory that another process holds in the same group.
    pub neighbour_bytes: u64,
    /// The height at which the host is ended with SIGKILL and started again.
    pub interrupted_at: Option<usize>,
}

/// The expected end of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It stores every block.
    Complete,
    /// The OOM killer ends it, and the blocks before are stored.
    Killed,
    /// It refuses to start, with the reason.
    Refused,
}

impl Machine {
    /// Returns a host without a neighbour in its group.
    pub fn new(setup: Setup, limit_mib: u64) -> Self {
        Self {
            setup,
            limit_bytes: limit_mib * MIB,
            neighbour_bytes: 0,
            interrupted_at: None,
        }
    }

    /// Adds a process that holds memory in the same group.
    pub fn beside(self, neighbour_mib: u64) -> Self {
        Self {
            neighbour_bytes: neighbour_mib * MIB,
            ..self
        }
    }

    /// Adds an interruption after a block.
    pub fn interrupted_at(self, height: usize) -> Self {
        Self {
            interrupted_at: Some(height),
            ..self
        }
    }

    fn end(self, chain: &Chain, status: i32) -> End {
        let available = self.limit_bytes.saturating_sub(self.neighbour_bytes);
        let written = chain.most_written_bytes();
        match self.setup {
            Setup::After if available >= GUEST_BYTES + AROUND_BYTES => End::Complete,
            Setup::After => End::Refused,
            Setup::Before if available >= written + AROUND_BYTES => End::Complete,
            Setup::Before if available <= written => End::Killed,
            // In between, the end of an unmodified host is not predictable.
            Setup::Before if status == 0 => End::Complete,
            Setup::Before => End::Killed,
        }
    }

    /// Compares an outcome with the expectation. The error is a sentence for each difference.
    /// The first state root becomes the chain's.
    pub fn judge(self, chain: &mut Chain, outcome: &Outcome) -> Result<(), String> {
        let end = self.end(chain, outcome.status);
        let (status, kills) = match end {
            End::Complete => (0, 0),
            End::Killed => (137, 1),
            End::Refused => (1, 0),
        };
        let mut differences = outcome.compare_status(status);
        let stored = &outcome.stored;
        let agree = |(height, line): (usize, &String)| chain.agrees(height, line);
        differences.expect(
            stored.len() <= chain.blocks.len() && stored.iter().enumerate().all(agree),
            "the stored values must be those of the chain's first blocks",
        );
        differences.expect(
            outcome.oom_kills == kills,
            format!("the kernel must count {kills} kills"),
        );
        match end {
            End::Complete => {
                let all = stored.len() == chain.blocks.len();
                differences.expect(all, "every block must be stored");
                // A missing state root differs from every state root.
                let root = outcome.state_root.clone().unwrap_or_default();
                let first = chain.state_root.get_or_insert(root);
                differences.expect(
                    outcome.state_root.as_ref() == Some(first),
                    format!("the state root must be {first:?}"),
                );
            }
            End::Killed => differences.expect(
                stored.len() < chain.blocks.len(),
                "it must be killed before the last block",
            ),
            End::Refused => differences.expect(stored.is_empty(), "no block may be stored"),
        }
        differences.into_result()
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setup = match self.setup {
            Setup::Before => "unmodified host",
            Setup::After => "secured host",
        };
        write!(f, "{setup}, {} MiB", self.limit_bytes / MIB)?;
        if self.neighbour_bytes > 0 {
            write!(f, ", a neighbour of {} MiB", self.neighbour_bytes / MIB)?;
        }
        match self.interrupted_at {
            Some(height) => write!(f, ", interrupted after block {height}"),
            None => Ok(()),
        }
    }
}

/// The programs that run chains.
#[derive(Clone, Copy, Debug)]
pub struct Bench<'a> {
    /// The indexer host.
    pub indexer: &'a Indexer,
    /// The program `commit`, which is the neighbour.
    pub commit: &'a Path,
}

impl Bench<'_> {
    /// Runs a chain on one host: a process in a memory cgroup. A host that fails is not an error.
    pub fn run(&self, chain: &Chain, machine: Machine) -> Result<Outcome> {
        let group = MemoryGroup::create(machine.limit_bytes).map_err(anyhow::Error::msg)?;
        let database = self.indexer.new_database()?;
        let neighbour = match machine.neighbour_bytes {
            0 => None,
            bytes => Some(self.neighbour(&group, bytes)?),
        };
        let host = |blocks: &[Block]| -> Result<Command> {
            let file = self.indexer.scratch.join("chain.txt");
            let lines = blocks.iter().map(|block| block.to_hexadecimal() + "\n");
            fs::write(&file, lines.collect::<String>())?;
            let indexer = self.indexer;
            let mut command = indexer.command(&group, machine.setup, Guest::Stress, &database);
            command.arg("--chain").arg(file);
            Ok(command)
        };
        let begin = Instant::now();
        let mut done = 0;
        if let Some(height) = machine.interrupted_at {
            interrupt(host(&chain.blocks)?, height)?;
            done = self.indexer.stored(&database)?.len();
            ensure!(
                done > height,
                "block {height} was reported as stored and is lost"
            );
        }
        let rest = chain.blocks.get(done..).unwrap_or_default();
        let mut outcome = self.indexer.run(&group, host(rest)?, &database)?;
        outcome.elapsed = begin.elapsed();
        if let Some(mut neighbour) = neighbour {
            drop(neighbour.stdin.take());
            let status = neighbour.wait()?;
            ensure!(status.success(), "the neighbour failed: {status}");
        }
        Ok(outcome)
    }

    /// Starts a process that holds memory in a group until its stdin is closed.
    fn neighbour(&self, group: &MemoryGroup, bytes: u64) -> Result<Child> {
        let mut command = group.command(self.commit);
        command.args(["--pages", &(bytes >> 16).to_string(), "--hold"]);
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut answer = String::new();
        let stderr = child.stderr.as_mut().context("no stderr")?;
        BufReader::new(stderr).read_line(&mut answer)?;
        ensure!(answer.starts_with("secured:"), "the neighbour: {answer}");
        Ok(child)
    }
}

/// Runs a host, and ends it with SIGKILL after it has stored the block at this height.
fn interrupt(mut host: Command, height: usize) -> Result<()> {
    let mut host = host.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let line_of_block = format!("block {height}:");
    let lines = BufReader::new(host.stdout.take().context("no stdout")?).lines();
    let found = lines
        .map_while(Result::ok)
        .any(|line| line.starts_with(&line_of_block));
    host.kill()?;
    host.wait()?;
    ensure!(found, "the host ended before block {height}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The outcome of a host that completes a chain.
    fn complete(chain: &Chain) -> Outcome {
        let lines = chain.blocks.iter().enumerate().map(|(height, block)| {
            let value = match block.total_mib() {
                total @ ..=4096 => format!("SUCCESS:{total}MB"),
                _ => "ERROR:allocation 1 of 2 (3 MiB each)".to_owned(),
            };
            format!("/memory-stress-result/{height} = {value}")
        });
        Outcome {
            status: 0,
            stored: lines.collect(),
            state_root: Some("one".to_owned()),
            peak_bytes: None,
            oom_kills: 0,
            elapsed: Duration::ZERO,
            stderr: "error: memory not secured: ... under /limit".to_owned(),
            limit_file: "/limit".into(),
        }
    }

    #[test]
    fn a_wrong_root_a_kill_and_a_block_before_a_refusal_are_differences() {
        let mut chain = Chain::short();
        let done = complete(&chain);
        let enough = Machine::new(Setup::After, 6144);
        let little = Machine::new(Setup::After, 512);
        assert_eq!(enough.judge(&mut chain, &done), Ok(()));
        assert_eq!(chain.state_root.as_deref(), Some("one"));

        let mut other = done.clone();
        other.state_root = Some("two".to_owned());
        assert!(enough.judge(&mut chain, &other).is_err());
        let mut other = done.clone();
        other.stored.swap(3, 4);
        assert!(enough.judge(&mut chain, &other).is_err());

        let mut killed = done.clone();
        (killed.status, killed.oom_kills) = (137, 1);
        killed.stored.truncate(7);
        assert!(enough.judge(&mut chain, &killed).is_err());
        assert!(little.judge(&mut chain, &killed).is_err());
        let unmodified = Machine::new(Setup::Before, 512);
        assert_eq!(unmodified.judge(&mut chain, &killed), Ok(()));

        let mut refused = done.clone();
        (refused.status, refused.state_root) = (1, None);
        assert!(little.judge(&mut chain, &refused).is_err());
        refused.stored.clear();
        assert_eq!(little.judge(&mut chain, &refused), Ok(()));
        refused.stderr.clear();
        assert!(little.judge(&mut chain, &refused).is_err());
    }
}
