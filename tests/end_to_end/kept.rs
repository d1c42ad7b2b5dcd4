//! Memory that the host locked stays resident when the kernel reclaims memory in its cgroup.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use wasm_prealloc_tests::{MIB, MemoryGroup, memory_lock, skipped};

/// The kernel takes the zero parts of huge pages back where fewer of their pages than this may be
/// zero.
const MAX_PTES_NONE: &str = "/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none";
const SHRINK_UNDERUSED: &str = "/sys/kernel/mm/transparent_hugepage/shrink_underused";

/// A file that gets its value back when this is dropped.
struct Setting {
    path: &'static str,
    before: String,
}

impl Setting {
    fn set(path: &'static str, value: &str) -> std::io::Result<Self> {
        let before = std::fs::read_to_string(path)?;
        std::fs::write(path, value)?;
        Ok(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = std::fs::write(self.path, self.before.trim());
    }
}

fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .trim()
        .strip_suffix(" kB")
        .unwrap()
        .parse()
        .unwrap()
}

/// Runs a host with 64 MiB in a group, makes the kernel reclaim, and returns what the host said and
/// its resident memory before and afterwards, in KiB. `prefix` is the start of its command line.
fn reclaim(prefix: &[&str]) -> Option<(String, u64, u64)> {
    let group = MemoryGroup::create_or_skip(256 * MIB)?;
    let program = wasm_prealloc_tests::commit().unwrap();
    let program = program.to_str().unwrap();
    let line = [prefix, &[program, "--pages", "1024", "--hold"]].concat();
    let mut command = group.command(line[0]);
    command
        .args(&line[1..])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let mut host = command.spawn().unwrap();
    let mut said = String::new();
    let mut answers = BufReader::new(host.stderr.take().unwrap());
    answers.read_line(&mut said).unwrap();
    let before = resident_kib(host.id());
    // The kernel reclaims as much as it can before it refuses a limit below the usage.
    for _ in 0..3 {
        let _ = group.set_limit(16 * MIB);
    }
    std::thread::sleep(Duration::from_millis(200));
    let after = resident_kib(host.id());
    drop(host.stdin.take());
    host.wait().unwrap();
    Some((said, before, after))
}

#[test]
fn zero_parts_of_huge_pages_are_not_taken_back() {
    let _lock = memory_lock().unwrap();
    if !Path::new(SHRINK_UNDERUSED).exists() {
        return skipped("the kernel does not take zero parts of huge pages back");
    }
    let _settings = match (
        Setting::set(MAX_PTES_NONE, "0"),
        Setting::set(SHRINK_UNDERUSED, "1"),
    ) {
        (Ok(one), Ok(other)) => [one, other],
        (Err(why), _) | (_, Err(why)) => {
            return skipped(&format!("huge pages cannot be configured: {why}"));
        }
    };
    // Without the permission to lock, the kernel takes them.
    let unlocked = ["setpriv", "--bounding-set=-ipc_lock"];
    let Some((said, before, after)) = reclaim(&unlocked) else {
        return;
    };
    if said.contains("locked") || after + 32 * 1024 > before {
        return skipped(&format!(
            "nothing was taken back: {said} {before}, {after} KiB"
        ));
    }
    let (said, before, after) = reclaim(&["env"]).unwrap();
    if !said.contains("locked") {
        return skipped("this process may not lock memory");
    }
    assert!(after + 1024 > before, "{before}, then {after} KiB: {said}");
}
