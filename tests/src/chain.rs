//! A chain of blocks on unlike machines: memory cgroups of many sizes, with and without a neighbour,
//! and a host that is interrupted. Hosts that secure their memory come to one state root or do not
//! begin; hosts of today's kind end in different places.
//!
//! The blocks are for the stress guest, the host is the indexer.

use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::MemoryGroup;
use crate::cells::Setup;

const MIB: u64 = 1 << 20;

/// What a host needs beside its guest's memory: page tables, and the process around it.
const AROUND_BYTES: u64 = 80 * MIB;
const GUEST_BYTES: u64 = 4096 * MIB;

/// What a block asks of the stress guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// MiB of each allocation.
    pub mib_each: u32,
    /// How many of them.
    pub allocations: u32,
}

impl Block {
    /// MiB of all allocations together.
    pub fn total_mib(self) -> u64 {
        u64::from(self.mib_each) * u64::from(self.allocations)
    }

    fn to_hexadecimal(self) -> String {
        let bytes = [self.mib_each.to_le_bytes(), self.allocations.to_le_bytes()].concat();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Blocks in their order, and the state that they lead to.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The blocks.
    pub blocks: Vec<Block>,
    /// The state root after the last of them, as the first host told it that came so far. Every
    /// other must come to the same.
    pub state_root: Option<String>,
}

impl Chain {
    /// 200 blocks of 1 MiB to 6 GiB; what is beyond 4 GiB fails in the guest.
    pub fn long() -> Self {
        Self {
            blocks: generate(10, 200),
            state_root: None,
        }
    }

    /// The same kind of chain, for every run of the tests.
    pub fn short() -> Self {
        Self {
            blocks: generate(46, 14),
            state_root: None,
        }
    }

    /// MiB of all blocks together.
    pub fn total_mib(&self) -> u64 {
        self.blocks.iter().map(|block| block.total_mib()).sum()
    }

    /// How many blocks ask for more than a memory has.
    pub fn beyond(&self) -> usize {
        let beyond = |block: &&Block| block.total_mib() * MIB > GUEST_BYTES;
        self.blocks.iter().filter(beyond).count()
    }

    /// The most that any block writes, in bytes. One that asks for too much has written all that
    /// fits when it fails; the guest's own stack and data are below 2 MiB.
    fn most_written_bytes(&self) -> u64 {
        let written = self.blocks.iter().map(|block| {
            let each = u64::from(block.mib_each) * MIB;
            let fit = (GUEST_BYTES - 2 * MIB) / each;
            each * fit.min(block.allocations.into())
        });
        written.max().unwrap_or(0)
    }

    /// Compares a line that was stored with what the block of that height must come to.
    fn agrees(&self, height: usize, line: &str) -> bool {
        let block = self.blocks[height];
        let key = format!("/memory-stress-result/{height} = ");
        let total = block.total_mib();
        line.strip_prefix(&key)
            .is_some_and(|value| match total * MIB > GUEST_BYTES {
                true => value.starts_with("ERROR:allocation "),
                false => value == format!("SUCCESS:{total}MB"),
            })
    }
}

/// Most blocks are small, some large, a few larger than any memory.
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
            Block {
                mib_each,
                allocations: total / mib_each,
            }
        })
        .collect()
}

/// SplitMix64, here so that no library's next version makes another chain.
struct Random(u64);

impl Random {
    /// A number below `end`.
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

/// One host.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Its way with memory.
    pub setup: Setup,
    /// The limit of the cgroup that it runs in.
    pub limit_bytes: u64,
    /// What another process holds in the same group, if there is one.
    pub neighbour_bytes: u64,
    /// The height at which it is interrupted by a SIGKILL, and started again.
    pub interrupted_at: Option<usize>,
}

/// What must come of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Every block is stored.
    Complete,
    /// It is killed, and has stored the blocks before.
    Killed,
    /// It says why it does not begin.
    Refused,
}

impl Machine {
    /// A host with nothing else in its group.
    pub fn new(setup: Setup, limit_mib: u64) -> Self {
        Self {
            setup,
            limit_bytes: limit_mib * MIB,
            neighbour_bytes: 0,
            interrupted_at: None,
        }
    }

    /// The same, beside a process that holds memory.
    pub fn beside(self, neighbour_mib: u64) -> Self {
        Self {
            neighbour_bytes: neighbour_mib * MIB,
            ..self
        }
    }

    /// The same, interrupted after a block.
    pub fn interrupted_at(self, height: usize) -> Self {
        Self {
            interrupted_at: Some(height),
            ..self
        }
    }

    fn fate(self, chain: &Chain, status: i32) -> Fate {
        let room = self.limit_bytes.saturating_sub(self.neighbour_bytes);
        let written = chain.most_written_bytes();
        match self.setup {
            Setup::After if room >= GUEST_BYTES + AROUND_BYTES => Fate::Complete,
            Setup::After => Fate::Refused,
            Setup::Before if room >= written + AROUND_BYTES => Fate::Complete,
            Setup::Before if room <= written => Fate::Killed,
            // Nobody can tell: that is how it is with hosts of today's kind.
            Setup::Before if status == 0 => Fate::Complete,
            Setup::Before => Fate::Killed,
        }
    }

    /// Compares what was seen with what must be; `Err` says what differs. The first state root
    /// becomes the chain's.
    ///
    /// # Errors
    /// A sentence for each difference.
    pub fn judge(self, chain: &mut Chain, outcome: &Outcome) -> Result<(), String> {
        let mut differs = Vec::new();
        let mut must = |holds: bool, what: &str| {
            if !holds {
                differs.push(what.to_owned());
            }
        };
        let stored = &outcome.stored;
        let agree = |(height, line): (usize, &String)| chain.agrees(height, line);
        must(
            stored.len() <= chain.blocks.len() && stored.iter().enumerate().all(agree),
            "what is stored must be the chain's first blocks",
        );
        let fate = self.fate(chain, outcome.status);
        let status = match fate {
            Fate::Complete => 0,
            Fate::Killed => 137,
            Fate::Refused => 1,
        };
        must(
            outcome.status == status,
            &format!("the exit status must be {status}: {}", outcome.stderr),
        );
        match fate {
            Fate::Complete => {
                must(
                    stored.len() == chain.blocks.len(),
                    "every block must be stored",
                );
                let first = chain.state_root.get_or_insert_with(|| {
                    // No root at all is unlike every root.
                    outcome.state_root.clone().unwrap_or_default()
                });
                must(
                    outcome.state_root.as_ref() == Some(first),
                    &format!("the state root must be {first:?}"),
                );
            }
            Fate::Killed => must(
                stored.len() < chain.blocks.len(),
                "it must have been killed before the end",
            ),
            Fate::Refused => {
                must(stored.is_empty(), "nothing may be stored");
                let limit = outcome.limit_file.display().to_string();
                must(
                    outcome.stderr.contains(&limit),
                    &format!("the error must name {limit}: {}", outcome.stderr),
                );
            }
        }
        let kills = u64::from(fate == Fate::Killed);
        must(
            outcome.oom_kills == kills,
            &format!("the kernel must count {kills} kills"),
        );
        match differs.is_empty() {
            true => Ok(()),
            false => Err(differs.join("; ")),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setup = match self.setup {
            Setup::Before => "today's host",
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

/// What was seen of a host.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The exit status as a shell gives it: 128 and the signal's number where one ended it.
    pub status: i32,
    /// What the database holds afterwards: a line a block, in the order of heights.
    pub stored: Vec<String>,
    /// The state root that the host printed at the end.
    pub state_root: Option<String>,
    /// How many processes the OOM killer has killed, by its own count.
    pub oom_kills: u64,
    /// How long the host ran.
    pub elapsed: Duration,
    /// What the host said on stderr.
    pub stderr: String,
    /// The file that holds the group's limit.
    limit_file: PathBuf,
}

/// Runs chains.
#[derive(Debug)]
pub struct Bench {
    /// The indexer host.
    pub indexer: PathBuf,
    /// The program `commit`, which is the neighbour.
    pub commit: PathBuf,
    /// The stress guest as cargo links it.
    pub natural: PathBuf,
    /// The stress guest as this project makes it.
    pub pinned: PathBuf,
    /// A folder for databases and chains.
    pub scratch: PathBuf,
}

impl Bench {
    /// Runs a chain on one host: a real process in a real memory cgroup.
    ///
    /// # Errors
    /// Where it could not be run at all. What it came to is no error.
    pub fn run(&self, chain: &Chain, machine: Machine) -> Result<Outcome> {
        let group = MemoryGroup::create(machine.limit_bytes).map_err(anyhow::Error::msg)?;
        let database = self.scratch.join("chain.redb");
        if database.exists() {
            fs::remove_file(&database)?;
        }
        let neighbour = match machine.neighbour_bytes {
            0 => None,
            bytes => Some(self.neighbour(&group, bytes)?),
        };
        let since = Instant::now();
        if let Some(height) = machine.interrupted_at {
            let mut host = self.host(&group, machine.setup, &chain.blocks)?;
            let mut host = host.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
            let reached = format!("block {height}:");
            let lines = BufReader::new(host.stdout.take().context("no stdout")?).lines();
            let found = lines
                .map_while(Result::ok)
                .any(|line| line.starts_with(&reached));
            host.kill()?;
            host.wait()?;
            ensure!(found, "the host ended before block {height}");
        }
        let done = self.stored(&database)?.len();
        ensure!(
            machine.interrupted_at.is_none_or(|height| done > height),
            "a block that was told as stored is lost"
        );
        let rest = chain.blocks.get(done..).unwrap_or_default();
        let output = self.host(&group, machine.setup, rest)?.output()?;
        let elapsed = since.elapsed();
        if let Some(mut neighbour) = neighbour {
            drop(neighbour.stdin.take());
            let status = neighbour.wait()?;
            ensure!(status.success(), "the neighbour came to {status}");
        }
        let killed = output.status.signal().map(|signal| 128 + signal);
        let stdout = String::from_utf8_lossy(&output.stdout);
        let mut roots = stdout
            .lines()
            .filter_map(|line| line.strip_prefix("state root "));
        Ok(Outcome {
            status: output.status.code().or(killed).context("no exit status")?,
            stored: self.stored(&database)?,
            state_root: roots.next_back().map(str::to_owned),
            oom_kills: group.oom_kills()?,
            elapsed,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            limit_file: group.limit_file(),
        })
    }

    /// The indexer in a group, with these blocks to be done next.
    fn host(&self, group: &MemoryGroup, setup: Setup, blocks: &[Block]) -> Result<Command> {
        let chain = self.scratch.join("chain.txt");
        let lines = blocks.iter().map(|block| block.to_hexadecimal() + "\n");
        fs::write(&chain, lines.collect::<String>())?;
        let mut command = group.command(&self.indexer);
        match setup {
            Setup::Before => command.arg(&self.natural).arg("--unsecured"),
            Setup::After => command.arg(&self.pinned),
        };
        command.arg("--chain").arg(chain);
        command.arg("--db").arg(self.scratch.join("chain.redb"));
        Ok(command)
    }

    /// A process that holds memory in a group, until its stdin is closed.
    fn neighbour(&self, group: &MemoryGroup, bytes: u64) -> Result<Child> {
        let mut command = group.command(&self.commit);
        command.args(["--pages", &(bytes >> 16).to_string(), "--hold"]);
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut answer = String::new();
        let stderr = child.stderr.as_mut().context("no stderr")?;
        BufReader::new(stderr).read_line(&mut answer)?;
        ensure!(answer.starts_with("secured:"), "the neighbour: {answer}");
        Ok(child)
    }

    /// What a database holds, in the order of heights. A host that was refused early may not have
    /// made one.
    fn stored(&self, database: &Path) -> Result<Vec<String>> {
        if !database.exists() {
            return Ok(Vec::new());
        }
        let mut command = Command::new(&self.indexer);
        let output = command.args(["--dump", "--db"]).arg(database).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "no database to read: {stderr}");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_the_same_every_time() {
        let chain = Chain::long();
        let first = Block {
            mib_each: 4,
            allocations: 3,
        };
        assert_eq!((chain.blocks.len(), chain.blocks[0]), (200, first));
        assert_eq!((chain.total_mib(), chain.beyond()), (85_175, 4));
        assert_eq!(
            (Chain::short().blocks.len(), Chain::short().beyond()),
            (14, 1)
        );
        let sizes = chain.blocks.iter().map(|block| block.mib_each);
        assert!(sizes.max() <= Some(400));
    }

    /// What a host that does its work well stores of a chain.
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
            oom_kills: 0,
            elapsed: Duration::ZERO,
            stderr: "error: memory not secured: ... under /limit".to_owned(),
            limit_file: "/limit".into(),
        }
    }

    #[test]
    fn another_root_a_kill_and_a_block_before_a_refusal_are_differences() {
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
        let today = Machine::new(Setup::Before, 512);
        assert_eq!(today.judge(&mut chain, &killed), Ok(()));

        let mut refused = done.clone();
        (refused.status, refused.state_root) = (1, None);
        assert!(little.judge(&mut chain, &refused).is_err());
        refused.stored.clear();
        assert_eq!(little.judge(&mut chain, &refused), Ok(()));
        refused.stderr.clear();
        assert!(little.judge(&mut chain, &refused).is_err());
    }
}
