//! Hosts at limits: a process in a real memory cgroup secures memory or is refused by name, and
//! nobody is killed.
//!
//! The process is the program `commit`. What its memory is used for is not the subject here.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::MemoryGroup;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What a group may need beyond what is secured and its page tables: the process itself, and what
/// the kernel charges in advance for each processor.
const PROCESS_BYTES: u64 = 24 * MIB;

/// How pages are obtained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Huge pages, which a cgroup can refuse (`Backing::Auto`).
    Collapse,
    /// The operating system's base pages, which it cannot (`Backing::Base`).
    Populate,
}

impl Pages {
    /// Both ways.
    pub const ALL: [Self; 2] = [Self::Collapse, Self::Populate];
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Collapse => "collapse",
            Self::Populate => "populate",
        })
    }
}

/// A host that secures one memory and ends, without any margin: what a margin forgives is to be
/// seen here.
#[derive(Clone, Debug)]
pub struct Host {
    /// The program `commit`.
    pub program: PathBuf,
    /// The size of its memory, in wasm pages of 64 KiB.
    pub pages: u64,
    /// How it obtains them.
    pub how: Pages,
}

impl Host {
    /// What is secured, in bytes.
    pub fn bytes(&self) -> u64 {
        self.pages << 16
    }

    /// What is secured and its page tables, in bytes.
    pub fn needed_bytes(&self) -> u64 {
        self.bytes() + self.bytes() / 512
    }

    /// A limit, in bytes, that is not in the way.
    pub fn enough_bytes(&self) -> u64 {
        self.needed_bytes() + PROCESS_BYTES
    }

    /// The host in a group.
    pub fn command(&self, group: &MemoryGroup) -> Command {
        let mut command = group.command(&self.program);
        command.args(["--pages", &self.pages.to_string()]);
        command.args(["--margin-bytes", "0", "--backing"]);
        command.arg(match self.how {
            Pages::Collapse => "auto",
            Pages::Populate => "base",
        });
        command
    }

    /// Runs the host in a group of its own with this limit, and files what came of it.
    ///
    /// # Errors
    /// Where it could not be run.
    pub fn run(&self, limit_bytes: u64, tally: &mut Tally) -> Result<()> {
        let group = MemoryGroup::create(limit_bytes).map_err(anyhow::Error::msg)?;
        let output = self.command(&group).output().context("cannot start")?;
        tally.tried += 1;
        let place = format!("{} KiB", limit_bytes / KIB);
        match tally.file(&place, &output) {
            Answer::Secured if limit_bytes < self.needed_bytes() => {
                tally.differs(format!("{place}: secured where there was no room"));
            }
            Answer::Refused if limit_bytes >= self.enough_bytes() => {
                tally.differs(format!("{place}: refused: {}", stderr(&output)));
            }
            Answer::Refused => tally.must_name(&place, &group.limit_file(), &output),
            _ => {}
        }
        tally.oom_kills += group.oom_kills()?;
        Ok(())
    }

    /// The host at each limit in turn. Some must secure their memory, and some be refused.
    ///
    /// # Errors
    /// Where it could not be run.
    pub fn sweep(&self, limits: impl IntoIterator<Item = u64>) -> Result<Tally> {
        let since = Instant::now();
        let mut tally = Tally::default();
        for limit_bytes in limits {
            self.run(limit_bytes, &mut tally)?;
        }
        if tally.secured == 0 || tally.refused == 0 {
            tally.differs("the limits must be on both sides of what is needed".to_owned());
        }
        tally.elapsed = since.elapsed();
        Ok(tally)
    }

    /// `count` limits in steps of `step_bytes`, half of them above the first that is enough and
    /// half below.
    ///
    /// # Errors
    /// Where the host could not be run.
    pub fn limits_around_break_even(
        &self,
        count: u64,
        step_bytes: u64,
    ) -> Result<impl Iterator<Item = u64> + use<>> {
        let (mut refused, mut secured) = (self.needed_bytes(), self.enough_bytes());
        while secured - refused > step_bytes {
            let middle = (refused + secured) / 2;
            let mut tally = Tally::default();
            self.run(middle, &mut tally)?;
            *(match tally.secured {
                0 => &mut refused,
                _ => &mut secured,
            }) = middle;
        }
        let first = secured - count / 2 * step_bytes;
        Ok((0..count).map(move |step| first + step * step_bytes))
    }

    /// `hosts` of them started at once, in a group that has room for fewer, again and again: the
    /// memory goes to exactly `room` of them each time.
    ///
    /// # Errors
    /// Where they could not be run.
    pub fn race(&self, hosts: u64, room: u64, limit_bytes: u64, rounds: u64) -> Result<Tally> {
        let since = Instant::now();
        let mut tally = Tally::default();
        for round in 0..rounds {
            let group = MemoryGroup::create(limit_bytes).map_err(anyhow::Error::msg)?;
            let before = tally.secured;
            let children: Vec<Child> = (0..hosts)
                .map(|_| {
                    let mut command = self.command(&group);
                    command.arg("--hold").stdin(Stdio::piped());
                    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
                })
                .collect::<std::io::Result<_>>()?;
            // Whoever succeeded holds its memory until all have answered.
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
                tally.tried += 1;
                let place = format!("round {round}");
                if tally.file(&place, &output) == Answer::Refused {
                    tally.must_name(&place, &group.limit_file(), &output);
                }
            }
            let secured = tally.secured - before;
            if secured != room {
                tally.differs(format!(
                    "round {round}: {secured} of {hosts} had their memory"
                ));
            }
            tally.oom_kills += group.oom_kills()?;
        }
        tally.elapsed = since.elapsed();
        Ok(tally)
    }

    /// The host in a group that is full of page cache, of a file of the same size as its memory:
    /// all of it is given back for the asking, so that the memory is secured.
    ///
    /// `folder` must be on a file system with a page cache, which tmpfs has not.
    ///
    /// # Errors
    /// Where it could not be run, or the group did not fill with page cache.
    pub fn in_page_cache(&self, cached: Cached, folder: &Path) -> Result<Tally> {
        let since = Instant::now();
        let limit_bytes = self.enough_bytes()
            + match cached {
                // For each 4 KiB written, ext4 and others keep a buffer head of 104 bytes. It goes
                // with its page, but no file tells of it, so the host does not count on it.
                Cached::Written => self.bytes() / 32,
                Cached::Read => 0,
            };
        let group = MemoryGroup::create(limit_bytes).map_err(anyhow::Error::msg)?;
        let file = tempfile::NamedTempFile::new_in(folder)?;
        let size = format!("count={}", self.bytes() / MIB);
        let dd = |command: &mut Command, words: &[&str], from: &Path, to: &Path| -> Result<()> {
            let (from, to) = (from.display(), to.display());
            command.args([format!("if={from}"), format!("of={to}")]);
            let output = command
                .args(["bs=1M", "conv=notrunc"])
                .args(words)
                .output()?;
            ensure!(output.status.success(), "dd: {}", stderr(&output));
            Ok(())
        };
        let (zero, null) = (Path::new("/dev/zero"), Path::new("/dev/null"));
        if cached == Cached::Read {
            // Written outside of the group, and dropped from the cache, so that who reads pays.
            dd(&mut Command::new("dd"), &[&size], zero, file.path())?;
            file.as_file().sync_all()?;
            let words = ["count=0", "iflag=nocache"];
            dd(&mut Command::new("dd"), &words, file.path(), null)?;
            dd(&mut group.command("dd"), &[&size], file.path(), null)?;
        } else {
            dd(&mut group.command("dd"), &[&size], zero, file.path())?;
        }
        let in_use = group.in_use_bytes()?;
        ensure!(
            in_use > self.bytes() / 2 && limit_bytes - in_use < self.needed_bytes(),
            "only {in_use} bytes of page cache are in the group"
        );
        let mut tally = Tally {
            tried: 1,
            ..Tally::default()
        };
        let output = self.command(&group).output()?;
        if tally.file("page cache", &output) != Answer::Secured {
            tally.differs(stderr(&output));
        }
        tally.oom_kills = group.oom_kills()?;
        tally.elapsed = since.elapsed();
        Ok(tally)
    }
}

/// How a group came to its page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// It wrote a file, part of which is still dirty.
    Written,
    /// It read a file.
    Read,
}

/// What one host came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It had its memory.
    Secured,
    /// It said why not.
    Refused,
    /// A signal ended it.
    Killed,
    /// None of these, which must not be.
    Strange,
}

/// What many hosts came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many were started.
    pub tried: u64,
    /// How many had their memory.
    pub secured: u64,
    /// How many were refused.
    pub refused: u64,
    /// How many were ended by a signal.
    pub killed: u64,
    /// How many processes of their groups the OOM killer has killed, by its own count.
    pub oom_kills: u64,
    /// How long it all took.
    pub elapsed: Duration,
    /// A sentence for each thing that is not as it must be.
    pub differences: Vec<String>,
}

impl Tally {
    /// Whether everything was as it must be, and nobody was killed; `Err` says what differs.
    ///
    /// # Errors
    /// The differences, in one text.
    pub fn judge(&self) -> Result<(), String> {
        let mut differences = self.differences.clone();
        if self.killed + self.oom_kills > 0 {
            let (killed, oom_kills) = (self.killed, self.oom_kills);
            differences.push(format!(
                "{killed} were killed (the kernel's count: {oom_kills})"
            ));
        }
        match differences.is_empty() {
            true => Ok(()),
            false => Err(differences.join("; ")),
        }
    }

    /// Counts one host.
    fn file(&mut self, place: &str, output: &Output) -> Answer {
        let (count, answer) = match (output.status.code(), output.status.signal()) {
            (Some(0), _) => (&mut self.secured, Answer::Secured),
            (Some(1), _) => (&mut self.refused, Answer::Refused),
            (_, Some(_)) => (&mut self.killed, Answer::Killed),
            _ => {
                self.differs(format!("{place}: {}: {}", output.status, stderr(output)));
                return Answer::Strange;
            }
        };
        *count += 1;
        answer
    }

    /// A refusal must say which file holds the limit.
    fn must_name(&mut self, place: &str, file: &Path, output: &Output) {
        let said = stderr(output);
        if !said.contains("memory not secured") || !said.contains(&file.display().to_string()) {
            self.differs(format!("{place}: {} is not named: {said}", file.display()));
        }
    }

    fn differs(&mut self, how: String) {
        self.differences.push(how);
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

/// `count` limits from `first` to `last`, both among them, in equal steps of whole KiB.
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

    /// One that is killed must never pass for one that is refused.
    #[test]
    fn a_kill_and_a_strange_exit_are_differences() {
        for (command, answer, killed) in [
            ("exit 0", Answer::Secured, 0),
            ("exit 1", Answer::Refused, 0),
            ("kill -9 $$", Answer::Killed, 1),
            ("exit 101", Answer::Strange, 0),
        ] {
            let output = Command::new("sh").args(["-c", command]).output();
            let mut tally = Tally::default();
            assert_eq!(
                tally.file("here", &output.expect("there is a shell")),
                answer
            );
            assert_eq!(tally.killed, killed, "{command}");
            let right = matches!(answer, Answer::Secured | Answer::Refused);
            assert_eq!(tally.judge().is_ok(), right, "{command}");
        }
        let counted = Tally {
            oom_kills: 1,
            ..Tally::default()
        };
        assert!(counted.judge().is_err());
    }
}
