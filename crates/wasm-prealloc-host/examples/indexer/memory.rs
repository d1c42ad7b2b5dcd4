//! The flags for the guests' memory, and the progress of its commit. Blocks and views have a pool
//! each.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use wasm_prealloc_host::{
    ApiItem, Assurance, Backing, DEFAULT_MARGIN_BYTES, DEFAULT_PAGES, LockMemory, LockOptions,
    MemoryPool, MemoryPoolBuilder, PolicyKind, Progress, Reset, Stage,
};

use crate::service;

/// The time before the first report of progress, and between two reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The flags for the guests' memory. `wasm-prealloc preflight` has the same.
#[derive(clap::Args)]
pub(crate) struct MemoryOpts {
    /// The size of the guest's memory, in wasm pages of 64 KiB [default: 65536; the policy `cap`
    /// needs a number]
    #[arg(long, required_if_eq("policy", "cap"))]
    pages: Option<u64>,
    /// `declared` if the guest declares that size as minimum and maximum, `commit-maximum` if it is
    /// unchanged and its maximum fits, `cap` if it is unchanged and may not grow beyond that size
    #[arg(long, default_value_t, value_name = "declared|commit-maximum|cap")]
    policy: PolicyKind,
    /// The number of memories for blocks: 1, or 2, so that one is zeroed while the next block runs
    #[arg(long, value_name = "1|2", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    block_slots: u8,
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
    /// Whether the memory has to be secured; `off` is for development. Else the environment variable
    /// WASM_PREALLOC_ASSURANCE says it
    #[arg(long, value_name = "required|best-effort|off")]
    assurance: Option<Assurance>,
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

/// The flags for views, and for their memory.
#[derive(clap::Args)]
pub(crate) struct ViewMemoryOpts {
    /// The number of views that run at the same time over HTTP, each in a memory of its own
    #[arg(long, value_name = "N", default_value_t = 0, requires = "listen")]
    pub(crate) views: usize,
    /// The size of a view's memory, in wasm pages of 64 KiB
    #[arg(long, value_name = "PAGES", default_value_t = 4096)]
    view_pages: u64,
    /// As --policy, for the module that answers views
    #[arg(long, value_name = "declared|commit-maximum|cap", default_value_t = PolicyKind::Cap)]
    view_policy: PolicyKind,
    /// The module that answers views [default: the guest]
    #[arg(long, value_name = "FILE")]
    pub(crate) view_module: Option<PathBuf>,
    /// The number of views that may wait for a memory; one more is refused
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) waiting_views: usize,
    /// The longest time that a view may run, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) view_timeout: u32,
}

impl MemoryOpts {
    /// Returns the options of the pool for blocks.
    pub(crate) fn for_blocks(&self) -> MemoryPoolBuilder {
        let pages = self.pages.unwrap_or(DEFAULT_PAGES);
        self.builder(self.block_slots.into(), pages, self.policy)
            .reset(match self.block_slots {
                1 => Reset::Inline,
                _ => Reset::Background,
            })
    }

    /// Returns the options of the pool for views.
    pub(crate) fn for_views(&self, views: &ViewMemoryOpts, slots: usize) -> MemoryPoolBuilder {
        self.builder(slots, views.view_pages, views.view_policy)
    }

    /// Returns a pool's options.
    fn builder(&self, slots: usize, pages: u64, kind: PolicyKind) -> MemoryPoolBuilder {
        // Every kind has a policy of a number of pages.
        let policy = kind.policy(Some(pages)).unwrap_or_default();
        let mut lock = LockOptions::default();
        if let Some(path) = &self.lock {
            lock.path.clone_from(path);
        }
        lock.timeout = Duration::from_secs(self.lock_timeout);
        let builder = match self.assurance {
            Some(assurance) => MemoryPool::builder().assurance(assurance),
            None => MemoryPool::builder(),
        };
        builder
            .slots(slots)
            .pages(pages)
            .policy(policy)
            .backing(self.backing)
            .margin_bytes(self.margin_bytes)
            .lock_memory(self.lock_memory)
            .lock(lock)
    }

    /// Lets a pool report the progress of securing. Pools that are secured together report all of it,
    /// so one of them is enough.
    pub(crate) fn reporting(&self, pool: MemoryPoolBuilder) -> MemoryPoolBuilder {
        let path = self.lock.clone();
        let path = path.unwrap_or_else(|| LockOptions::default().path);
        let mut reported = None;
        let mut last = Instant::now();
        pool.on_progress(move |progress| {
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

/// The two uses of memory, which have flags of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Blocks,
    Views,
}

/// Replaces the names of the library's API in a message by flags. The match has no `_` arm, so that
/// a new item cannot be forgotten.
pub(crate) fn in_flags(message: &str, of: Use) -> String {
    ApiItem::rename(message, |item| {
        let flag = match (item, of) {
            (ApiItem::BackingAuto, _) => "--backing auto",
            (ApiItem::PolicyDeclared, Use::Blocks) => "--policy declared",
            (ApiItem::PolicyDeclared, Use::Views) => "--view-policy declared",
            (ApiItem::PolicyCommitMaximum, Use::Blocks) => "--policy commit-maximum",
            (ApiItem::PolicyCommitMaximum, Use::Views) => "--view-policy commit-maximum",
            (ApiItem::Pages | ApiItem::Cap, Use::Blocks) => "--pages N",
            (ApiItem::Pages | ApiItem::Cap, Use::Views) => "--view-pages N",
            (ApiItem::Slots, Use::Blocks) => "--block-slots 2",
            (ApiItem::Slots, Use::Views) => "--views N",
            (ApiItem::LockMemoryAuto, _) => "--lock-memory=auto",
            (ApiItem::LockPath, _) => "--lock PATH",
            (ApiItem::LockTimeout, _) => "--lock-timeout SECONDS",
            (ApiItem::Assurance, _) => "--assurance",
            // This host does these itself.
            (
                ApiItem::Wait
                | ApiItem::Secure
                | ApiItem::Configure
                | ApiItem::Engine
                | ApiItem::Limiter
                | ApiItem::TableElements
                | ApiItem::EngineHeapBytes,
                _,
            ) => return None,
        };
        Some(flag.to_owned())
    })
}
