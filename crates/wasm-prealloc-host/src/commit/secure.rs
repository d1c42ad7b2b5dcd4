//! Commits regions: lock, headroom check, reserve, populate, residency check. After a failure all
//! of them are unmapped before anything else happens.

use std::time::{Duration, Instant};

use crate::commit::lock::CommitLock;
use crate::commit::locking::Locking;
use crate::commit::populate;
use crate::commit::region::{HUGE_PAGE_BYTES, Layout, Region};
use crate::commit::report::{Method, Progress, Secured, Stage};
use crate::commit::requirements::{LockMemory, Requirements, WASM_PAGE_BYTES};
use crate::commit::residency::{Reader, Residency, residency};
use crate::error::Error;
use crate::limits::explain::explain;
use crate::limits::headroom::{Headroom, Need};
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
    let need = need_of_many(requirements, &layout, count)?;
    let span = tracing::info_span!("secure", regions = count, pages = requirements.pages);
    let _entered = span.enter();

    // Before the first commit: afterwards, at a limit, there may be no memory left for it.
    let reader = Reader::open();
    let total_bytes = (bytes as u64).saturating_mul(count as u64);
    let waiting = Progress {
        stage: Stage::WaitingForLock,
        committed_bytes: 0,
        total_bytes,
    };
    let lock = CommitLock::acquire(&requirements.lock, &mut || progress(waiting))?;
    let waited = whole_milliseconds(lock.waited());
    let headroom = Headroom::read()?;
    headroom.check(&need)?;
    let locking = Locking::decide(requirements.lock_memory, &headroom, total_bytes);
    // After the check, which refuses a number of regions that no list has room for.
    let mut regions = Vec::with_capacity(count);
    for done in 0..count {
        let before = (bytes as u64).saturating_mul(done as u64);
        let mut progress = |within: usize| {
            progress(Progress {
                stage: Stage::Committing,
                committed_bytes: before + within as u64,
                total_bytes,
            });
        };
        match commit(requirements, bytes, layout, &reader, &mut progress) {
            Ok(region) => {
                progress(bytes);
                regions.push(region);
            }
            Err(failure) => return Err(given_up(regions, failure, &need)),
        }
    }
    let ranges = regions.iter().map(|region| (region.region.base(), bytes));
    // SAFETY: the ranges are the regions' own.
    let locked_bytes = match unsafe { locking.lock(ranges) } {
        Ok(locked_bytes) => locked_bytes,
        Err(failure) => return Err(given_up(regions, failure, &need)),
    };
    for region in &mut regions {
        region.secured.waited = waited;
        region.secured.locked_bytes = match locked_bytes {
            0 => 0,
            _ => bytes as u64,
        };
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

/// Unmaps the regions, and finds the limit that explains a failure.
fn given_up(regions: Vec<SecuredRegion>, failure: Error, need: &Need) -> Error {
    // At a limit every further page can cause a kill, and the message of the error takes memory
    // too.
    drop(regions);
    let error = explain(failure, need);
    tracing::warn!(%error, "memory was not secured");
    error
}

/// Cuts the time of an attempt that did not wait to zero.
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

/// Commits one region. After a failure it is unmapped.
fn commit(
    requirements: &Requirements,
    bytes: usize,
    layout: Layout,
    reader: &Reader,
    progress: populate::Progress<'_>,
) -> Result<SecuredRegion, Error> {
    let start = Instant::now();
    let mapping_bytes = layout.mapping_bytes().unwrap_or(usize::MAX);
    let mut region = Region::reserve(layout).map_err(Error::system("mmap", mapping_bytes))?;
    let base = region.base();
    let how = if let Some(log2) = requirements.backing.pool_page_log2() {
        region
            .map_huge_pages(bytes, log2)
            .map_err(Error::system("mmap(MAP_HUGETLB)", bytes))?;
        // SAFETY: the range was just mapped as pages of the pool.
        unsafe { populate::pool_pages(base, bytes, 1 << log2, progress) }?;
        Method::HugePool
    } else {
        region
            .make_writable(bytes)
            .map_err(Error::system("mprotect", bytes))?;
        // SAFETY: the range was just made writable.
        unsafe { populate::populate(base, bytes, requirements, reader, progress) }?
    };
    // A write after a fork would copy pages, which takes memory that is not secured. A kernel
    // without this advice is accepted.
    // SAFETY: the range is the region's own.
    let _ = unsafe { sys::advise(base, bytes, Advice::KeepFromChildren) };
    let resident_bytes = reader.check(base.as_ptr(), bytes)?;
    Ok(SecuredRegion {
        region,
        bytes,
        secured: Secured {
            how,
            elapsed: start.elapsed(),
            resident_bytes,
            locked_bytes: 0,
            waited: Duration::ZERO,
        },
    })
}
