//! The memory of the guests: the flags for it, the progress of its commit, the check that it is
//! still there, and the statistics of the pool.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use wasm_prealloc_host::{
    ApiItem, Backing, DEFAULT_MARGIN_BYTES, DEFAULT_PAGES, Error, LockMemory, LockOptions,
    MemoryPool, MemoryPoolBuilder, Policy, Progress, Stage, write_tracking,
};

use crate::service;

/// The time before the first report of progress, and between two reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The flags for the guests' memory. `wasm-prealloc preflight` has the same.
#[derive(clap::Args)]
pub(crate) struct MemoryOpts {
    /// The size that the guest's memory must have, in wasm pages of 64 KiB
    #[arg(long, default_value_t = DEFAULT_PAGES)]
    pages: u64,
    /// `declared` if the guest declares that size as minimum and maximum, `commit-maximum` if it is
    /// unchanged
    #[arg(long, default_value_t, value_name = "declared|commit-maximum")]
    policy: Policy,
    /// The kind of pages
    #[arg(
        long,
        default_value_t,
        value_name = "auto|base|transparent|hugetlb-2m|hugetlb-1g"
    )]
    backing: Backing,
    /// The bytes that must remain free under each limit on physical memory
    #[arg(long, alias = "margin", value_name = "BYTES", default_value_t = DEFAULT_MARGIN_BYTES)]
    margin_bytes: u64,
    /// Lock the memory, so that it is not swapped out: where permitted, or else fail, or not at
    /// all. Without a value it means `on`
    #[arg(
        long,
        value_name = "auto|on|off",
        num_args = 0..=1,
        require_equals = true,
        default_value_t,
        default_missing_value = "on"
    )]
    lock_memory: LockMemory,
    /// The file that hosts lock while they commit. Containers that share a memory limit need the
    /// same file on a shared volume
    #[arg(long, value_name = "PATH")]
    lock: Option<PathBuf>,
    /// The longest wait for hosts that commit, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    lock_timeout: u64,
    /// The time between two checks that the memory is still there, in seconds; 0 for no checks
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    check_interval: u64,
}

impl MemoryOpts {
    /// Returns a pool's options, which report the progress of securing.
    pub(crate) fn builder(&self) -> MemoryPoolBuilder {
        let mut lock = LockOptions::default();
        if let Some(path) = &self.lock {
            lock.path.clone_from(path);
        }
        lock.timeout = Duration::from_secs(self.lock_timeout);
        let path = lock.path.clone();
        let mut reported = None;
        let mut last = Instant::now();
        MemoryPool::builder()
            .pages(self.pages)
            .policy(self.policy)
            .backing(self.backing)
            .margin_bytes(self.margin_bytes)
            .lock_memory(self.lock_memory)
            .lock(lock)
            .on_progress(move |progress| {
                if last.elapsed() < REPORT_INTERVAL {
                    return;
                }
                last = Instant::now();
                let text = describe(progress, &path.display().to_string());
                service::set_status(&text);
                // systemd keeps one line, and the log needs one for each stage.
                if reported.replace(progress.stage) != Some(progress.stage) {
                    eprintln!("{text}");
                }
            })
    }

    /// Returns the time between two checks of a pool.
    pub(crate) fn check_interval(&self) -> Option<Duration> {
        (self.check_interval > 0).then(|| Duration::from_secs(self.check_interval))
    }
}

fn describe(progress: Progress, lock: &str) -> String {
    let total = progress.total_bytes >> 20;
    match progress.stage {
        Stage::WaitingForLock => {
            format!("waiting for another host that commits memory (lock {lock})")
        }
        Stage::Trial => format!("a child process commits {total} MiB on trial"),
        Stage::Committing => {
            let committed = progress.committed_bytes >> 20;
            format!("committing memory: {committed} of {total} MiB")
        }
        _ => format!("securing {total} MiB"),
    }
}

/// Replaces the names of the library's API in a message by flags. The match has no `_` arm, so that
/// a new item cannot be forgotten.
pub(crate) fn in_flags(message: &str) -> String {
    ApiItem::rename(message, |item| {
        Some(match item {
            ApiItem::BackingAuto => "--backing auto".to_owned(),
            ApiItem::PolicyDeclared => "--policy declared".to_owned(),
            ApiItem::PolicyCommitMaximum => "--policy commit-maximum".to_owned(),
            ApiItem::Pages => "--pages N".to_owned(),
            ApiItem::LockMemoryAuto => "--lock-memory=auto".to_owned(),
            ApiItem::LockPath => "--lock PATH".to_owned(),
            ApiItem::LockTimeout => "--lock-timeout SECONDS".to_owned(),
            // This host has one slot, one instance at a time, and no flags for these.
            ApiItem::Slots
            | ApiItem::Wait
            | ApiItem::Secure
            | ApiItem::Configure
            | ApiItem::Engine
            | ApiItem::Limiter
            | ApiItem::TableElements
            | ApiItem::EngineHeapBytes => return None,
        })
    })
}

/// A pool whose residency is checked at intervals.
pub(crate) struct CheckedPool {
    pub(crate) pool: MemoryPool,
    interval: Option<Duration>,
    checked: Instant,
    checks: u64,
}

impl CheckedPool {
    pub(crate) fn new(pool: MemoryPool, interval: Option<Duration>) -> CheckedPool {
        CheckedPool {
            pool,
            interval,
            checked: Instant::now(),
            checks: 0,
        }
    }

    /// Checks that all of the memory is still there, if the last check is long enough ago.
    pub(crate) fn check_if_due(&mut self) -> Result<(), Error> {
        if self
            .interval
            .is_some_and(|interval| self.checked.elapsed() >= interval)
        {
            self.checked = Instant::now();
            match self.pool.check() {
                Ok(_) => self.checks += 1,
                // A process that is not dumpable cannot read its own page tables.
                Err(error @ Error::Unreadable { .. }) => {
                    eprintln!("warning: the memory is not checked again: {error}");
                    self.interval = None;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Prints what was secured.
    pub(crate) fn report_secured(&self) {
        if let Some(secured) = self.pool.secured() {
            eprintln!("secured: {secured}");
            service::set_status(&format!("secured: {secured}"));
        }
        if let (Policy::Declared, Err(error)) = (self.pool.policy(), write_tracking()) {
            let error = in_flags(&error.to_string());
            eprintln!("warning: each block zeroes its whole slot: {error}");
        }
    }
}

/// The statistics of the pool, on one line.
impl fmt::Display for CheckedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let statistics = self.pool.statistics();
        write!(
            f,
            "pool: {} loans of {} slots ({} retired); resets: {} with write tracking ({} failed), {} \
             up to the enforced size, {} of the whole slot; {} MiB zeroed in {:.3} s; {} checks of \
             residency",
            statistics.loans,
            statistics.slots,
            statistics.retired,
            statistics.watermark_resets,
            statistics.tracking_failures,
            statistics.high_water_resets,
            statistics.full_resets,
            statistics.zeroed_bytes >> 20,
            statistics.reset_time.as_secs_f64(),
            self.checks,
        )
    }
}
