//! Commits regions: lock, headroom check, reserve, populate, residency check. After a failure all
//! of them are unmapped before anything else happens.

use std::ptr::NonNull;
use std::time::{Duration, Instant};

use crate::commit::backing::Backing;
use crate::commit::lock::CommitLock;
use crate::commit::locking::Locking;
use crate::commit::populate::{self, Part, Populate};
use crate::commit::region::{Layout, Region};
use crate::commit::report::{Method, OnProgress, Progress, Secured, Stage};
use crate::commit::requirements::{LockMemory, Requirements, WASM_PAGE_BYTES};
use crate::commit::residency::{Mapped, Reader, Residency, residency};
use crate::commit::trial::Trial;
use crate::error::Error;
use crate::limits::explain::explain;
use crate::limits::headroom::{Headroom, Need};
use crate::sys::HUGE_PAGE_BYTES;
use crate::sys::{self, Advice};

/// Committed memory, zero at first, and unmapped when dropped.
#[derive(Debug)]
pub struct SecuredRegion {
    region: Region,
    bytes: usize,
    secured: Secured,
}

impl SecuredRegion {
    /// Commits as many pages as required.
    ///
    /// # Errors
    /// [`Error::Shortfall`] names the limit that leaves too little. The other variants say why
    /// memory could not be requested, or was refused although every limit allows it. Nothing stays
    /// mapped.
    pub fn secure(requirements: &Requirements) -> Result<SecuredRegion, Error> {
        let guard_bytes = sys::page_bytes().max(WASM_PAGE_BYTES as usize);
        let layout = layout(requirements, requirements.bytes()?, guard_bytes)?;
        let mut regions = secure_many(requirements, layout, 1, &mut |_| {})?;
        Ok(regions.pop().expect("as many regions as requested"))
    }

    /// Returns the outcome of the commit.
    pub fn secured(&self) -> &Secured {
        &self.secured
    }

    /// Counts again how much of the memory is resident.
    ///
    /// # Errors
    /// [`Error::NotResident`] if a part is not: the kernel swapped it out, or took it back in
    /// another way. [`Error::Unreadable`] if the page tables cannot be read.
    pub fn check(&self) -> Result<Residency, Error> {
        residency([(self.region.base().as_ptr().cast_const(), self.bytes)].into_iter())
    }

    /// Returns the committed bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped and readable for as long as this value lives, and writing
        // to it takes a mutable borrow of this value, or an engine that owns it.
        unsafe { std::slice::from_raw_parts(self.region.base().as_ptr(), self.bytes) }
    }

    /// Returns the committed bytes, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range is mapped and writable for as long as this value lives, which is
        // mutably borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.region.base().as_ptr(), self.bytes) }
    }

    /// Returns the mapping, for a pool that lends this memory and changes its protection.
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// Returns the number of committed bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }
}

/// Commits `count` regions, each at the start of a reservation with guards around it, or none.
///
/// `progress` is called under the lock, perhaps near a limit: it must not need memory.
pub(crate) fn secure_many(
    requirements: &Requirements,
    layout: Layout,
    count: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<SecuredRegion>, Error> {
    let bytes = requirements.bytes()?;
    let mut need = need_of_many(requirements, &layout, count)?;
    let span = tracing::info_span!("secure", regions = count, pages = requirements.pages);
    let _entered = span.enter();

    let total_bytes = (bytes as u64).saturating_mul(count as u64);
    let mut report = |stage, committed_bytes: u64| {
        progress(Progress {
            stage,
            committed_bytes: committed_bytes.min(total_bytes),
            total_bytes,
        });
    };
    let trial = Trial::new(&Headroom::read()?);
    if trial.is_needed() {
        // The margin is mapped too, here or by the child.
        let margin_bytes = requirements
            .margin_bytes
            .saturating_add(HUGE_PAGE_BYTES as u64);
        need.data_bytes = need.data_bytes.saturating_add(margin_bytes);
        need.address_space_bytes = need.address_space_bytes.saturating_add(margin_bytes);
    }
    // Other committers do not change the limits of this process, so no lock is needed to refuse.
    Headroom::check_process(&need)?;
    let waiting = &mut || report(Stage::WaitingForLock, 0);
    let lock = CommitLock::acquire(&requirements.lock, waiting)?;
    let waited = whole_milliseconds(lock.waited());
    let start = Instant::now();
    let headroom = Headroom::read()?;
    headroom.check(&need)?;
    let mut commit = Commit {
        requirements: requirements.clone(),
        bytes,
        // Opened before the first commit: afterwards, at a limit, there may be no memory left.
        reader: Reader::open(),
        trial,
        locking: Locking::decide(requirements.lock_memory, &headroom, total_bytes),
    };
    // The check has refused most counts whose list does not fit in memory.
    let mut regions = Vec::new();
    let listed = regions.try_reserve_exact(count);
    listed.map_err(|_| Error::TooManySlots { slots: count })?;
    let mut outcome = commit.run(&mut regions, layout, count, &mut report);
    if let (Err(Error::NoHugePages { .. }), Backing::Auto) = (&outcome, requirements.backing) {
        regions.clear();
        commit.requirements.backing = Backing::Base;
        outcome = commit.run(&mut regions, layout, count, &mut report);
    }
    let locked_bytes = match outcome {
        Ok(locked_bytes) => locked_bytes,
        Err(failure) => {
            // At a limit every further page can cause a kill, and the message of the error takes
            // memory too.
            drop(regions);
            let error = explain(failure, &need);
            // A subscriber may secure memory itself.
            drop(lock);
            tracing::warn!(%error, "memory was not secured");
            return Err(error);
        }
    };
    let elapsed = start.elapsed();
    drop(lock);
    for region in &mut regions {
        region.secured.elapsed = elapsed;
        region.secured.waited = waited;
        region.secured.locked_bytes = locked_bytes.min(bytes as u64);
    }
    for region in &regions {
        tracing::info!(
            how = %region.secured.how,
            bytes = region.secured.resident_bytes,
            locked_bytes = region.secured.locked_bytes,
            elapsed = ?region.secured.elapsed,
            "memory is resident"
        );
    }
    Ok(regions)
}

/// Rounds down to milliseconds, so that the time to take a free lock is zero.
pub(crate) fn whole_milliseconds(time: Duration) -> Duration {
    Duration::from_millis(time.as_millis() as u64)
}

/// Returns the address space of one region, if it can have the required pages at all.
pub(crate) fn layout(
    requirements: &Requirements,
    reservation_bytes: usize,
    guard_bytes: usize,
) -> Result<Layout, Error> {
    let bytes = requirements.bytes()?;
    requirements.check_backing(bytes)?;
    let pool_page = requirements.backing.pool_page_log2();
    Ok(Layout {
        reservation_bytes: reservation_bytes.max(bytes),
        guard_bytes,
        alignment_bytes: pool_page.map_or(HUGE_PAGE_BYTES, |log2| 1 << log2),
    })
}

/// Returns the need of `count` regions together.
pub(crate) fn need_of_many(
    requirements: &Requirements,
    layout: &Layout,
    count: usize,
) -> Result<Need, Error> {
    let all = |bytes: u64| bytes.saturating_mul(count as u64);
    let committed_bytes = all(requirements.bytes()? as u64);
    let reserved_bytes = all(layout.mapping_bytes().unwrap_or(usize::MAX) as u64);
    let margin_bytes = requirements.margin_bytes;
    let mappings = all(layout.mappings(requirements.bytes()?));
    let mut need = Need::commit(committed_bytes, reserved_bytes, margin_bytes).mappings(mappings);
    if let Some(log2) = requirements.backing.pool_page_log2() {
        need = need.in_huge_pages(1 << log2, committed_bytes, margin_bytes);
    }
    if requirements.lock_memory == LockMemory::On {
        need = need.locked(committed_bytes);
    }
    Ok(need)
}

/// A commit of regions, with everything that was opened and decided before it.
struct Commit {
    requirements: Requirements,
    /// The size of each region.
    bytes: usize,
    reader: Reader,
    trial: Trial,
    locking: Locking,
}

impl Commit {
    /// Maps and commits `count` regions, and returns the number of bytes that are locked. After a
    /// failure those in the list have to be unmapped.
    fn run(
        &self,
        regions: &mut Vec<SecuredRegion>,
        layout: Layout,
        count: usize,
        progress: OnProgress<'_>,
    ) -> Result<u64, Error> {
        // One more for the margin.
        let mut parts = Vec::with_capacity(count + 1);
        let margin = self.before_mapping(count, progress)?;
        for _ in 0..count {
            let region = self.map(layout)?;
            // SAFETY: the range is the region's own, which outlives the part, and was just made
            // writable.
            parts.push(unsafe { Part::new(region.base(), self.bytes, true) });
            regions.push(SecuredRegion {
                region,
                bytes: self.bytes,
                secured: Secured {
                    how: Method::HugePool,
                    elapsed: Duration::ZERO,
                    resident_bytes: self.bytes as u64,
                    locked_bytes: 0,
                    waited: Duration::ZERO,
                },
            });
        }
        if let Some(margin) = &margin {
            let bytes = self.margin_in_huge_pages();
            // SAFETY: the range is the region's own, which outlives the part, and is writable.
            parts.push(unsafe { Part::new(margin.base(), bytes, true) });
        }
        match self.requirements.backing.pool_page_log2() {
            Some(log2) => self.populate_pool_pages(regions, 1 << log2, progress)?,
            None => {
                let mut populate =
                    Populate::new(&self.requirements, &self.reader, &self.trial, progress);
                populate.run(&mut parts)?;
            }
        }
        let ranges = regions
            .iter()
            .map(|region| (region.region.base(), self.bytes));
        // SAFETY: the ranges are the regions' own.
        let locked_bytes = unsafe { self.locking.lock(ranges) }?;
        for (region, part) in regions.iter_mut().zip(&mut parts) {
            if self.requirements.backing.pool_page_log2().is_none() {
                region.secured.how = part.method();
            }
            self.reader
                .check(region.region.base().as_ptr(), self.bytes, Mapped::Anonymous)?;
        }
        Ok(locked_bytes)
    }

    /// Maps one region that is writable. Nothing of it is resident.
    fn map(&self, layout: Layout) -> Result<Region, Error> {
        let bytes = self.bytes;
        let mapping_bytes = layout.mapping_bytes().unwrap_or(usize::MAX);
        let mut region = Region::reserve(layout).map_err(Error::system("mmap", mapping_bytes))?;
        match self.requirements.backing.pool_page_log2() {
            Some(log2) => region
                .map_huge_pages(bytes, log2)
                .map_err(Error::system("mmap(MAP_HUGETLB)", bytes))?,
            None => region
                .make_writable(bytes)
                .map_err(Error::system("mprotect", bytes))?,
        }
        // SAFETY: the range is the region's own.
        unsafe { keep(region.base(), bytes) }?;
        Ok(region)
    }

    fn populate_pool_pages(
        &self,
        regions: &[SecuredRegion],
        page_bytes: usize,
        progress: OnProgress<'_>,
    ) -> Result<(), Error> {
        let mut done = 0;
        for region in regions {
            let base = region.region.base();
            // SAFETY: the range was mapped as pages of the pool.
            unsafe {
                let progress =
                    &mut |within: usize| progress(Stage::Committing, done + within as u64);
                populate::pool_pages(base, self.bytes, page_bytes, progress)
            }?;
            done += self.bytes as u64;
            progress(Stage::Committing, done);
        }
        Ok(())
    }

    /// Secures the margin, where a limit may be hidden, before anything is mapped. In base pages a
    /// trial commits it together with the memory. In huge pages this returns a region for it, which
    /// is committed with the others and which the kernel can refuse.
    fn before_mapping(
        &self,
        count: usize,
        progress: OnProgress<'_>,
    ) -> Result<Option<Region>, Error> {
        let Requirements {
            backing,
            margin_bytes,
            ..
        } = self.requirements;
        if !self.trial.is_needed() {
            return Ok(None);
        }
        if backing.pool_page_log2().is_some() {
            return self
                .trial
                .of_base_pages(0, margin_bytes, progress)
                .map(|()| None);
        }
        let huge = self.bytes >= HUGE_PAGE_BYTES && populate::may_have_huge_pages(backing);
        if !huge {
            let bytes = (self.bytes as u64).saturating_mul(count as u64);
            return self
                .trial
                .of_base_pages(bytes, margin_bytes, progress)
                .map(|()| None);
        }
        let bytes = self.margin_in_huge_pages();
        let layout = Layout {
            reservation_bytes: bytes,
            guard_bytes: 0,
            alignment_bytes: HUGE_PAGE_BYTES,
        };
        let map = || {
            let mut region = Region::reserve(layout)?;
            region.make_writable(bytes)?;
            Ok(region)
        };
        let region = map().map_err(Error::system("mmap of the margin", bytes))?;
        // SAFETY: the range is the region's own.
        unsafe { keep(region.base(), bytes) }?;
        Ok((bytes > 0).then_some(region))
    }

    fn margin_in_huge_pages(&self) -> usize {
        let bytes = usize::try_from(self.requirements.margin_bytes).unwrap_or(usize::MAX >> 1);
        bytes.next_multiple_of(HUGE_PAGE_BYTES)
    }
}

/// Keeps a range that is to be committed from same-page merging, from children and from core dumps.
/// A system without the advice is accepted: it does none of these, or cannot be kept from it.
///
/// The caller populates the range afterwards: pages that exist at a fork would be shared.
///
/// # Safety
/// The range is mapped, and belongs to the caller.
pub(crate) unsafe fn keep(start: NonNull<u8>, bytes: usize) -> Result<(), Error> {
    for (advice, call) in [
        (Advice::KeepFromMerging, "madvise(MADV_UNMERGEABLE)"),
        (Advice::KeepFromChildren, "madvise(MADV_DONTFORK)"),
        (Advice::KeepFromDumps, "madvise(MADV_DONTDUMP)"),
    ] {
        // SAFETY: the caller's promise.
        match unsafe { sys::advise(start, bytes, advice) } {
            Ok(()) => {}
            // A kernel that was built without same-page merging returns EINVAL.
            Err(error) if populate::is_unsupported(error.kind()) => {}
            Err(source) => return Err(Error::system(call, bytes)(source)),
        }
    }
    Ok(())
}
