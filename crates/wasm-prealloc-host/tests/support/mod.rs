//! Helpers of the integration tests.
#![allow(dead_code, reason = "not every test binary uses all of them")]

use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Lets one test at a time commit much memory, whatever the number of test threads.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (pages, rest) = bytes.as_chunks::<4096>();
    pages.iter().all(|page| *page == [0; 4096]) && rest.iter().all(|&byte| byte == 0)
}

/// Reports a test that cannot run here. The test harness hides what passing tests print with
/// `println!`, so this writes to stderr directly.
pub(crate) fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// Reads a line of `/proc/self/status`, in KiB.
pub(crate) fn status_kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.trim_matches([':', '\t', ' ']).strip_suffix(" kB"));
    number.unwrap().parse().unwrap()
}
