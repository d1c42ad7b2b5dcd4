//! Advice that names a number is enough when exactly that number is set: each test lets a host be
//! refused, sets what the refusal advises, and runs the host again, for several rounds.
//!
//! Strict overcommit and mappings are settings of the whole machine: recorded trees test them in
//! the host's crate.

use std::process::Command;

use wasm_prealloc_tests::limits::BACKINGS;
use wasm_prealloc_tests::{MIB, MemoryGroup, memory_lock, skipped};

use crate::limits::{REFUSED, SECURED, commit};
use crate::processes::{expect_parts, expect_status};

/// Returns the number that follows `words` in a message.
#[track_caller]
pub(crate) fn advised(text: &str, words: &str) -> u64 {
    let Some((_, rest)) = text.split_once(words) else {
        panic!("{words:?} is missing: {text}");
    };
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// Two hosts use different amounts besides their memory, and the kernel charges different amounts in
/// advance.
#[test]
fn the_advised_limit_of_a_cgroup_is_enough() {
    let _lock = memory_lock().unwrap();
    for backing in BACKINGS {
        let backing = backing.to_string();
        for round in 0..12_u64 {
            let pages = (257 + 100 * round).to_string();
            let arguments = [
                "--pages",
                &pages,
                "--backing",
                &backing,
                "--margin-bytes",
                "0",
            ];
            let Some(refusing) = MemoryGroup::create_or_skip(16 * MIB) else {
                return;
            };
            let run = |group: &MemoryGroup| commit(&format!("{} exec", group.enter()), &arguments);
            let text = expect_status(&run(&refusing), REFUSED);
            let bytes = advised(&text, "raise this limit to at least ");
            assert_eq!(bytes % MIB, 0, "rounded for people: {text}");
            let enough = MemoryGroup::create(bytes).unwrap();
            expect_status(&run(&enough), SECURED);
            assert_eq!(
                refusing.oom_kills().unwrap() + enough.oom_kills().unwrap(),
                0
            );
        }
    }
}

/// Runs a host under a limit of its shell that is too low, and then under exactly the advised one.
#[track_caller]
fn ulimit_is_enough(ulimit: &str, too_low_kib: u64, prefix: &str, arguments: &[&str]) {
    let run = |kib: u64| {
        commit(
            &format!("ulimit {ulimit} {kib} && exec {prefix}"),
            arguments,
        )
    };
    let text = expect_status(&run(too_low_kib), REFUSED);
    let kib = advised(&text, &format!(": ulimit {ulimit} "));
    assert!(kib > too_low_kib, "{text}");
    expect_status(&run(kib), SECURED);
}

#[test]
fn the_advised_address_space_and_data_segment_are_enough() {
    let _lock = memory_lock().unwrap();
    for round in 0..6_u64 {
        let pages = (100 + 333 * round).to_string();
        let arguments = ["--pages", &pages, "--margin-bytes", "0"];
        ulimit_is_enough("-v", 300_000, "", &arguments);
        ulimit_is_enough("-d", 6_000, "", &arguments);
    }
}

/// A process with CAP_IPC_LOCK has no such limit.
#[test]
fn the_advised_locked_memory_is_enough() {
    const DROP: &str = "setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock";
    let mut probe = Command::new("sh");
    probe.args(["-c", &format!("{DROP} true")]);
    if !probe.output().is_ok_and(|output| output.status.success()) {
        return skipped("CAP_IPC_LOCK cannot be dropped here");
    }
    let _lock = memory_lock().unwrap();
    for pages in ["1", "31", "33", "100"] {
        let arguments = ["--pages", pages, "--lock-memory", "--margin-bytes", "0"];
        ulimit_is_enough("-l", 32, DROP, &arguments);
    }
}

/// The machine's pool of huge pages, put back when dropped.
struct Pool {
    file: &'static str,
    before: String,
}

impl Pool {
    fn set(&self, pages: &str) -> bool {
        let written = std::fs::write(self.file, pages);
        let now = std::fs::read_to_string(self.file).unwrap_or_default();
        written.is_ok() && now.trim() == pages.trim()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.set(&self.before);
    }
}

#[test]
fn the_advised_number_of_huge_pages_is_enough() {
    let file = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    let Ok(before) = std::fs::read_to_string(file) else {
        return skipped("the kernel has no pool of huge pages");
    };
    let _lock = memory_lock().unwrap();
    let pool = Pool { file, before };
    if !pool.set("0") {
        return skipped("the pool of huge pages cannot be changed here");
    }
    let arguments = ["--pages", "1024", "--backing", "hugetlb-2m"];
    for _ in 0..3 {
        let text = expect_status(&commit("exec", &arguments), REFUSED);
        expect_parts(&text, &[file]);
        let pages = advised(&text, "have at least ").to_string();
        if !pool.set(&pages) {
            return skipped("the kernel has not enough unfragmented memory for the pool");
        }
        expect_status(&commit("exec", &arguments), SECURED);
        assert!(pool.set("0"), "nothing uses the pool");
    }
}
