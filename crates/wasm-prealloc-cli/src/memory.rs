//! Shared parts of `run` and `preflight`: the flags for the commit of memory, its progress on a
//! terminal, and the names of flags in messages of the library.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use clap::builder::PossibleValue;
use indicatif::{ProgressBar, ProgressStyle};
use wasm_prealloc_host::{
    ApiItem, Assurance, Backing, Condition, DEFAULT_MARGIN_BYTES, Error, LockMemory, LockOptions,
    MemoryPool, MemoryPoolBuilder, Policy, PolicyError, PolicyKind, Progress, Stage,
};

use crate::names::names;

/// The flags for the commit of memory.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Committed memory")]
pub(crate) struct MemoryOpts {
    /// The limits that a module must declare, and the size that it sees
    #[arg(long, value_name = "POLICY", default_value_t, value_parser = names::<PolicyKind>(policies()))]
    pub(crate) policy: PolicyKind,

    /// The kind of pages
    #[arg(long, value_name = "BACKING", default_value_t, value_parser = names::<Backing>(backings()))]
    backing: Backing,

    /// The bytes that must remain free under each limit on physical memory
    #[arg(
        long,
        alias = "margin",
        value_name = "BYTES",
        default_value_t = DEFAULT_MARGIN_BYTES
    )]
    margin_bytes: u64,

    /// Lock the memory, so that it is not swapped out. Without a value it means `on`
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_value_t,
        default_missing_value = "on",
        value_parser = names::<LockMemory>(lock_memory())
    )]
    lock_memory: LockMemory,

    /// Whether the memory has to be secured [default: what WASM_PREALLOC_ASSURANCE says, or
    /// required]
    #[arg(long, value_name = "ASSURANCE", value_parser = names::<Assurance>(assurances()))]
    assurance: Option<Assurance>,

    /// The file that hosts lock while they commit, so that one commits at a time. Hosts in
    /// containers that share a limit need the same file on a shared volume [default: a file that
    /// all hosts of the machine find]
    #[arg(long, value_name = "PATH")]
    lock: Option<PathBuf>,

    /// The longest wait for hosts that commit, in seconds [default: 120]
    #[arg(long, value_name = "SECONDS")]
    lock_timeout: Option<u64>,
}

impl MemoryOpts {
    /// Returns the policy. `pages` is the value of `--pages`, if it was given.
    pub(crate) fn policy(&self, pages: Option<u64>) -> Result<Policy> {
        let policy = self.policy.policy(pages);
        policy.with_context(|| format!("`--policy {}` needs `--pages N`, the cap", self.policy))
    }

    /// Sets a pool's options, except its policy, as the flags say.
    pub(crate) fn apply(&self, builder: MemoryPoolBuilder) -> MemoryPoolBuilder {
        let builder = match self.assurance {
            Some(assurance) => builder.assurance(assurance),
            None => builder,
        };
        builder
            .backing(self.backing)
            .margin_bytes(self.margin_bytes)
            .lock_memory(self.lock_memory)
            .lock(self.lock_options())
    }

    /// Sets the options of a further pool, which is secured together with the first. Pages of the
    /// machine's pool suit only memories that do not grow.
    pub(crate) fn apply_to_further(&self, builder: MemoryPoolBuilder) -> MemoryPoolBuilder {
        let backing = match self.backing {
            Backing::HugeTlb2M | Backing::HugeTlb1G => Backing::Auto,
            other => other,
        };
        self.apply(builder).backing(backing)
    }

    /// Sets a pool's options as [`apply`](Self::apply) does, and shows the progress of securing.
    pub(crate) fn apply_with_progress(&self, builder: MemoryPoolBuilder) -> MemoryPoolBuilder {
        let mut display = Display::new(self.lock_options().path);
        let builder = self.apply(builder);
        builder.on_progress(move |progress| display.update(progress))
    }

    /// Prints a warning if nothing is secured. The library does that where the environment chose it.
    pub(crate) fn warn_if_unsecured(&self, pool: &MemoryPool) {
        if let (Some(_), Some(report)) = (self.assurance, pool.unsecured()) {
            eprintln!("warning: {}", in_flags(&report));
        }
    }

    /// Returns true if a condition weakens the memory that these flags describe.
    pub(crate) fn concerns(&self, condition: &Condition, locks_memory: bool) -> bool {
        let is_transparent = matches!(self.backing, Backing::Auto | Backing::Transparent);
        match condition {
            Condition::Swap { .. } => !locks_memory,
            Condition::UnderusedHugePages { .. } => is_transparent && !locks_memory,
            Condition::NoHugePages { .. } => is_transparent,
            Condition::SharedLock { .. } => self.lock.is_none(),
            Condition::NoWriteTracking { .. } => self.policy == PolicyKind::Declared,
            // The others concern the process or its group.
            _ => true,
        }
    }

    fn lock_options(&self) -> LockOptions {
        let mut options = LockOptions::default();
        if let Some(path) = &self.lock {
            options.path.clone_from(path);
        }
        if let Some(seconds) = self.lock_timeout {
            options.timeout = Duration::from_secs(seconds);
        }
        options
    }
}

// The lengths of these lists make a new value of the library an error here.

/// Returns the policies of a pool with their help.
fn policies() -> [PossibleValue; PolicyKind::ALL.len()] {
    [
        (
            PolicyKind::Declared,
            "The minimum equals the maximum, and all of it is accessible",
        ),
        (
            PolicyKind::CommitMaximum,
            "Any limits: the maximum is committed, and the module sees its current size",
        ),
        (
            PolicyKind::Cap,
            "Any limits: `--pages` are committed, and growth beyond them returns -1",
        ),
    ]
    .map(|(policy, help)| PossibleValue::new(policy.as_str()).help(help))
}

/// Returns the backings with their help.
fn backings() -> [PossibleValue; Backing::ALL.len()] {
    [
        (Backing::Auto, "Transparent huge pages, if available"),
        (Backing::Base, "The operating system's base pages"),
        (Backing::Transparent, "Transparent huge pages, or an error"),
        (Backing::HugeTlb2M, "The machine's pool of 2 MiB pages"),
        (Backing::HugeTlb1G, "The machine's pool of 1 GiB pages"),
    ]
    .map(|(backing, help)| PossibleValue::new(backing.as_str()).help(help))
}

/// Returns the choices of assurance with their help.
fn assurances() -> [PossibleValue; Assurance::ALL.len()] {
    [
        (Assurance::Required, "Secure it, or fail"),
        (
            Assurance::BestEffort,
            "Secure it if possible, or else run without, with a warning",
        ),
        (
            Assurance::Off,
            "Commit nothing, for development: the program can be killed while it runs",
        ),
    ]
    .map(|(choice, help)| PossibleValue::new(choice.as_str()).help(help))
}

/// Returns the choices for locking memory with their help.
fn lock_memory() -> [PossibleValue; LockMemory::ALL.len()] {
    [
        (
            LockMemory::Auto,
            "Lock it where that is permitted, and print what was done",
        ),
        (LockMemory::On, "Lock it, or fail"),
        (LockMemory::Off, "Do not lock it"),
    ]
    .map(|(choice, help)| PossibleValue::new(choice.as_str()).help(help))
}

/// Securing that takes less time shows no progress.
const PROGRESS_DELAY: Duration = Duration::from_millis(800);

const BAR: &str = "{msg} [{bar:40}] {bytes}/{total_bytes}";

/// Shows the progress of securing if it takes long: memory that a virtual machine has not used
/// before can take 15 s for 4 GiB, and another host can hold the lock for as long.
struct Display {
    lock: PathBuf,
    // The styles are allocated before the memory is near a limit.
    waiting: ProgressStyle,
    committing: ProgressStyle,
    since: Option<Instant>,
    bar: Option<ProgressBar>,
    stage: Option<Stage>,
}

impl Display {
    fn new(lock: PathBuf) -> Self {
        let style = |template| ProgressStyle::with_template(template);
        Self {
            lock,
            waiting: style("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()),
            committing: style(BAR).unwrap_or_else(|_| ProgressStyle::default_bar()),
            since: None,
            bar: None,
            stage: None,
        }
    }

    fn update(&mut self, progress: Progress) {
        let waited = self.since.get_or_insert_with(Instant::now).elapsed();
        if waited < PROGRESS_DELAY {
            return;
        }
        let bar = self
            .bar
            .get_or_insert_with(|| ProgressBar::new(progress.total_bytes));
        let is_new = self.stage.replace(progress.stage) != Some(progress.stage);
        if progress.stage == Stage::WaitingForLock {
            let lock = self.lock.display();
            let text = format!("waiting for another host that commits memory (lock {lock})");
            if is_new {
                bar.set_style(self.waiting.clone());
                // Without a terminal the bar draws nothing, and the wait can be long.
                if bar.is_hidden() {
                    eprintln!("{text}");
                }
            }
            bar.set_message(format!("{text} {} s", waited.as_secs()));
            return;
        }
        if is_new {
            bar.set_style(self.committing.clone());
            bar.set_message(match progress.stage {
                Stage::Trial => "committing memory on trial",
                _ => "committing memory",
            });
        }
        bar.set_position(progress.committed_bytes);
        let is_done = progress.committed_bytes == progress.total_bytes;
        if is_done && progress.stage == Stage::Committing {
            bar.finish_and_clear();
        }
    }
}

/// Returns the message of an error, in which flags are named instead of the library's API.
pub(crate) fn with_flags(error: impl Into<Error>) -> anyhow::Error {
    let error = error.into();
    let pages = match error.policy() {
        Some(PolicyError::SlotTooSmall { maximum, .. }) => *maximum,
        Some(PolicyError::AboveCap { minimum, .. }) => Some(*minimum),
        _ => None,
    };
    let message = error.to_string();
    let renamed = with_pages(&message, pages);
    match renamed == message {
        true => error.into(),
        false => anyhow!(renamed),
    }
}

/// Returns a message of the library, in which flags are named instead of its API.
pub(crate) fn in_flags(message: &str) -> String {
    with_pages(message, None)
}

/// Replaces the names of the library's API by flags. The match over [`ApiItem`] has no `_` arm, so
/// that an item of a new message cannot be forgotten. `pages` is the number of pages to choose.
fn with_pages(message: &str, pages: Option<u64>) -> String {
    ApiItem::rename(message, |item| {
        Some(match item {
            ApiItem::BackingAuto => "--backing auto".to_owned(),
            ApiItem::PolicyDeclared => "--policy declared".to_owned(),
            ApiItem::PolicyCommitMaximum => "--policy commit-maximum".to_owned(),
            ApiItem::Pages | ApiItem::Cap => match pages {
                Some(pages) => format!("--pages {pages}"),
                None => "--pages N".to_owned(),
            },
            ApiItem::Slots => "--slots N".to_owned(),
            ApiItem::LockMemoryAuto => "--lock-memory=auto".to_owned(),
            ApiItem::LockPath => "--lock PATH".to_owned(),
            ApiItem::LockTimeout => "--lock-timeout SECONDS".to_owned(),
            ApiItem::TableElements => "--table-elements N".to_owned(),
            ApiItem::EngineHeapBytes => "--engine-heap-bytes N".to_owned(),
            ApiItem::Assurance => "--assurance".to_owned(),
            // `run` has one instance, which has all of its slots, so it never waits. It makes its
            // engine, limits its store and secures its pool itself, so an error that asks for it is
            // a defect.
            ApiItem::Wait
            | ApiItem::Secure
            | ApiItem::Configure
            | ApiItem::Engine
            | ApiItem::Limiter => return None,
        })
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use wasm_prealloc_host::{LendError, Limit, SecureError};

    use super::*;

    #[test]
    fn errors_name_flags_and_no_items_of_the_library() {
        let huge_pages = SecureError::NoHugePages {
            collapsed_bytes: 0,
            needed_bytes: 1,
        };
        let growth = SecureError::GrowthNotAssured {
            limit: Limit::DataSegment,
        };
        let slot = LendError::Policy(PolicyError::SlotTooSmall {
            maximum: Some(17),
            slot_pages: 16,
        });
        let cap = LendError::Policy(PolicyError::AboveCap {
            minimum: 18,
            cap: 16,
        });
        let path = PathBuf::from("/lock");
        let lock = SecureError::Lock {
            path: path.clone(),
            source: io::ErrorKind::NotFound.into(),
        };
        let waited = Duration::from_secs(120);
        let timeout = SecureError::LockTimeout { path, waited };
        for (error, flag) in [
            (Error::from(huge_pages), "(`--backing auto`)"),
            (growth.into(), "use `--policy declared`"),
            (slot.into(), "(`--pages 17`)"),
            (cap.into(), "(`--pages 18`)"),
            (lock.into(), "(`--lock PATH`)"),
            (timeout.into(), "(`--lock-timeout SECONDS`)"),
        ] {
            let message = with_flags(error).to_string();
            assert!(
                message.contains(flag) && !message.contains("::"),
                "{message}"
            );
        }
    }
}
