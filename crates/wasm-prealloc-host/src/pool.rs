//! A pool of committed memories: secured up front, lent to one instance at a time, zeroed when
//! they come back.
//!
//! How memory is secured is in `secure`, how it is made zero in `reset`; the engine's side is in
//! `wasmtime`.

use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::headroom::{Headroom, Need};
use crate::limit::Limit;
use crate::lock::LockOptions;
use crate::requirements::{Backing, DEFAULT_PAGES, Requirements, WASM_PAGE_BYTES};
use crate::reset::{self, ResetMethod, Watermark};
use crate::secure::{Method, Progress, Secured, SecuredRegion, extent, need_of_many, secure_many};
use crate::track::Tracker;

/// The address space that each slot has from its base on: with all that a 32-bit address can
/// reach, and a guard behind, engines leave bounds checks to the processor.
pub(crate) const RESERVATION_BYTES: usize = 4 << 30;
/// Inaccessible on both sides of each slot.
pub(crate) const GUARD_BYTES: usize = 32 << 20;

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

/// What a pool has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Statistics {
    /// Slots that the pool secured.
    pub slots: usize,
    /// Slots that are lent now.
    pub lent: usize,
    /// Slots whose reset failed. They are never lent again, and their memory was given back.
    pub retired: usize,
    /// How often a slot was lent.
    pub loans: u64,
    /// Resets up to the size that was enforced.
    pub high_water_resets: u64,
    /// Resets with a watermark, and write tracking above it.
    pub watermark_resets: u64,
    /// Resets of everything.
    pub full_resets: u64,
    /// Zeros written by all resets, in bytes.
    pub zeroed_bytes: u64,
    /// Time that all resets took.
    pub reset_time: Duration,
}

impl Statistics {
    fn record(&mut self, method: ResetMethod, zeroed_bytes: u64, elapsed: Duration) {
        *match method {
            ResetMethod::HighWater => &mut self.high_water_resets,
            ResetMethod::Watermark => &mut self.watermark_resets,
            ResetMethod::Everything => &mut self.full_resets,
        } += 1;
        self.zeroed_bytes += zeroed_bytes;
        self.reset_time += elapsed;
    }
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
            pool: MemoryPool {
                shared: Arc::new(Shared {
                    pages: self.requirements.pages,
                    slots,
                    policy: self.policy,
                    when_exhausted: self.when_exhausted,
                    state: Mutex::new(State {
                        free: None,
                        secured: None,
                        tracker: None,
                        statistics: Statistics::default(),
                    }),
                    returned: Condvar::new(),
                }),
            },
            builder: self,
        }
    }
}

/// A pool without its memory; see [`MemoryPoolBuilder::prepare`].
#[derive(Debug)]
#[must_use = "nothing is secured yet"]
pub struct PreparedPool {
    pub(crate) pool: MemoryPool,
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
        let shared = &self.pool.shared;
        if shared.policy == Policy::CommitMaximum {
            growth_is_assured(requirements.backing)?;
        }
        let start = Instant::now();
        let progress = &mut self.builder.progress;
        let regions = secure_many(
            requirements,
            RESERVATION_BYTES,
            GUARD_BYTES,
            shared.slots,
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
        let tracker = match (shared.policy, self.builder.tracking) {
            (Policy::Declared, Tracking::Auto) => Tracker::open()
                .inspect_err(|error| tracing::warn!(%error, "writes cannot be tracked"))
                .ok()
                .map(Arc::new),
            _ => None,
        };
        let mut slots = Vec::with_capacity(regions.len());
        // The first to be lent is the last of the list.
        for region in regions.into_iter().rev() {
            slots.push(Slot::new(region, tracker.as_deref()));
        }
        let mut state = shared.state();
        state.statistics.slots = slots.len();
        state.free = Some(slots);
        state.secured = secured;
        state.tracker = tracker;
        drop(state);
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

/// Memories that are committed up front, lent to one instance at a time, and zeroed when they
/// come back. Clones are the same pool; its memory is given back with the last of them and the
/// last loan.
///
/// ```
/// use wasm_prealloc_host::MemoryPool;
///
/// let pool = MemoryPool::builder().slots(2).pages(16).secure()?;
/// let mut memory = pool.lend(16, Some(16))?;
/// memory.bytes_mut()[..5].copy_from_slice(b"dirty");
/// drop(memory);
/// assert!(pool.lend(16, Some(16))?.bytes().iter().all(|&byte| byte == 0));
/// assert_eq!(pool.statistics().loans, 2);
/// # Ok::<(), wasm_prealloc_host::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct MemoryPool {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pages: u64,
    slots: usize,
    policy: Policy,
    when_exhausted: WhenExhausted,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug)]
struct State {
    /// The slots that are not lent, the next to be lent last: what was used last is warmest, and
    /// its watermark fits best. Nothing before they are secured.
    free: Option<Vec<Slot>>,
    secured: Option<Secured>,
    tracker: Option<Arc<Tracker>>,
    statistics: Statistics,
}

impl MemoryPool {
    /// One slot of 65,536 pages, unless said otherwise.
    pub fn builder() -> MemoryPoolBuilder {
        MemoryPoolBuilder::default()
    }

    /// The size of each slot, in wasm pages of 64 KiB.
    pub fn pages(&self) -> u64 {
        self.shared.pages
    }

    /// Which modules are served, and what they see.
    pub fn policy(&self) -> Policy {
        self.shared.policy
    }

    /// What securing did: bytes and time of all slots together. Nothing for a pool of no slots.
    pub fn secured(&self) -> Option<Secured> {
        self.shared.state().secured
    }

    /// What the pool has done so far.
    pub fn statistics(&self) -> Statistics {
        self.shared.state().statistics
    }

    /// Lends a memory to a module that declares these limits, in wasm pages of 64 KiB. A 32-bit
    /// memory without a maximum can have 65,536.
    ///
    /// The memory is zero and resident. It comes back when it is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::NotPinned`] or [`Error::SlotTooSmall`] if the limits do not suit the pool's
    /// policy, [`Error::NoSlot`] if every slot is lent.
    pub fn lend(&self, minimum: u64, maximum: Option<u64>) -> Result<LentMemory, Error> {
        Shared::lend(&self.shared, minimum, maximum)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // What is done under the lock leaves a state that holds, whoever panicked meanwhile.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lend(shared: &Arc<Shared>, minimum: u64, maximum: Option<u64>) -> Result<LentMemory, Error> {
        let slot_pages = shared.pages;
        let limit = match shared.policy {
            Policy::Declared if minimum == slot_pages && maximum == Some(slot_pages) => slot_pages,
            Policy::Declared => {
                return Err(Error::NotPinned {
                    minimum,
                    maximum,
                    expected: slot_pages,
                });
            }
            Policy::CommitMaximum => {
                let limit = maximum.unwrap_or(DEFAULT_PAGES);
                if limit > slot_pages || minimum > limit {
                    return Err(Error::SlotTooSmall {
                        maximum: Some(limit.max(minimum)),
                        slot_pages,
                    });
                }
                limit
            }
        };
        let mut lent = LentMemory {
            slot: Some(shared.take()?),
            shared: Arc::clone(shared),
            // No more than a slot has, which is an address space's worth.
            bytes: 0,
            maximum_bytes: (limit * WASM_PAGE_BYTES) as usize,
        };
        lent.begin((minimum * WASM_PAGE_BYTES) as usize)?;
        Ok(lent)
    }

    fn take(&self) -> Result<Slot, Error> {
        let since = Instant::now();
        let mut state = self.state();
        loop {
            let free = state.free.as_mut().ok_or(Error::NotSecuredYet)?;
            if let Some(slot) = free.pop() {
                state.statistics.lent += 1;
                state.statistics.loans += 1;
                return Ok(slot);
            }
            let waited = match self.when_exhausted {
                WhenExhausted::Fail => Duration::ZERO,
                WhenExhausted::Wait(_) => since.elapsed(),
            };
            let left = match self.when_exhausted {
                WhenExhausted::Wait(timeout) if waited < timeout => timeout - waited,
                _ => {
                    return Err(Error::NoSlot {
                        slots: self.slots,
                        waited,
                    });
                }
            };
            let woken = self.returned.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes a slot back, of which `dirty_bytes` can have been written.
    fn take_back(&self, mut slot: Slot, dirty_bytes: usize) {
        let start = Instant::now();
        let tracker = self.state().tracker.clone();
        let outcome = slot.reset(tracker.as_deref(), self.policy, dirty_bytes);
        let elapsed = start.elapsed();
        let mut state = self.state();
        state.statistics.lent -= 1;
        let retired = match outcome {
            Ok((method, zeroed_bytes)) => {
                state.statistics.record(method, zeroed_bytes, elapsed);
                tracing::trace!(?method, zeroed_bytes, ?elapsed, "a slot was reset");
                match &mut state.free {
                    Some(free) => free.push(slot),
                    None => debug_assert!(false, "a pool that lends is secured"),
                }
                None
            }
            Err(error) => {
                tracing::error!(%error, "a slot could not be reset and is retired");
                state.statistics.retired += 1;
                Some(slot)
            }
        };
        drop(state);
        self.returned.notify_one();
        // Giving 4 GiB back takes a while, for which nobody needs to wait.
        drop(retired);
    }
}

/// One committed memory of a pool.
#[derive(Debug)]
struct Slot {
    region: SecuredRegion,
    /// How many bytes from the base on are accessible now.
    accessible: usize,
    watermark: Option<Watermark>,
}

impl Slot {
    fn new(region: SecuredRegion, tracker: Option<&Tracker>) -> Slot {
        let (base, bytes) = (region.region().base(), region.len());
        let huge = region.secured().how == Method::Collapsed;
        let watermark = tracker.and_then(|tracker| {
            // SAFETY: the range is the region's own, which lives as long as the slot.
            unsafe { Watermark::new(tracker, base, bytes, huge) }
                .inspect_err(|error| tracing::warn!(%error, "a slot cannot be tracked"))
                .ok()
        });
        Slot {
            accessible: bytes,
            watermark,
            region,
        }
    }

    fn base(&self) -> NonNull<u8> {
        self.region.region().base()
    }

    /// Makes exactly `bytes` from the base on accessible.
    fn make_accessible(&mut self, bytes: usize) -> io::Result<()> {
        let region = self.region.region();
        let (from, to) = (self.accessible.min(bytes), self.accessible.max(bytes));
        // SAFETY: a slot that is lent is its borrower's, who asks for nothing to be taken away
        // that is in use.
        unsafe { region.protect(from..to, bytes > self.accessible) }?;
        self.accessible = bytes;
        Ok(())
    }

    /// Makes everything zero; how, and how many bytes were written for it.
    fn reset(
        &mut self,
        tracker: Option<&Tracker>,
        policy: Policy,
        dirty_bytes: usize,
    ) -> io::Result<(ResetMethod, u64)> {
        let base = self.base();
        if policy == Policy::CommitMaximum {
            // SAFETY: what was lent is accessible, and nobody's any more.
            unsafe { reset::zero(base, 0..dirty_bytes) };
            return Ok((ResetMethod::HighWater, dirty_bytes as u64));
        }
        let bytes = self.region.len();
        if let (Some(watermark), Some(tracker)) = (&mut self.watermark, tracker) {
            // SAFETY: all of the slot is accessible, and nobody's any more.
            let zeroed = unsafe { watermark.reset(tracker, base, bytes) }?;
            return Ok((ResetMethod::Watermark, zeroed));
        }
        // SAFETY: as above.
        unsafe { reset::zero(base, 0..bytes) };
        Ok((ResetMethod::Everything, bytes as u64))
    }
}

/// A memory of a pool, lent until it is dropped. Then it is zeroed, in the thread that drops it.
#[derive(Debug)]
pub struct LentMemory {
    /// There until it is given back.
    slot: Option<Slot>,
    shared: Arc<Shared>,
    bytes: usize,
    maximum_bytes: usize,
}

impl LentMemory {
    /// Makes the first `bytes` accessible, and nothing else.
    fn begin(&mut self, bytes: usize) -> Result<(), Error> {
        let slot = self.slot_mut();
        slot.make_accessible(bytes)
            .map_err(|source| Error::System {
                call: "mprotect",
                bytes: bytes as u64,
                source,
            })?;
        self.bytes = bytes;
        Ok(())
    }

    /// The first byte. It does not move while the memory is lent.
    pub fn as_ptr(&self) -> *mut u8 {
        self.slot().base().as_ptr()
    }

    /// The current size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether the current size is 0.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// What it can grow to, in bytes: committed, and not accessible yet.
    pub fn maximum_bytes(&self) -> usize {
        self.maximum_bytes
    }

    /// Makes more of the memory accessible, which is zero. Nothing happens where `bytes` is not
    /// more than the current size.
    ///
    /// # Errors
    ///
    /// [`Error::SlotTooSmall`] above the maximum. [`Error::System`] should the operating system
    /// refuse to make committed memory accessible; a host has to stop then, because on another
    /// machine the guest would go on.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Error> {
        if bytes <= self.bytes {
            return Ok(());
        }
        if bytes > self.maximum_bytes {
            return Err(Error::SlotTooSmall {
                maximum: Some((bytes as u64).div_ceil(WASM_PAGE_BYTES)),
                slot_pages: self.maximum_bytes as u64 / WASM_PAGE_BYTES,
            });
        }
        self.begin(bytes)
    }

    /// The memory up to its current size.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped and accessible for as long as this value lives, and writing
        // to it takes a mutable borrow of this value, or an engine that owns it.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.bytes) }
    }

    /// The memory up to its current size, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and this value is mutably borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.bytes) }
    }

    fn slot(&self) -> &Slot {
        // It is taken out in `drop` alone.
        self.slot.as_ref().expect("the slot is there until dropped")
    }

    fn slot_mut(&mut self) -> &mut Slot {
        // As above.
        self.slot.as_mut().expect("the slot is there until dropped")
    }
}

impl Drop for LentMemory {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.shared.take_back(slot, self.bytes);
        }
    }
}
