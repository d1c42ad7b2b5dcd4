//! What a pool is to be, and securing it: policies, options, and the two steps from one to the other.
//!
//! What a pool does then is in `pool`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::commit::lock::LockOptions;
use crate::commit::requirements::{Backing, Requirements};
use crate::commit::secure::{Progress, Secured, extent, need_of_many, secure_many};
use crate::error::Error;
use crate::limits::headroom::{Headroom, Need};
use crate::limits::limit::Limit;
use crate::pool::memory_pool::MemoryPool;
use crate::pool::slot::{GUARD_BYTES, RESERVATION_BYTES, Slot};
use crate::sys::Tracker;

/// Which modules a pool serves, and what they see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Policy {
    /// The module declares a minimum and a maximum equal to the slot's size, as
    /// `wasm-prealloc rewrite` makes it. All of the slot is accessible.
    #[default]
    Declared,
    /// The module is as it came. Its maximum is committed, and it sees its current size: growth
    /// up to the maximum cannot fail, and what lies beyond the current size traps.
    CommitMaximum,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Policy::Declared => "declared",
            Policy::CommitMaximum => "commit-maximum",
        })
    }
}

/// What happens when memory is asked for and every slot is lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum WhenExhausted {
    /// [`Error::NoSlot`] at once.
    #[default]
    Fail,
    /// The thread waits until one comes back, and gets [`Error::NoSlot`] after this time. In an
    /// asynchronous host that blocks the executor's thread too.
    Wait(Duration),
}

/// How it is found out what an instance wrote, where its size does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Tracking {
    /// The kernel's write tracking (Linux 6.7) where it is to be had, nothing otherwise.
    #[default]
    Auto,
    /// Nothing: everything is zeroed each time.
    Off,
}

/// Says what a pool is to be; see [`MemoryPool::builder`].
#[derive(Default)]
#[must_use = "nothing is secured yet"]
pub struct MemoryPoolBuilder {
    requirements: Requirements,
    slots: Option<usize>,
    policy: Policy,
    when_exhausted: WhenExhausted,
    tracking: Tracking,
    progress: Option<Box<dyn FnMut(Progress) + Send>>,
}

impl fmt::Debug for MemoryPoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryPoolBuilder")
            .field("requirements", &self.requirements)
            .field("slots", &self.slots)
            .field("policy", &self.policy)
            .field("when_exhausted", &self.when_exhausted)
            .field("tracking", &self.tracking)
            .finish_non_exhaustive()
    }
}

impl MemoryPoolBuilder {
    /// How many memories can be lent at a time: one for each memory that a live instance
    /// defines. The default is 1.
    pub fn slots(mut self, slots: usize) -> Self {
        self.slots = Some(slots);
        self
    }

    /// The size of each slot in wasm pages of 64 KiB, from 1 to 65,536, which is the default.
    pub fn pages(mut self, pages: u64) -> Self {
        self.requirements.pages = pages;
        self
    }

    /// What each limit on physical memory must leave beyond the need, in bytes. The default is
    /// [`DEFAULT_MARGIN_BYTES`](crate::DEFAULT_MARGIN_BYTES).
    pub fn margin_bytes(mut self, bytes: u64) -> Self {
        self.requirements.margin_bytes = bytes;
        self
    }

    /// How pages are obtained.
    pub fn backing(mut self, backing: Backing) -> Self {
        self.requirements.backing = backing;
        self
    }

    /// How hosts on one machine wait for each other.
    pub fn lock(mut self, lock: LockOptions) -> Self {
        self.requirements.lock = lock;
        self
    }

    /// Whether the memory is kept from being swapped out, see mlock(2).
    pub fn lock_memory(mut self, lock_memory: bool) -> Self {
        self.requirements.lock_memory = lock_memory;
        self
    }

    /// Which modules are served, and what they see.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// What happens when every slot is lent.
    pub fn when_exhausted(mut self, when_exhausted: WhenExhausted) -> Self {
        self.when_exhausted = when_exhausted;
        self
    }

    /// How it is found out what an instance wrote.
    pub fn tracking(mut self, tracking: Tracking) -> Self {
        self.tracking = tracking;
        self
    }

    /// Is told how far securing has come, at least every 64 MiB. It runs near whatever limit
    /// there is, and should need no memory to speak of.
    pub fn on_progress(mut self, progress: impl FnMut(Progress) + Send + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// What the pool will need under each limit, all slots together: compare it with
    /// [`Headroom::read`].
    ///
    /// # Errors
    ///
    /// [`Error::PageCount`] and [`Error::Backing`] where no pool can be so.
    pub fn need(&self) -> Result<Need, Error> {
        need_of_many(
            &self.requirements,
            &extent(&self.requirements, RESERVATION_BYTES, GUARD_BYTES)?,
            self.slots.unwrap_or(1),
        )
    }

    /// Secures all slots.
    ///
    /// # Errors
    ///
    /// As for [`PreparedPool::secure`].
    pub fn secure(self) -> Result<MemoryPool, Error> {
        self.prepare().secure()
    }

    /// Makes a pool that an engine can be configured with before its memory is secured, so that
    /// modules can be compiled, and found wanting, before 4 GiB are committed for them.
    pub fn prepare(self) -> PreparedPool {
        let slots = self.slots.unwrap_or(1);
        PreparedPool {
            pool: MemoryPool::without_memory(
                self.requirements.pages,
                slots,
                self.policy,
                self.when_exhausted,
            ),
            slots,
            builder: self,
        }
    }
}

/// A pool without its memory; see [`MemoryPoolBuilder::prepare`].
#[derive(Debug)]
#[must_use = "nothing is secured yet"]
pub struct PreparedPool {
    pub(crate) pool: MemoryPool,
    slots: usize,
    builder: MemoryPoolBuilder,
}

impl PreparedPool {
    /// Secures all slots, or none of them.
    ///
    /// # Errors
    ///
    /// [`Error::Shortfall`] names the limit that leaves too little. [`Error::Backing`] and
    /// [`Error::GrowthNotAssured`] where what is required does not go together here. Other
    /// variants say why memory could not be asked for, or was refused although every limit
    /// allows it. Nothing stays mapped.
    pub fn secure(mut self) -> Result<MemoryPool, Error> {
        let requirements = &self.builder.requirements;
        let policy = self.builder.policy;
        if policy == Policy::CommitMaximum {
            growth_is_assured(requirements.backing)?;
        }
        let start = Instant::now();
        let progress = &mut self.builder.progress;
        let regions = secure_many(
            requirements,
            RESERVATION_BYTES,
            GUARD_BYTES,
            self.slots,
            &mut |done| {
                if let Some(progress) = progress {
                    progress(done);
                }
            },
        )?;
        let secured = regions.first().map(|region| Secured {
            elapsed: start.elapsed(),
            resident_bytes: regions
                .iter()
                .map(|region| region.secured().resident_bytes)
                .sum(),
            ..*region.secured()
        });
        let tracker = match (policy, self.builder.tracking) {
            (Policy::Declared, Tracking::Auto) => Tracker::open()
                .inspect_err(|error| tracing::warn!(%error, "writes cannot be tracked"))
                .ok()
                .map(Arc::new),
            _ => None,
        };
        let regions = regions.into_iter();
        let slots = regions.map(|region| Slot::new(region, tracker.as_deref()));
        self.pool.fill(slots.collect(), secured, tracker.clone());
        Ok(self.pool)
    }
}

/// Whether memory that was once committed can always be made accessible again, exactly to the
/// wasm page.
fn growth_is_assured(backing: Backing) -> Result<(), Error> {
    if backing.pool_page_log2().is_some() {
        return Err(Error::Backing {
            backing,
            why: "its pages cannot be protected exactly to 64 KiB, as Policy::CommitMaximum has \
                  to; use Policy::Declared or Backing::Auto",
        });
    }
    let readings = Headroom::read()?.readings;
    let data = readings
        .into_iter()
        .find(|reading| reading.limit == Limit::DataSegment);
    match data {
        Some(reading) => Err(Error::GrowthNotAssured {
            limit: reading.limit,
        }),
        None => Ok(()),
    }
}
