//! Helpers of the integration tests.
#![allow(unsafe_code, reason = "tests of system calls")]
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

/// Runs a test of this binary again in a process of its own, with `variable` set, and checks that
/// it passes. Returns false in that process.
pub(crate) fn in_child_process(test: &str, variable: &str) -> bool {
    if std::env::var_os(variable).is_some() {
        return false;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let output = command
        .args([test, "--exact", "--nocapture"])
        .env(variable, "1")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{}\n{text}", output.status);
    for line in text.lines().filter(|line| line.starts_with("skipped: ")) {
        skipped(&line["skipped: ".len()..]);
    }
    true
}

/// Fills the process's table of mappings (`vm.max_map_count`) until the kernel refuses one more.
#[cfg(target_os = "linux")]
pub(crate) fn fill_the_table_of_mappings() -> usize {
    let mut mappings = 0;
    loop {
        // Neighbours differ in their protection, so the kernel does not merge them.
        let protection = if mappings % 2 == 0 {
            libc::PROT_NONE
        } else {
            libc::PROT_READ
        };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses replaces nothing.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return mappings;
        }
        mappings += 1;
    }
}

/// Makes system calls fail in this thread and in threads and processes that it makes from now on,
/// as a seccomp profile does.
#[cfg(target_os = "linux")]
pub(crate) fn deny_system_calls(calls: &[(libc::c_long, i32)]) {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // The number of the call is at the start of `seccomp_data`.
    let mut program = vec![instruction(load, 0, 0, 0)];
    for &(call, errno) in calls {
        let errno = libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
        program.push(instruction(equal, 0, 1, u32::try_from(call).unwrap()));
        program.push(instruction(answer, 0, 0, errno));
    }
    program.push(instruction(answer, 0, 0, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog {
        len: program.len().try_into().unwrap(),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the calls take numbers, and a filter that outlives the call.
    let outcomes = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const filter,
            ),
        ]
    };
    assert_eq!(outcomes, [0, 0], "{}", std::io::Error::last_os_error());
}
