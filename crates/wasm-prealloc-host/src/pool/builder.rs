//! Makes pools: the options, and the two steps of preparing and securing.

use std::fmt;
use std::sync::{Arc, Mutex};

use crate::commit::backing::Backing;
use crate::commit::group::{CommitOptions, Group};
use crate::commit::lock::LockOptions;
use crate::commit::report::{Progress, Secured};
use crate::commit::requirements::{LockMemory, Requirements};
use crate::commit::secure::SecuredRegion;
use crate::error::SecureError;
use crate::limits::headroom::{Headroom, Need};
use crate::limits::limit::Limit;
use crate::pool::assurance::Assurance;
use crate::pool::engine_side::EngineOptions;
use crate::pool::memory_pool::MemoryPool;
use crate::pool::plan::{Plan, secure_together};
use crate::pool::policy::{Options, Policy, Reset, Tracking, WhenExhausted};
use crate::pool::slot::Slot;
use crate::sys::Tracker;

impl MemoryPool {
    /// Starts with one slot of 65,536 pages.
    pub fn builder() -> MemoryPoolBuilder {
        MemoryPoolBuilder::default()
    }
}

/// A function of the caller that receives the progress of securing.
pub(crate) type ProgressFunction = Box<dyn FnMut(Progress) + Send>;

/// The options of a pool; see [`MemoryPool::builder`].
#[derive(Default)]
#[must_use = "nothing is secured yet"]
pub struct MemoryPoolBuilder {
    requirements: Requirements,
    /// The size of each slot. The one in the requirements does not apply.
    pages: Option<u64>,
    slots: Option<usize>,
    policy: Policy,
    when_exhausted: WhenExhausted,
    tracking: Tracking,
    reset: Reset,
    engine: EngineOptions,
    pub(crate) assurance: Option<Assurance>,
    /// Locked while memory is secured.
    pub(crate) progress: Mutex<Option<ProgressFunction>>,
}

impl fmt::Debug for MemoryPoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryPoolBuilder")
            .field("requirements", &self.requirements)
            .field("pages", &self.pages)
            .field("slots", &self.slots)
            .field("policy", &self.policy)
            .field("when_exhausted", &self.when_exhausted)
            .field("tracking", &self.tracking)
            .field("reset", &self.reset)
            .field("engine", &self.engine)
            .field("assurance", &self.assurance)
            .finish_non_exhaustive()
    }
}

impl MemoryPoolBuilder {
    /// Sets the number of memories that can be lent at the same time: one for each memory that a
    /// live instance defines. The default is 1.
    pub fn slots(mut self, slots: usize) -> Self {
        self.slots = Some(slots);
        self
    }

    /// Sets the size of each slot in wasm pages of 64 KiB, from 1 to 65,536. The default is 65,536,
    /// or the cap of [`Policy::Cap`].
    pub fn pages(mut self, pages: u64) -> Self {
        self.pages = Some(pages);
        self
    }

    /// Sets the part that each limit on physical memory must leave beyond the need, in bytes. The
    /// default is [`DEFAULT_MARGIN_BYTES`](crate::DEFAULT_MARGIN_BYTES).
    pub fn margin_bytes(mut self, bytes: u64) -> Self {
        self.requirements.margin_bytes = bytes;
        self
    }

    /// Sets the kind of pages.
    pub fn backing(mut self, backing: Backing) -> Self {
        self.requirements.backing = backing;
        self
    }

    /// Sets the lock that hosts on one machine wait for.
    pub fn lock(mut self, lock: LockOptions) -> Self {
        self.requirements.lock = lock;
        self
    }

    /// Sets whether the memory is locked, see [`LockMemory`]. `true` is [`LockMemory::On`].
    pub fn lock_memory(mut self, lock_memory: impl Into<LockMemory>) -> Self {
        self.requirements.lock_memory = lock_memory.into();
        self
    }

    /// Sets the modules that are served, and the memory that they see.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Serves modules of any maximum, and caps each memory at `pages` wasm pages of 64 KiB. This is
    /// short for [`policy`](Self::policy) with [`Policy::Cap`].
    pub fn cap(self, pages: u64) -> Self {
        self.policy(Policy::Cap { pages })
    }

    /// Sets the behaviour when every slot is lent.
    pub fn when_exhausted(mut self, when_exhausted: WhenExhausted) -> Self {
        self.when_exhausted = when_exhausted;
        self
    }

    /// Sets the way to find out what an instance wrote.
    pub fn tracking(mut self, tracking: Tracking) -> Self {
        self.tracking = tracking;
        self
    }

    /// Sets the thread that zeroes memories when they come back.
    pub fn reset(mut self, reset: Reset) -> Self {
        self.reset = reset;
        self
    }

    /// Sets the number of table elements that are counted for each slot, as 16 bytes each. The
    /// default is 65,536, which is 1 MiB a slot. No module can make its tables larger; see
    /// [`WasmtimePool::verify`](crate::WasmtimePool::verify).
    ///
    /// Tables are not committed: the engine allocates them as they grow. They are a part of the
    /// need, beside the margin.
    pub fn table_elements(mut self, elements: u64) -> Self {
        self.engine.table_elements = elements;
        self
    }

    /// Sets the size of the heap for exceptions, `externref` and GC types that a store has, in
    /// bytes, rounded up to wasm pages of 64 KiB. The default is 0: modules that need it are
    /// refused. 16 MiB suit a program that uses exceptions for errors.
    ///
    /// A heap for each slot is committed with the slots.
    pub fn engine_heap_bytes(mut self, bytes: u64) -> Self {
        self.engine.heap_bytes = bytes;
        self
    }

    /// Sets whether the memory has to be secured. The default is what the environment variable
    /// [`ASSURANCE_VARIABLE`](crate::ASSURANCE_VARIABLE) says, and else [`Assurance::Required`].
    /// What is set here is not overruled by the environment. A pool whose memory is not secured
    /// emits a warning, and returns it from [`MemoryPool::unsecured`].
    pub fn assurance(mut self, assurance: Assurance) -> Self {
        self.assurance = Some(assurance);
        self
    }

    /// Sets a function that receives the progress of securing, at least every 64 MiB. It can run
    /// near a limit, and must not need much memory. It must not secure the same pool.
    pub fn on_progress(mut self, progress: impl FnMut(Progress) + Send + 'static) -> Self {
        self.progress = Mutex::new(Some(Box::new(progress)));
        self
    }

    /// Returns the need of all slots together under each limit, where every limit is visible: compare
    /// it with [`Headroom::read`]. Where some are [hidden](Headroom::visibility),
    /// [`need_under`](Self::need_under) is more.
    ///
    /// # Errors
    /// [`SecureError::PageCount`] and [`SecureError::Backing`] if such a pool cannot exist.
    pub fn need(&self) -> Result<Need, SecureError> {
        Ok(Plan::of(&[self])?.need())
    }

    /// Returns the need of all slots together under limits that were read before. Where some are
    /// hidden, the margin is mapped too, by this process or by a child that tries the commit.
    ///
    /// # Errors
    /// As for [`need`](Self::need).
    pub fn need_under(&self, headroom: &Headroom) -> Result<Need, SecureError> {
        Ok(Plan::of(&[self])?.need_under(headroom))
    }

    /// Checks, with limits that were read before, all that securing checks before it commits memory.
    ///
    /// # Errors
    /// [`SecureError::Shortfall`] names the limit that leaves too little.
    /// [`SecureError::PageCount`], [`SecureError::Backing`] and [`SecureError::GrowthNotAssured`] if
    /// such a pool cannot exist here.
    pub fn check(&self, headroom: &Headroom) -> Result<(), SecureError> {
        Plan::of(&[self])?.check(&[self], headroom)
    }

    /// Returns true if securing will lock the memory under limits that were read before. The system
    /// can still refuse to.
    pub fn locks_memory(&self, headroom: &Headroom) -> bool {
        Plan::of(&[self]).is_ok_and(|plan| plan.locks_memory(headroom))
    }

    pub(crate) fn slot_count(&self) -> usize {
        self.slots.unwrap_or(1)
    }

    /// Returns the number of regions to commit: the slots, and the heaps.
    pub(crate) fn region_count(&self) -> usize {
        let slots = self.slot_count();
        slots.saturating_add(self.engine.heap_count(slots))
    }

    fn slot_pages(&self) -> u64 {
        self.pages.unwrap_or(self.policy.default_slot_pages())
    }

    /// Returns the options of the commit, without room for tables in the margin.
    pub(crate) fn commit_options(&self) -> CommitOptions {
        CommitOptions::of(&self.requirements)
    }

    /// Returns the memory that is counted for tables.
    pub(crate) fn table_bytes(&self) -> u64 {
        self.engine.table_bytes(self.slot_count())
    }

    /// Returns the memory to commit.
    pub(crate) fn groups(&self) -> Result<Vec<Group>, SecureError> {
        let slot_pages = self.slot_pages();
        if let Policy::Cap { pages: cap } = self.policy
            && cap > slot_pages
        {
            return Err(SecureError::SlotsBelowCap { cap, slot_pages });
        }
        let requirements = Requirements {
            pages: slot_pages,
            ..self.requirements.clone()
        };
        self.engine.groups(self.slot_count(), &requirements)
    }

    /// Checks that every memory that grows can be made accessible when it does.
    pub(crate) fn check_protection(&self, headroom: &Headroom) -> Result<(), SecureError> {
        match self.policy {
            Policy::CommitMaximum | Policy::Cap { .. } => {
                check_growth(self.requirements.backing, headroom)
            }
            // Those pages are never of the machine's pool.
            Policy::Declared if self.engine.heap_bytes > 0 => check_growth(Backing::Auto, headroom),
            Policy::Declared => Ok(()),
        }
    }

    /// Checks, if memory becomes accessible after it was lent, that it can.
    pub(crate) fn check_growth(&self) -> Result<(), SecureError> {
        match self.policy != Policy::Declared || self.engine.heap_bytes > 0 {
            true => self.check_protection(&Headroom::read()?),
            false => Ok(()),
        }
    }

    /// Secures all slots.
    ///
    /// # Errors
    /// As for [`PreparedPool::secure`].
    pub fn secure(self) -> Result<MemoryPool, SecureError> {
        self.prepare().secure()
    }

    /// Makes a pool without its memory. An engine can be configured with it, so that modules can be
    /// compiled and verified before 4 GiB are committed for them.
    pub fn prepare(self) -> PreparedPool {
        let options = Options {
            pages: self.slot_pages(),
            slots: self.slot_count(),
            policy: self.policy,
            when_exhausted: self.when_exhausted,
            reset: self.reset,
        };
        let engine = self.engine.prepare(&options);
        PreparedPool {
            pool: MemoryPool::without_memory(options, engine),
            builder: self,
        }
    }
}

/// A pool that can be secured; see [`MemoryPoolBuilder::prepare`]. Once it is secured, this is one
/// of the pool's handles.
#[derive(Debug)]
#[must_use = "nothing is secured yet"]
pub struct PreparedPool {
    pub(crate) pool: MemoryPool,
    pub(crate) builder: MemoryPoolBuilder,
}

impl PreparedPool {
    /// Leaves out the heap for exceptions, `externref` and GC types, for modules that do not
    /// [need](crate::WasmtimePool::needs_engine_heap) it.
    pub fn without_engine_heap(mut self) -> Self {
        self.builder.engine.heap_bytes = 0;
        self
    }

    /// Secures all slots, or none of them. After a failure it can be called again, for example when
    /// a limit was raised: engines and modules that were made before keep their pool. When the pool
    /// is secured, it returns another handle.
    ///
    /// # Errors
    /// [`SecureError::Shortfall`] names the limit that leaves too little. [`SecureError::Backing`]
    /// and [`SecureError::GrowthNotAssured`] are returned if the options exclude each other here,
    /// [`SecureError::TooManySlots`] if not even the list of the slots fits in memory. The other
    /// variants say why memory could not be requested, or was refused although every limit allows
    /// it. Nothing stays mapped.
    pub fn secure(&self) -> Result<MemoryPool, SecureError> {
        secure_together(&[self])?;
        Ok(self.pool.clone())
    }

    /// Gives the pool its memory: the slots, and then the heaps. `slots` is an empty list with room
    /// for the slots.
    pub(crate) fn fill(&self, mut regions: Vec<SecuredRegion>, mut slots: Vec<Slot>) {
        let all = |part: fn(&Secured) -> u64| {
            let parts = regions.iter().map(|region| part(region.secured()));
            parts.sum()
        };
        let (resident_bytes, locked_bytes) =
            (all(|one| one.resident_bytes), all(|one| one.locked_bytes));
        let heaps = regions.split_off(self.builder.slot_count());
        let is_committed = regions.iter().all(SecuredRegion::is_committed);
        let first = regions.first().filter(|_| is_committed);
        let secured = first.map(|region| Secured {
            resident_bytes,
            locked_bytes,
            ..*region.secured()
        });
        if let Some(heap) = &self.pool.engine_side().heap {
            // Nothing is tracked, so nothing fails.
            let heaps = heaps.into_iter().map(|region| Slot::new(region, None).0);
            heap.fill(heaps.collect(), None, None);
        }
        let tracker = match (self.builder.policy, self.builder.tracking) {
            (Policy::Declared, Tracking::Auto) if is_committed => Tracker::open()
                .inspect_err(|error| tracing::warn!(%error, "each reset zeroes the whole slot"))
                .ok()
                .map(Arc::new),
            _ => None,
        };
        let tracking = tracker.as_ref().map(|tracker| tracker.interface());
        for region in regions {
            let (slot, started) = Slot::new(region, tracker.as_ref());
            if let Err(error) = started {
                tracing::warn!(%error, "write tracking failed; the next reset tries again");
            }
            slots.push(slot);
        }
        self.pool.shared().fill(slots, secured, tracking);
    }
}

/// Checks that committed memory can always be made accessible, exactly to the wasm page.
fn check_growth(backing: Backing, headroom: &Headroom) -> Result<(), SecureError> {
    if backing.pool_page_log2().is_some() {
        return Err(SecureError::Backing {
            backing,
            why: "its pages cannot be protected exactly to 64 KiB, which every policy except \
                  Policy::Declared requires; use Policy::Declared or Backing::Auto",
        });
    }
    let limit = Limit::DataSegment;
    match headroom
        .readings
        .iter()
        .any(|reading| reading.limit == limit)
    {
        true => Err(SecureError::GrowthNotAssured { limit }),
        false => Ok(()),
    }
}
