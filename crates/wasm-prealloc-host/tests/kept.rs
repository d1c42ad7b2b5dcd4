//! Secured memory stays the process's own: children do not have it, same-page merging leaves it
//! alone, and core dumps do not contain it.
//!
//! The settings apply to the whole process and to the machine, so these tests have their own
//! binary.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
// A process forks by fork(2), and asks for merging by prctl(2).
#![allow(unsafe_code)]

mod support;

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use support::{one_at_a_time, skipped};
use wasm_prealloc_host::{
    Backing, LockMemory, LockOptions, MemoryPool, Requirements, SecuredRegion, Stage,
    resident_bytes,
};

const MIB: usize = 1 << 20;

/// A child of fork(2) that waits for a signal. It is killed when dropped.
struct Child(libc::pid_t);

impl Child {
    fn fork() -> Child {
        // SAFETY: the child makes one system call until it is killed.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            loop {
                // SAFETY: pause has no preconditions.
                unsafe { libc::pause() };
            }
        }
        assert!(pid > 0, "{}", std::io::Error::last_os_error());
        Child(pid)
    }

    fn maps(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/maps", self.0)).unwrap()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: the child was not waited for, so the number is still its own.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

fn contains(maps: &str, address: usize) -> bool {
    let number = |text| usize::from_str_radix(text, 16).unwrap();
    maps.lines().any(|line| {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        (number(start)..number(end)).contains(&address)
    })
}

#[test]
fn a_fork_in_the_middle_of_a_commit_shares_neither_pages_nor_the_lock() {
    let _turn = one_at_a_time();
    for backing in [Backing::Base, Backing::Auto] {
        let (sender, forked) = mpsc::channel();
        let mut once = Some(sender);
        let directory = tempfile::tempdir().unwrap();
        let mut lock = LockOptions::default();
        lock.path = directory.path().to_owned();
        lock.timeout = Duration::from_millis(500);
        let pool = MemoryPool::builder()
            .pages(4096)
            .backing(backing)
            .lock(lock.clone())
            .on_progress(move |progress| {
                let middle = progress.committed_bytes < progress.total_bytes;
                if let (Stage::Committing, true, Some(sender)) =
                    (progress.stage, middle, once.take_if(|_| middle))
                {
                    sender.send(Child::fork()).unwrap();
                }
            })
            .secure()
            .unwrap();
        let child = forked.try_recv().expect("there is progress in the middle");
        // The lock is free although the child lives.
        let mut requirements = Requirements::of_pages(16);
        requirements.lock = lock;
        SecuredRegion::secure(&requirements).unwrap();
        let mut memory = pool.lend(4096, Some(4096)).unwrap();
        let base = memory.as_ptr() as usize;
        let own = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(contains(&own, base));
        assert!(!contains(&child.maps(), base), "{backing}");
        // Pages that the child shared would be copied by the writes.
        let before = support::status_kib("RssAnon");
        memory.bytes_mut().fill(1);
        let grown = support::status_kib("RssAnon").saturating_sub(before);
        assert!(grown < 1024, "{backing}: {grown} KiB");
    }
}

/// A file of `/sys/kernel/mm/ksm` that gets its value back when this is dropped.
struct Setting {
    path: std::path::PathBuf,
    before: String,
}

impl Setting {
    fn set(name: &str, value: &str) -> std::io::Result<Setting> {
        let path = Path::new("/sys/kernel/mm/ksm").join(name);
        let before = std::fs::read_to_string(&path)?;
        std::fs::write(&path, value)?;
        Ok(Setting { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.path, self.before.trim());
    }
}

fn number(path: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap();
    text.trim().parse().unwrap()
}

/// Waits until the kernel has looked for equal pages often enough to merge them.
fn scanned() -> bool {
    const SCANS: &str = "/sys/kernel/mm/ksm/full_scans";
    let (first, start) = (number(SCANS), Instant::now());
    while number(SCANS) < first + 3 {
        if start.elapsed() > Duration::from_secs(60) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Reads a size of the mapping at an address from `/proc/self/smaps`, in KiB.
fn smaps_kib(address: usize, name: &str) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let is_it = |line: &&str| {
        let first = line.split(' ').next().unwrap();
        first.contains('-') && contains(line, address)
    };
    let mut lines = smaps.lines().skip_while(|line| !is_it(line));
    let line = lines.find_map(|line| line.strip_prefix(name)).unwrap();
    let number = line.trim_matches([':', ' ']).strip_suffix(" kB").unwrap();
    number.trim().parse().unwrap()
}

#[test]
fn same_page_merging_leaves_the_memory_alone() {
    const PR_SET_MEMORY_MERGE: libc::c_int = 67;
    let _turn = one_at_a_time();
    // Everything that the process maps from now on is offered for merging, as under systemd's
    // MemoryKSM=yes.
    // SAFETY: the call changes no contents.
    let offered = unsafe { libc::prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) } == 0;
    if !offered {
        let why = std::io::Error::last_os_error();
        return skipped(&format!("same-page merging cannot be asked for: {why}"));
    }
    let settings = [
        ("pages_to_scan", "100000"),
        ("sleep_millisecs", "1"),
        ("run", "1"),
    ]
    .map(|(name, value)| Setting::set(name, value));
    if let Some(Err(why)) = settings.iter().find(|setting| setting.is_err()) {
        return skipped(&format!("same-page merging cannot be turned on: {why}"));
    }
    let pool = MemoryPool::builder()
        .pages(256)
        .lock_memory(LockMemory::Off)
        .secure()
        .unwrap();
    let memory = pool.lend(256, Some(256)).unwrap();
    let base = memory.as_ptr() as usize;
    let mut engines: Vec<u8> = Vec::with_capacity(16 * MIB);
    let start = engines.as_mut_ptr();
    // SAFETY: the allocation is the vector's, and outlives the call.
    unsafe { wasm_prealloc_host::secure_in_place(start, 16 * MIB, &Requirements::default()) }
        .unwrap();
    // Memory with equal pages that is not secured shows that the kernel merges.
    let other = vec![1_u8; 16 * MIB];
    if !scanned() {
        return skipped("the kernel did not scan for equal pages within a minute");
    }
    let middle = |start: usize| start + 8 * MIB;
    let merged = smaps_kib(middle(other.as_ptr() as usize), "Pss");
    if merged > 8 << 10 {
        return skipped(&format!("the kernel merged nothing: {merged} KiB are left"));
    }
    for (what, start) in [("a slot", base), ("an engine's memory", start as usize)] {
        // Write tracking and the ends of an allocation split the mapping.
        let (own, all) = (
            smaps_kib(middle(start), "Pss"),
            smaps_kib(middle(start), "Size"),
        );
        assert!(own + 256 >= all, "{what}: {own} of {all} KiB are left");
        assert!(all >= 13 << 10, "{what}: {all} KiB");
    }
    assert_eq!(resident_bytes(memory.bytes()).unwrap(), 16 << 20);
    // SAFETY: the call changes no contents.
    unsafe { libc::prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0) };
}

#[test]
fn dumps_do_not_contain_the_memory() {
    let pool = MemoryPool::builder().pages(64).secure().unwrap();
    let memory = pool.lend(64, Some(64)).unwrap();
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let base = memory.as_ptr() as usize;
    let is_it = |line: &&str| line.split(' ').next().unwrap().contains('-') && contains(line, base);
    let mut lines = smaps.lines().skip_while(|line| !is_it(line));
    let flags = lines
        .find_map(|line| line.strip_prefix("VmFlags:"))
        .unwrap();
    // "dd": do not dump. "dc": do not copy on fork.
    for flag in ["dd", "dc"] {
        assert!(flags.split_whitespace().any(|set| set == flag), "{flags}");
    }
}
