//! Memory cgroups for child processes. A test creates a group, and removes it afterwards.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::skip::skipped;

/// The file names of one version of the interface.
#[derive(Clone, Copy, Debug)]
struct Files {
    version: &'static str,
    /// The mount point.
    mount: &'static str,
    limit: &'static str,
    usage: &'static str,
    peak: &'static str,
    /// The file with the line `oom_kill N`.
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

/// A memory cgroup with a limit. It is removed when dropped.
#[derive(Debug)]
pub struct MemoryGroup {
    path: PathBuf,
    files: Files,
}

impl MemoryGroup {
    /// Creates a group with a limit. If this is not possible, prints a `skipped` line with the reason.
    pub fn create_or_skip(limit_bytes: u64) -> Option<Self> {
        Self::create(limit_bytes).map_err(|why| skipped(&why)).ok()
    }

    /// Creates a group with a limit. The error is the reason why the machine or the user cannot create
    /// groups, which is a reason to skip a test.
    pub fn create(limit_bytes: u64) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (parent, files) = parent()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("wasm-prealloc-{}-{number}", std::process::id()));
        fs::create_dir(&path).map_err(|error| {
            format!(
                "cannot create a memory cgroup ({}: {error}); this needs root",
                path.display()
            )
        })?;
        let group = Self { path, files };
        group.set_limit(limit_bytes).map_err(|error| {
            format!("cannot set the limit of {}: {error}", group.path.display())
        })?;
        Ok(group)
    }

    /// Creates a group below this one, without a limit.
    /// With version 2, a group that contains processes cannot have groups below it.
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

    /// Returns the directory of the group.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes the limit.
    /// The kernel refuses it, for example with EBUSY if more memory is in use.
    pub fn set_limit(&self, limit_bytes: u64) -> io::Result<()> {
        fs::write(self.limit_file(), limit_bytes.to_string())
    }

    /// Returns the file that contains the limit.
    pub fn limit_file(&self) -> PathBuf {
        self.path.join(self.files.limit)
    }

    /// Returns the version of the interface: `v1` or `v2`.
    pub fn version(&self) -> &'static str {
        self.files.version
    }

    /// Returns the mount point of the interface.
    pub fn mount(&self) -> &'static str {
        self.files.mount
    }

    /// Returns a shell command that moves the shell into the group, with a trailing `&&`.
    pub fn enter(&self) -> String {
        let procs = self.path.join("cgroup.procs");
        format!("echo $$ > '{}' &&", procs.display())
    }

    /// Returns a command that runs a program in the group: a shell enters the group and executes the
    /// program in its place.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(self.path.join("cgroup.procs"))
            .arg(program.as_ref());
        command
    }

    /// Returns the current memory usage of the group in bytes, including page cache.
    pub fn in_use_bytes(&self) -> io::Result<u64> {
        self.read_bytes(self.files.usage)
    }

    /// Returns the peak memory usage of the group in bytes.
    /// Version 2 does not report it before Linux 5.19.
    pub fn peak_bytes(&self) -> io::Result<u64> {
        self.read_bytes(self.files.peak)
    }

    fn read_bytes(&self, file: &str) -> io::Result<u64> {
        let text = fs::read_to_string(self.path.join(file))?;
        text.trim().parse().map_err(io::Error::other)
    }

    /// Returns the kernel's count of processes of the group that the OOM killer ended.
    pub fn oom_kills(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.path.join(self.files.events))?;
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        let kills = kills.ok_or_else(|| io::Error::other("no `oom_kill` line"))?;
        kills.trim().parse().map_err(io::Error::other)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A process can still be in the group for a moment after it was waited for.
        for _ in 0..200 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("not removed: {}", self.path.display());
    }
}

/// Returns a directory in which groups can be created.
fn parent() -> Result<(PathBuf, Files), String> {
    // Version 1: below this process's group, so that its limits apply to the children too.
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.split_once(":memory:"));
    let v1 = Path::new(V1.mount);
    if let Some((_, path)) = own
        && v1.join(V1.limit).exists()
    {
        let own = v1.join(path.trim_start_matches('/'));
        // In a container, the path can be the host's, and does not exist here.
        return Ok((if own.is_dir() { own } else { v1.to_owned() }, V1));
    }
    // Version 2: a group that contains processes cannot have groups below it, except the root.
    let v2 = Path::new(V2.mount);
    let delegated = fs::read_to_string(v2.join("cgroup.subtree_control")).unwrap_or_default();
    if delegated.split_whitespace().any(|name| name == "memory") {
        return Ok((v2.to_owned(), V2));
    }
    Err("there are no memory cgroups of version 1 or 2 below /sys/fs/cgroup".to_owned())
}
