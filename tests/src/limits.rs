//! Hosts at limits: a process in a memory cgroup secures memory or is refused with the name of the
//! limit, and the OOM killer never ends it.
//!
//! The process is the program `commit`, which does not use its memory.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use wasm_prealloc_host::Backing;

use crate::MIB;
use crate::differences::Differences;
use crate::memory_group::MemoryGroup;

const KIB: u64 = 1 << 10;

/// The memory that a group may need in addition to the secured memory and its page tables: the
/// process itself, and the charges that the kernel makes in advance for each processor.
const PROCESS_BYTES: u64 = 24 * MIB;

/// The kinds of pages whose limits differ: the kernel can refuse huge pages at a cgroup's limit, and
/// cannot refuse base pages there.
pub const BACKINGS: [Backing; 2] = [Backing::Auto, Backing::Base];

/// A host that secures one memory and exits. It uses no margin, because a margin would hide errors.
#[derive(Clone, Debug)]
pub struct Host {
    /// The program `commit`.
    pub program: PathBuf,
    /// The size of its memory, in wasm pages of 64 KiB.
    pub pages: u64,
    /// The slots of another pool, and the size of each in wasm pages. Both are secured together.
    pub also: Option<(u64, u64)>,
    /// The kind of pages.
    pub backing: Backing,
    /// True if the host cannot see its group: an empty directory is mounted over all groups. Then
    /// the kernel has to refuse, or a child process that tries the commit is killed.
    pub hidden: bool,
}

/// Mounts an empty directory over all groups, and runs a command.
const HIDE: &str = "mount -t tmpfs none /sys/fs/cgroup && exec \"$@\"";

/// Returns the reason why groups cannot be hidden from a host here, if there is one.
pub fn cannot_hide() -> Option<String> {
    let mut probe = Command::new("unshare");
    let output = probe.args(["-m", "sh", "-c", HIDE, "sh", "true"]).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("no mount namespace: {}", stderr(&output))),
        Err(error) => Some(format!("cannot start unshare: {error}")),
    }
}

impl Host {
    /// Returns the size of the secured memory in bytes.
    pub fn bytes(&self) -> u64 {
        let also = self.also.map_or(0, |(slots, pages)| slots * pages);
        (self.pages + also) << 16
    }

    /// Returns the size of the secured memory and its page tables in bytes.
    pub fn needed_bytes(&self) -> u64 {
        self.bytes() + self.bytes() / 512
    }

    /// Returns a limit in bytes that is high enough.
    pub fn enough_bytes(&self) -> u64 {
        self.needed_bytes() + PROCESS_BYTES
    }

    /// Returns a command that runs the host in a group.
    pub fn command(&self, group: &MemoryGroup) -> Command {
        let mut command = match self.hidden {
            false => group.command(&self.program),
            true => {
                let mut command = group.command("unshare");
                command
                    .args(["-m", "sh", "-c", HIDE, "sh"])
                    .arg(&self.program);
                command
            }
        };
        command.args(["--pages", &self.pages.to_string()]);
        if let Some((slots, pages)) = self.also {
            command.args(["--also", &format!("{slots}x{pages}")]);
        }
        command.args(["--backing", &self.backing.to_string()]);
        command.args(["--margin-bytes", "0"]);
        command
    }

    /// Returns the statistics before the first run.
    fn stats(&self) -> Stats {
        Stats {
            unnamed: self.hidden,
            children_die: self.hidden,
            ..Stats::default()
        }
    }

    /// Runs the host at each limit. Some of the limits must be too low, and some high enough.
    pub fn sweep(&self, limits: impl IntoIterator<Item = u64>) -> Result<Stats> {
        let begin = Instant::now();
        let mut stats = self.stats();
        let range = (self.needed_bytes(), self.enough_bytes());
        for limit_bytes in limits {
            stats.run(limit_bytes, range, |group| self.command(group))?;
        }
        if stats.secured == 0 || stats.refused == 0 {
            stats.differs("the limits must be below and above the needed memory");
        }
        stats.elapsed = begin.elapsed();
        Ok(stats)
    }

    /// Returns `count` limits in steps of `step_bytes`. Half of them are below the lowest limit that
    /// is high enough, and half are above.
    pub fn limits_around_break_even(
        &self,
        count: u64,
        step_bytes: u64,
    ) -> Result<impl Iterator<Item = u64> + use<>> {
        let range = (self.needed_bytes(), self.enough_bytes());
        let (mut refused, mut secured) = range;
        while secured - refused > step_bytes {
            let middle = (refused + secured) / 2;
            let mut stats = self.stats();
            stats.run(middle, range, |group| self.command(group))?;
            match stats.secured {
                0 => refused = middle,
                _ => secured = middle,
            }
        }
        let first = secured - count / 2 * step_bytes;
        Ok((0..count).map(move |step| first + step * step_bytes))
    }

    /// Starts `hosts` at once, in a group whose limit is high enough for fewer, and repeats that.
    /// Exactly `room` of them must secure their memory each time.
    pub fn race(&self, hosts: u64, room: u64, limit_bytes: u64, rounds: u64) -> Result<Stats> {
        let begin = Instant::now();
        let mut stats = self.stats();
        for round in 0..rounds {
            let group = MemoryGroup::create(limit_bytes).map_err(anyhow::Error::msg)?;
            let before = stats.secured;
            let children: Vec<Child> = (0..hosts)
                .map(|_| {
                    let mut command = self.command(&group);
                    command.arg("--hold").stdin(Stdio::piped());
                    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
                })
                .collect::<std::io::Result<_>>()?;
            // A host that succeeds holds its memory until all hosts have answered.
            let mut held = Vec::new();
            for mut child in children {
                let mut answers = BufReader::new(child.stderr.take().context("no stderr")?);
                let mut answer = String::new();
                answers.read_line(&mut answer)?;
                held.push((child, answer, answers));
            }
            for (mut child, answer, _answers) in held {
                drop(child.stdin.take());
                let output = Output {
                    status: child.wait()?,
                    stdout: Vec::new(),
                    stderr: answer.into_bytes(),
                };
                stats.count(&format!("round {round}"), &group.limit_file(), &output);
            }
            let secured = stats.secured - before;
            if secured != room {
                stats.differs(format!(
                    "round {round}: {secured} of {hosts} secured memory"
                ));
            }
            stats.oom_kills += group.oom_kills()?;
        }
        stats.elapsed = begin.elapsed();
        Ok(stats)
    }

    /// Runs the host in a group that is full of page cache of a file as large as the memory. The
    /// kernel reclaims that cache, so the memory must be secured.
    ///
    /// `folder` must be on a file system with a page cache, so not on tmpfs.
    pub fn in_page_cache(&self, cached: Cached, folder: &Path) -> Result<Stats> {
        let begin = Instant::now();
        let limit_bytes = self.enough_bytes()
            + match cached {
                // For each 4 KiB written, ext4 and other file systems keep a buffer head of 104
                // bytes. It is freed with its page, but no file reports it, so the host does not
                // count on it.
                Cached::Written => self.bytes() / 32,
                Cached::Read => 0,
            };
        let group = MemoryGroup::create(limit_bytes).map_err(anyhow::Error::msg)?;
        let file = tempfile::NamedTempFile::new_in(folder)?;
        let size = format!("count={}", self.bytes() / MIB);
        let (zero, null) = (Path::new("/dev/zero"), Path::new("/dev/null"));
        match cached {
            Cached::Written => dd(group.command("dd"), &[&size], zero, file.path())?,
            Cached::Read => {
                // Written outside of the group and dropped from the cache, so that the group is
                // charged for the pages that it reads.
                dd(Command::new("dd"), &[&size], zero, file.path())?;
                file.as_file().sync_all()?;
                let drop_cache = ["count=0", "iflag=nocache"];
                dd(Command::new("dd"), &drop_cache, file.path(), null)?;
                dd(group.command("dd"), &[&size], file.path(), null)?;
            }
        }
        let in_use = group.in_use_bytes()?;
        ensure!(
            in_use > self.bytes() / 2 && limit_bytes - in_use < self.needed_bytes(),
            "only {in_use} bytes of page cache are in the group"
        );
        let mut stats = self.stats();
        let output = self.command(&group).output()?;
        if stats.count("page cache", &group.limit_file(), &output) != Answer::Secured {
            stats.differs(stderr(&output));
        }
        stats.oom_kills = group.oom_kills()?;
        stats.elapsed = begin.elapsed();
        Ok(stats)
    }
}

/// Copies from one file to another with dd(1).
fn dd(mut command: Command, operands: &[&str], from: &Path, to: &Path) -> Result<()> {
    command.args([
        format!("if={}", from.display()),
        format!("of={}", to.display()),
    ]);
    command.args(["bs=1M", "conv=notrunc"]).args(operands);
    let output = command.output()?;
    ensure!(output.status.success(), "dd: {}", stderr(&output));
    Ok(())
}

/// The origin of a group's page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// The group wrote a file, and part of it is still dirty.
    Written,
    /// The group read a file.
    Read,
}

/// The answer of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It secured its memory.
    Secured,
    /// It reported a reason.
    Refused,
    /// A signal ended it.
    Killed,
    /// It exited in another way, which is a difference.
    Unexpected,
}

/// The answers of many hosts.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// The number of hosts.
    pub tried: u64,
    /// The number that secured their memory.
    pub secured: u64,
    /// The number that were refused.
    pub refused: u64,
    /// The number that a signal ended.
    pub killed: u64,
    /// The kernel's count of processes in the groups that the OOM killer ended.
    pub oom_kills: u64,
    /// The run time of all hosts.
    pub elapsed: Duration,
    /// True if a refusal cannot name the limit, because the hosts cannot see it.
    unnamed: bool,
    /// True if the kernel may kill child processes of hosts, which try the commit.
    children_die: bool,
    /// A sentence for each unexpected answer.
    differences: Differences,
}

impl Stats {
    /// Checks that all answers were expected, and that no host was killed. The error is the list of
    /// differences.
    pub fn judge(&self) -> Result<(), String> {
        let mut differences = self.differences.clone();
        let (killed, oom_kills) = (self.killed, self.oom_kills);
        let kills = format!("{killed} were killed (the kernel's count: {oom_kills})");
        // The status of a host distinguishes its own end from that of a child.
        let counted = if self.children_die { 0 } else { oom_kills };
        differences.expect(killed + counted == 0, kills);
        differences.into_result()
    }

    /// Runs a host in a group with this limit. It must be refused below `needed` bytes, and must
    /// secure its memory from `enough` bytes on.
    pub fn run(
        &mut self,
        limit_bytes: u64,
        (needed, enough): (u64, u64),
        command: impl FnOnce(&MemoryGroup) -> Command,
    ) -> Result<Output> {
        let group = MemoryGroup::create(limit_bytes).map_err(anyhow::Error::msg)?;
        let output = command(&group).output().context("cannot start")?;
        let place = format!("{} KiB", limit_bytes / KIB);
        match self.count(&place, &group.limit_file(), &output) {
            Answer::Secured if limit_bytes < needed => {
                self.differs(format!("{place}: secured below the needed memory"));
            }
            Answer::Refused if limit_bytes >= enough => {
                self.differs(format!("{place}: refused: {}", stderr(&output)));
            }
            _ => {}
        }
        self.oom_kills += group.oom_kills()?;
        Ok(output)
    }

    /// Counts the answer of one host. A refusal must name the file that contains the limit.
    fn count(&mut self, place: &str, limit_file: &Path, output: &Output) -> Answer {
        self.tried += 1;
        let (count, answer) = match (output.status.code(), output.status.signal()) {
            (Some(0), _) => (&mut self.secured, Answer::Secured),
            (Some(1), _) => (&mut self.refused, Answer::Refused),
            (_, Some(_)) => (&mut self.killed, Answer::Killed),
            _ => {
                self.differs(format!("{place}: {}: {}", output.status, stderr(output)));
                return Answer::Unexpected;
            }
        };
        *count += 1;
        let (text, file) = (stderr(output), limit_file.display().to_string());
        let named = self.unnamed || text.contains(&file);
        let names_limit = text.contains("memory not secured") && named;
        if answer == Answer::Refused && !names_limit {
            self.differs(format!("{place}: {file} is not named: {text}"));
        }
        answer
    }

    fn differs(&mut self, how: impl Into<String>) {
        self.differences.expect(false, how);
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

/// Returns `count` limits from `first` to `last` inclusive, in equal steps of whole KiB.
pub fn limits(first: u64, last: u64, count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |step| {
        let limit = first + (last - first) * step / (count - 1);
        limit - limit % KIB
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_reach_from_the_first_to_the_last() {
        let all: Vec<u64> = limits(64 * MIB, 5120 * MIB, 200).collect();
        assert_eq!((all.len(), all[0], all[199]), (200, 64 * MIB, 5120 * MIB));
        assert!(all.is_sorted_by(|one, next| one < next));
    }

    /// A killed host must not count as a refused one.
    #[test]
    fn a_kill_an_unnamed_limit_and_an_unexpected_exit_are_differences() {
        let named = "echo memory not secured: /limit >&2; exit 1";
        for (command, answer, killed, as_expected) in [
            ("exit 0", Answer::Secured, 0, true),
            (named, Answer::Refused, 0, true),
            ("exit 1", Answer::Refused, 0, false),
            ("kill -9 $$", Answer::Killed, 1, false),
            ("exit 101", Answer::Unexpected, 0, false),
        ] {
            let output = Command::new("sh").args(["-c", command]).output();
            let output = output.expect("there is a shell");
            let mut stats = Stats::default();
            let found = stats.count("here", Path::new("/limit"), &output);
            assert_eq!((found, stats.killed), (answer, killed), "{command}");
            assert_eq!(stats.judge().is_ok(), as_expected, "{command}");
        }
        let counted = Stats {
            oom_kills: 1,
            ..Stats::default()
        };
        assert!(counted.judge().is_err());
        let children = Stats {
            children_die: true,
            ..counted
        };
        assert_eq!(children.judge(), Ok(()));
    }
}
