//! Memory cgroups for child processes, made and removed by the test that needs one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The files of one version of the interface.
#[derive(Clone, Copy, Debug)]
struct Files {
    version: &'static str,
    /// Where the interface is mounted.
    mount: &'static str,
    limit: &'static str,
    usage: &'static str,
    peak: &'static str,
    /// A file with a line `oom_kill N`.
    events: &'static str,
}

const V1: Files = Files {
    version: "v1",
    mount: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    peak: "memory.max_usage_in_bytes",
    events: "memory.oom_control",
};

const V2: Files = Files {
    version: "v2",
    mount: "/sys/fs/cgroup",
    limit: "memory.max",
    usage: "memory.current",
    peak: "memory.peak",
    events: "memory.events",
};

/// A memory cgroup with a limit, removed when dropped.
#[derive(Debug)]
pub struct MemoryGroup {
    path: PathBuf,
    files: Files,
}

impl MemoryGroup {
    /// Makes a group that may use `limit_bytes`; where there can be none, says why as a test that
    /// is skipped does.
    pub fn create_or_skip(limit_bytes: u64) -> Option<Self> {
        Self::create(limit_bytes)
            .map_err(|why| crate::skipped(&why))
            .ok()
    }

    /// Makes a group that may use `limit_bytes`.
    ///
    /// # Errors
    /// Why this machine, or this user, has no such group to give: a reason to skip a test.
    pub fn create(limit_bytes: u64) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (parent, files) = parent()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("wasm-prealloc-{}-{number}", std::process::id()));
        fs::create_dir(&path).map_err(|error| {
            format!(
                "no memory cgroup can be made ({}: {error}); it takes root",
                path.display()
            )
        })?;
        let group = Self { path, files };
        group
            .set_limit(limit_bytes)
            .map_err(|error| format!("{} cannot be limited: {error}", group.path.display()))?;
        Ok(group)
    }

    /// Makes a group below this one, without a limit of its own.
    ///
    /// # Errors
    /// Why there can be none. With version 2, a group that holds processes can have no groups
    /// below it.
    pub fn create_below(&self) -> Result<Self, String> {
        let path = self.path.join("below");
        let failed = |error: io::Error| format!("no group below {}: {error}", self.path.display());
        if self.files.version == V2.version {
            fs::write(self.path.join("cgroup.subtree_control"), "+memory").map_err(failed)?;
        }
        fs::create_dir(&path).map_err(failed)?;
        let files = self.files;
        Ok(Self { path, files })
    }

    /// The directory that stands for the group.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes the limit.
    ///
    /// # Errors
    /// What the kernel says, for instance EBUSY where more is in use.
    pub fn set_limit(&self, limit_bytes: u64) -> io::Result<()> {
        fs::write(self.limit_file(), limit_bytes.to_string())
    }

    /// The file that holds the limit.
    pub fn limit_file(&self) -> PathBuf {
        self.path.join(self.files.limit)
    }

    /// The version of the interface: `v1` or `v2`.
    pub fn version(&self) -> &'static str {
        self.files.version
    }

    /// Where the interface is mounted.
    pub fn mount(&self) -> &'static str {
        self.files.mount
    }

    /// Shell words that move the shell into the group, to put before a command.
    pub fn enter(&self) -> String {
        let procs = self.path.join("cgroup.procs");
        format!("echo $$ > '{}' &&", procs.display())
    }

    /// A command that runs a program in the group: a shell enters it, and becomes the program.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(self.path.join("cgroup.procs"))
            .arg(program.as_ref());
        command
    }

    /// What is in use in the group now, page cache counted, in bytes.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn in_use_bytes(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.path.join(self.files.usage))?;
        text.trim().parse().map_err(io::Error::other)
    }

    /// The most that was ever in use in the group, in bytes.
    ///
    /// # Errors
    /// Where the kernel does not tell (version 2 before Linux 5.19).
    pub fn peak_bytes(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.path.join(self.files.peak))?;
        text.trim().parse().map_err(io::Error::other)
    }

    /// How many processes of the group the OOM killer has killed.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn oom_kills(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.path.join(self.files.events))?;
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        let kills = kills.ok_or_else(|| io::Error::other("no `oom_kill` line"))?;
        kills.trim().parse().map_err(io::Error::other)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A process that has been waited for can still be on its way out of the group.
        for _ in 0..200 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("left behind: {}", self.path.display());
    }
}

/// Where a group can be made.
fn parent() -> Result<(PathBuf, Files), String> {
    // Version 1: below our own group, so that whatever limits us limits the children too.
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.split_once(":memory:"));
    let v1 = Path::new(V1.mount);
    if let Some((_, path)) = own
        && v1.join(V1.limit).exists()
    {
        let own = v1.join(path.trim_start_matches('/'));
        // In a container the path can be that of the host, where it does not exist here.
        return Ok((if own.is_dir() { own } else { v1.to_owned() }, V1));
    }
    // Version 2: a group that holds processes cannot have groups below it, but the root can.
    let v2 = Path::new(V2.mount);
    let delegated = fs::read_to_string(v2.join("cgroup.subtree_control")).unwrap_or_default();
    if delegated.split_whitespace().any(|name| name == "memory") {
        return Ok((v2.to_owned(), V2));
    }
    Err("this machine shows no memory cgroups, of version 1 or 2, below /sys/fs/cgroup".to_owned())
}
