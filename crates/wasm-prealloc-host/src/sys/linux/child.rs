//! A child process that commits memory of its own, and that the kernel's OOM killer prefers to
//! every other process.
//!
//! The child is made by clone(2) without a signal at its end, so that neither a handler of
//! `SIGCHLD` nor a waitpid(2) for any child takes its status. Other threads of the host may hold
//! locks at that moment, so the child makes system calls only: it neither allocates nor panics.

use std::io;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crate::sys::HUGE_PAGE_BYTES;
use crate::sys::page_bytes;

/// The size that the child populates at a time. The kernel delays a group above `memory.high` by up
/// to 2 s for as many bytes.
const STEP_BYTES: usize = 256 << 10;

/// The outcome of a child.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It committed everything, and ended.
    Committed,
    /// A signal ended it.
    Killed,
    /// A system call failed.
    Failed(&'static str, io::Error),
}

/// Memory that the child and this process share. Zero at first.
#[derive(Debug)]
struct Report {
    committed_bytes: AtomicU64,
    /// The index in [`CALLS`] of the call that failed, plus 1.
    failed: AtomicI32,
    errno: AtomicI32,
    done: AtomicI32,
}

const CALLS: [&str; 4] = [
    "prctl(PR_SET_PDEATHSIG)",
    "writing /proc/self/oom_score_adj",
    "mmap",
    "madvise(MADV_POPULATE_WRITE)",
];

/// A running child. It is killed when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    pid: libc::pid_t,
    report: NonNull<Report>,
    report_bytes: usize,
    waited_for: bool,
}

impl Child {
    /// Starts a child that writes one page in each 2 MiB of `spread_bytes`, and populates
    /// `whole_bytes`.
    pub(crate) fn start(spread_bytes: usize, whole_bytes: usize) -> io::Result<Child> {
        let weight = Weight::read();
        let mut child = Child {
            pid: 0,
            report: map(weight.window_bytes, libc::MAP_SHARED)?.cast::<Report>(),
            report_bytes: weight.window_bytes,
            waited_for: true,
        };
        let task = Task {
            report: child.report,
            // SAFETY: getpid has no preconditions.
            parent: unsafe { libc::getpid() },
            weight,
            spread_bytes,
            whole_bytes,
        };
        // No handler of the host may run in the child: it could write to a pipe that both share.
        let signals = BlockedSignals::new();
        // SAFETY: without flags, clone copies the process as fork(2) does. The arguments other than
        // the flags are zero, so their order, which differs between architectures, is of no
        // importance. The child makes system calls only, and does not return.
        child.pid = unsafe {
            let pid = libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0);
            if pid == 0 {
                task.run();
            }
            libc::pid_t::try_from(pid).unwrap_or(-1)
        };
        let error = io::Error::last_os_error();
        drop(signals);
        if child.pid < 0 {
            return Err(error);
        }
        child.waited_for = false;
        Ok(child)
    }

    /// Returns the size of the shared memory that a child maps besides what it commits.
    pub(crate) fn address_space_bytes() -> u64 {
        let weight = Weight::read();
        (weight.window_bytes * (weight.windows + 1)) as u64
    }

    /// Returns the number of bytes that the child has committed so far.
    pub(crate) fn committed_bytes(&self) -> u64 {
        self.report().committed_bytes.load(Ordering::Relaxed)
    }

    /// Returns the outcome, or `None` while the child runs. Not to be called again afterwards.
    pub(crate) fn outcome(&mut self) -> io::Result<Option<Outcome>> {
        if !self.wait(libc::WNOHANG)? {
            return Ok(None);
        }
        let report = self.report();
        if report.done.load(Ordering::Acquire) == 1 {
            return Ok(Some(Outcome::Committed));
        }
        let failed = report.failed.load(Ordering::Acquire);
        let call = usize::try_from(failed - 1)
            .ok()
            .and_then(|at| CALLS.get(at));
        Ok(Some(match call {
            Some(call) => {
                let errno = report.errno.load(Ordering::Relaxed);
                Outcome::Failed(call, io::Error::from_raw_os_error(errno))
            }
            None => Outcome::Killed,
        }))
    }

    /// Kills the child, if it was not waited for.
    pub(crate) fn kill(&self) {
        if !self.waited_for {
            // SAFETY: the child was not waited for, so the number is still its own.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
        }
    }

    /// Waits for the end of the child, and returns false if it still runs.
    fn wait(&mut self, options: libc::c_int) -> io::Result<bool> {
        loop {
            let mut status = 0;
            // SAFETY: the status is written to a local variable. `__WALL` includes children
            // without a signal at their end.
            let pid = unsafe { libc::waitpid(self.pid, &mut status, options | libc::__WALL) };
            if pid == 0 {
                return Ok(false);
            }
            if pid < 0 {
                match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => continue,
                    // Another wait of the host took the status. The report has the outcome.
                    error if error.raw_os_error() == Some(libc::ECHILD) => {}
                    error => return Err(error),
                }
            }
            self.waited_for = true;
            return Ok(true);
        }
    }

    fn report(&self) -> &Report {
        // SAFETY: the page is mapped as long as this value lives, zero is a valid report, and all
        // of its fields are atomic.
        unsafe { self.report.as_ref() }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        if !self.waited_for {
            // The kernel gives its memory back before this returns.
            let _ = self.wait(0);
        }
        // SAFETY: the page is this value's own.
        unsafe { libc::munmap(self.report.as_ptr().cast(), self.report_bytes) };
    }
}

/// Maps memory that is readable, writable and zero.
fn map(bytes: usize, sharing: libc::c_int) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping at an address that the kernel chooses replaces nothing.
    let mapping = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | sharing,
            -1,
            0,
        )
    };
    match NonNull::new(mapping.cast()) {
        Some(start) if mapping != libc::MAP_FAILED => Ok(start),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Blocks all signals of this thread, until dropped.
struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    fn new() -> BlockedSignals {
        let mut all = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: the calls fill both sets in, and cannot fail with these arguments.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::sigemptyset(before.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            BlockedSignals {
                before: before.assume_init(),
            }
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set was filled in when this value was made.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, ptr::null_mut()) };
    }
}

/// The resident memory that the child has to show beside what it commits.
///
/// The OOM killer compares resident memory, of which `oom_score_adj` is only a part: the limit of
/// the group counts as much as 1000 points. Pages of files and of shared memory are charged
/// elsewhere, and a fork copies neither those nor secured memory. So the child maps its shared
/// memory again and again, which takes an entry in a page table for each page, until it has as much
/// of it as this process.
#[derive(Debug, Clone, Copy)]
struct Weight {
    window_bytes: usize,
    windows: usize,
}

impl Weight {
    fn read() -> Weight {
        const WINDOW_BYTES: usize = 64 << 10;
        const MOST_WINDOWS: usize = 1 << 10;
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        // Sizes in pages: mapped, resident, and the part of files and shared memory.
        let pages = |field| {
            let text = read("/proc/self/statm");
            let pages = text.split_ascii_whitespace().nth(field)?.parse::<usize>();
            pages.ok()
        };
        // With points of its own, this process needs less memory to be preferred.
        let adjusted = read("/proc/self/oom_score_adj").trim().parse::<i32>();
        let field = match adjusted {
            Ok(..=0) => 2,
            _ => 1,
        };
        let bytes = pages(field).unwrap_or(0) * page_bytes();
        let window_bytes = bytes
            .div_ceil(MOST_WINDOWS)
            .next_multiple_of(WINDOW_BYTES)
            .max(WINDOW_BYTES);
        Weight {
            window_bytes,
            windows: bytes.div_ceil(window_bytes),
        }
    }

    /// Maps the shared memory again.
    fn add(self, shared: NonNull<u8>) {
        for _ in 0..self.windows {
            // SAFETY: for an old size of 0, mremap makes a second mapping of the same memory.
            let window = unsafe {
                libc::mremap(
                    shared.as_ptr().cast(),
                    0,
                    self.window_bytes,
                    libc::MREMAP_MAYMOVE,
                )
            };
            if window == libc::MAP_FAILED {
                return;
            }
            for at in (0..self.window_bytes).step_by(page_bytes()) {
                // SAFETY: the offset lies in the new mapping.
                unsafe { window.cast::<u8>().add(at).read_volatile() };
            }
        }
    }
}

/// The task of the child. It makes system calls only.
struct Task {
    report: NonNull<Report>,
    parent: libc::pid_t,
    weight: Weight,
    spread_bytes: usize,
    whole_bytes: usize,
}

impl Task {
    fn run(self) -> ! {
        let Task {
            spread_bytes,
            whole_bytes,
            ..
        } = self;
        // SAFETY: the memory is mapped in the child too, and zero is a valid report.
        let report = unsafe { self.report.as_ref() };
        let fail = |call: i32| -> ! {
            let errno = io::Error::last_os_error().raw_os_error();
            report.errno.store(errno.unwrap_or(0), Ordering::Relaxed);
            report.failed.store(call + 1, Ordering::Release);
            exit(1)
        };
        // SAFETY: the calls take numbers and constant strings. The descriptors are the child's
        // copies: without them it neither holds the lock of committers nor keeps a pipe of the host
        // open.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                fail(0);
            }
            if libc::getppid() != self.parent {
                exit(1);
            }
            libc::prctl(libc::PR_SET_NAME, c"prealloc-trial".as_ptr());
            let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY);
            if file < 0 || libc::write(file, c"1000".as_ptr().cast(), 4) != 4 {
                fail(1);
            }
            libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
        }
        self.weight.add(self.report.cast());
        let bytes = spread_bytes.saturating_add(whole_bytes);
        let Ok(start) = map(bytes, libc::MAP_PRIVATE) else {
            fail(2)
        };
        // SAFETY: the range was just mapped. A kernel without this advice has no huge pages.
        unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_NOHUGEPAGE) };
        let committed = |bytes: usize| {
            let bytes = bytes as u64;
            report.committed_bytes.fetch_add(bytes, Ordering::Relaxed);
        };
        for at in (0..spread_bytes).step_by(HUGE_PAGE_BYTES) {
            // SAFETY: the offset lies in the mapping.
            unsafe { start.add(at).write_volatile(1) };
            committed(page_bytes());
        }
        for at in (0..whole_bytes).step_by(STEP_BYTES) {
            let step = STEP_BYTES.min(whole_bytes - at);
            // SAFETY: the step lies in the mapping.
            if !unsafe { populate(start.add(spread_bytes + at), step) } {
                fail(3);
            }
            committed(step);
        }
        report.done.store(1, Ordering::Release);
        exit(0)
    }
}

/// Populates a range, and returns false if the kernel refuses.
///
/// # Safety
/// The range is mapped and writable.
unsafe fn populate(start: NonNull<u8>, bytes: usize) -> bool {
    const POPULATE: libc::c_int = linux_raw_sys::general::MADV_POPULATE_WRITE.cast_signed();
    loop {
        // SAFETY: the caller's promise.
        if unsafe { libc::madvise(start.as_ptr().cast(), bytes, POPULATE) } == 0 {
            return true;
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => {}
            // A kernel before Linux 5.14.
            Some(libc::EINVAL) => {
                for at in (0..bytes).step_by(page_bytes()) {
                    // SAFETY: the offset lies in the range.
                    unsafe { start.add(at).write_volatile(1) };
                }
                return true;
            }
            _ => return false,
        }
    }
}

/// Ends the child at once, without the host's functions that run at exit.
fn exit(status: libc::c_int) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}
