//! Indexes blocks one after the other: those that were given, or those that are appended to a file.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use crate::abi::Guest;
use crate::chain::Follower;
use crate::failure::Failure;
use crate::host::Host;
use crate::pools::Pools;
use crate::say;
use crate::service::{self, Service};
use crate::store::{Index, check_above};
use crate::times::Times;

/// The interval at which a file of blocks is read.
const POLL: Duration = Duration::from_millis(100);

/// The time between two reports of progress.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The blocks that this process stored.
#[derive(Default)]
pub(crate) struct Progress(Mutex<Blocks>);

#[derive(Default)]
pub(crate) struct Blocks {
    /// The time of each block, from its state to its end.
    pub(crate) times: Times,
    /// The last height that was stored, also by an earlier process.
    pub(crate) height: Option<u32>,
}

impl Progress {
    pub(crate) fn new(height: Option<u32>) -> Progress {
        let times = Times::default();
        Progress(Mutex::new(Blocks { times, height }))
    }

    pub(crate) fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine for blocks.
pub(crate) struct Indexer<'a> {
    pub(crate) host: Host,
    pub(crate) index: &'a Index,
    pub(crate) pools: &'a Pools,
    pub(crate) service: &'a Service,
    pub(crate) progress: &'a Progress,
    /// True if the guest's log is printed.
    pub(crate) log: bool,
    pub(crate) reported: Reported,
}

impl Indexer<'_> {
    /// Indexes the blocks that were given.
    pub(crate) fn index_all(
        &mut self,
        blocks: &[Vec<u8>],
        height: Option<u32>,
    ) -> Result<(), Failure> {
        let mut height = match (height, self.index.last_height()?) {
            (Some(height), Some(last)) => {
                check_above(height, last)?;
                height
            }
            (Some(height), None) => height,
            (None, _) => self.index.next_height()?,
        };
        for (number, block) in blocks.iter().enumerate() {
            if number > 0 {
                height = after(height)?;
            }
            if self.service.is_stopped() {
                let stopped = anyhow!("stopped by a signal before block {height}");
                return Err(Failure::Refused(stopped));
            }
            self.index_block(height, block)?;
        }
        Ok(())
    }

    /// Indexes the blocks of a file to which another process appends, until a signal stops it. A
    /// block that an earlier process indexed is skipped.
    pub(crate) fn follow(&mut self, path: &Path, height: Option<u32>) -> Result<(), Failure> {
        let next = self.index.next_height()?;
        let mut height = height.unwrap_or(0);
        let mut blocks = Follower::new(path);
        let mut is_idle = false;
        while !self.service.is_stopped() {
            let Some(block) = blocks.next_block()? else {
                if !is_idle {
                    service::set_status(&format!("waiting for block {height}"));
                    is_idle = true;
                }
                check_if_due(self.pools)?;
                thread::sleep(POLL);
                continue;
            };
            if height >= next {
                is_idle = false;
                self.index_block(height, &block)?;
            }
            height = after(height)?;
        }
        Ok(())
    }

    fn index_block(&mut self, height: u32, block: &[u8]) -> Result<(), Failure> {
        check_if_due(self.pools)?;
        let begin = Instant::now();
        let guest = Guest::block(height, block, self.index.snapshot()?, self.log);
        let flushed = self
            .host
            .run_block(guest)
            .with_context(|| format!("block {height} was not indexed"))
            .map_err(Failure::Refused)?;
        self.index
            .store_block(height, &flushed)
            .with_context(|| format!("block {height} was not stored"))?;
        let mut blocks = self.progress.blocks();
        blocks.times.record(begin.elapsed());
        blocks.height = Some(height);
        say(&format!("block {height}: {} values stored", flushed.len()));
        self.reported.report_if_due(blocks.times.count(), height);
        Ok(())
    }
}

/// Answers views until a signal stops it.
pub(crate) fn serve(pools: &Pools, service: &Service) -> Result<(), Failure> {
    service::set_status("answering views");
    while !service.is_stopped() {
        check_if_due(pools)?;
        thread::sleep(POLL);
    }
    Ok(())
}

fn check_if_due(pools: &Pools) -> Result<(), Failure> {
    pools
        .check_if_due()
        .context("secured memory was taken away, so no further block is begun")
        .map_err(Failure::Refused)
}

fn after(height: u32) -> anyhow::Result<u32> {
    let next = height.checked_add(1);
    next.with_context(|| format!("no height after {height}"))
}

/// The last report of progress.
pub(crate) struct Reported {
    at: Instant,
    blocks: u64,
}

impl Reported {
    pub(crate) fn now() -> Reported {
        Reported {
            at: Instant::now(),
            blocks: 0,
        }
    }

    /// Prints the number of blocks and their rate, if the last report is long enough ago.
    fn report_if_due(&mut self, blocks: u64, height: u32) {
        let elapsed = self.at.elapsed();
        if elapsed < REPORT_INTERVAL {
            return;
        }
        let rate = (blocks - self.blocks) as f64 / elapsed.as_secs_f64();
        let line = format!("{blocks} blocks stored, up to height {height}; {rate:.1} a second");
        eprintln!("{line}");
        service::set_status(&line);
        (self.at, self.blocks) = (Instant::now(), blocks);
    }
}
