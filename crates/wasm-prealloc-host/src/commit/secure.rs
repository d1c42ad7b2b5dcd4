//! Commits regions: lock, headroom check, reserve, populate, residency check. After a failure all
//! of them are unmapped before anything else happens.

use std::iter;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use crate::commit::backing::Backing;
use crate::commit::group::{CommitOptions, Group};
use crate::commit::lock::CommitLock;
use crate::commit::locking::Locking;
use crate::commit::populate::{self, Part, Populate};
use crate::commit::region::{Layout, Region};
use crate::commit::report::{Method, OnProgress, Progress, Secured, Stage};
use crate::commit::requirements::{Requirements, WASM_PAGE_BYTES};
use crate::commit::residency::{Mapped, Reader, Residency, residency};
use crate::commit::trial::Trial;
use crate::error::SecureError;
use crate::limits::explain::explain;
use crate::limits::headroom::{Headroom, Need};
use crate::sys::HUGE_PAGE_BYTES;
use crate::sys::{self, Advice};

/// Committed memory, zero at first, and unmapped when dropped.
#[derive(Debug)]
pub struct SecuredRegion {
    region: Region,
    bytes: usize,
    /// False only within a pool whose memory is not secured.
    is_committed: bool,
    secured: Secured,
}

impl SecuredRegion {
    /// Commits as many pages as required.
    ///
    /// # Errors
    /// [`SecureError::Shortfall`] names the limit that leaves too little. The other variants say
    /// why memory could not be requested, or was refused although every limit allows it. Nothing
    /// stays mapped.
    pub fn secure(requirements: &Requirements) -> Result<SecuredRegion, SecureError> {
        let guard_bytes = sys::page_bytes().max(WASM_PAGE_BYTES as usize);
        let one = Group::new(requirements, requirements.bytes()?, guard_bytes, 1)?;
        let options = CommitOptions::of(requirements);
        let mut regions = secure_many(&options, &[one], &mut |_| {})?;
        Ok(regions.pop().expect("as many regions as requested"))
    }

    /// Returns the outcome of the commit.
    pub fn secured(&self) -> &Secured {
        &self.secured
    }

    /// Counts again how much of the memory is resident.
    ///
    /// # Errors
    /// [`SecureError::NotResident`] if a part is not: the kernel swapped it out, or took it back in
    /// another way. [`SecureError::Unreadable`] if the page tables cannot be read.
    pub fn check(&self) -> Result<Residency, SecureError> {
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

    /// Returns true if the memory was committed; see [`reserve_many`].
    pub(crate) fn is_committed(&self) -> bool {
        self.is_committed
    }

    /// Returns the number of committed bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }
}

/// Commits the regions of all groups, each at the start of a reservation with guards around it, or
/// none. They are returned in the order of the groups.
///
/// `progress` is called under the lock, perhaps near a limit: it must not need memory.
pub(crate) fn secure_many(
    options: &CommitOptions,
    groups: &[Group],
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<SecuredRegion>, SecureError> {
    let total_bytes = bytes_of(groups);
    let span = tracing::info_span!("secure", regions = count_of(groups), bytes = total_bytes);
    let _entered = span.enter();

    let mut report = |stage, committed_bytes: u64| {
        progress(Progress {
            stage,
            committed_bytes: committed_bytes.min(total_bytes),
            total_bytes,
        });
    };
    let headroom = Headroom::read()?;
    let trial = Trial::new(&headroom);
    let need = need_under(options, groups, &headroom);
    // Other committers do not change the limits of this process, so no lock is needed to refuse.
    Headroom::check_process(&need)?;
    let waiting = &mut || report(Stage::WaitingForLock, 0);
    let lock = CommitLock::acquire(&options.lock, waiting)?;
    let waited = whole_milliseconds(lock.waited());
    let start = Instant::now();
    let headroom = Headroom::read()?;
    headroom.check(&need)?;
    let mut commit = Commit {
        margin_bytes: options.margin_bytes,
        groups,
        // Opened before the first commit: afterwards, at a limit, there may be no memory left.
        reader: Reader::open(),
        trial,
        only_base_pages: false,
        locking: Locking::decide(options.lock_memory, &headroom, total_bytes),
    };
    // The check has refused most counts whose list does not fit in memory.
    let mut regions = Vec::new();
    let slots = count_of(groups);
    let listed = regions.try_reserve_exact(slots);
    listed.map_err(|_| SecureError::TooManySlots { slots })?;
    let mut outcome = commit.run(&mut regions, &mut report);
    let may_be_base = groups.iter().any(|group| group.backing == Backing::Auto);
    if let (Err(SecureError::NoHugePages { .. }), true) = (&outcome, may_be_base) {
        regions.clear();
        commit.only_base_pages = true;
        outcome = commit.run(&mut regions, &mut report);
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
        region.secured.locked_bytes = locked_bytes.min(region.bytes as u64);
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

/// Maps regions as [`secure_many`] does, in base pages that come on first touch. Takes no lock and
/// reads no limit.
pub(crate) fn reserve_many(groups: &[Group]) -> Result<Vec<SecuredRegion>, SecureError> {
    let mut regions = Vec::new();
    let slots = count_of(groups);
    let listed = regions.try_reserve_exact(slots);
    listed.map_err(|_| SecureError::TooManySlots { slots })?;
    for group in groups {
        for _ in 0..group.count {
            let region = map(&Group {
                backing: Backing::Base,
                ..*group
            })?;
            // A page fault is to take 4 KiB and not 2 MiB. Systems without the advice do so anyway.
            // SAFETY: the range is the region's own.
            let _ = unsafe { sys::advise(region.base(), group.bytes, Advice::BasePages) };
            regions.push(SecuredRegion {
                region,
                bytes: group.bytes,
                is_committed: false,
                secured: Secured {
                    how: Method::Touched,
                    elapsed: Duration::ZERO,
                    resident_bytes: 0,
                    locked_bytes: 0,
                    waited: Duration::ZERO,
                },
            });
        }
    }
    Ok(regions)
}

/// Rounds down to milliseconds, so that the time to take a free lock is zero.
pub(crate) fn whole_milliseconds(time: Duration) -> Duration {
    Duration::from_millis(time.as_millis() as u64)
}

/// Returns the need of all groups together, where every limit is visible.
pub(crate) fn need_of_many(options: &CommitOptions, groups: &[Group]) -> Need {
    let needs = groups.iter().map(|group| group.need(options.lock_memory));
    let need = needs.fold(Need::commit(0, 0, 0), Need::and);
    Need {
        physical_bytes: need.physical_bytes.saturating_add(options.margin_bytes),
        ..need
    }
}

/// Returns the need of all groups together under limits that were read. Where some are hidden, the
/// margin is mapped too, here or by the child that tries the commit.
pub(crate) fn need_under(options: &CommitOptions, groups: &[Group], headroom: &Headroom) -> Need {
    let need = need_of_many(options, groups);
    match Trial::new(headroom).is_needed() {
        true => Trial::add_need(options.margin_bytes, need),
        false => need,
    }
}

fn count_of(groups: &[Group]) -> usize {
    let counts = groups.iter().map(|group| group.count);
    counts.fold(0, usize::saturating_add)
}

/// Returns the size of all regions.
pub(crate) fn bytes_of(groups: &[Group]) -> u64 {
    let sizes = groups.iter().map(Group::all_bytes);
    sizes.fold(0, u64::saturating_add)
}

/// A commit of regions, with everything that was opened and decided before it.
struct Commit<'a> {
    margin_bytes: u64,
    groups: &'a [Group],
    reader: Reader,
    trial: Trial,
    /// True after it was found that there are not enough huge pages.
    only_base_pages: bool,
    locking: Locking,
}

impl Commit<'_> {
    /// Maps and commits all regions, and returns the number of bytes that are locked. After a
    /// failure those in the list have to be unmapped.
    fn run(
        &self,
        regions: &mut Vec<SecuredRegion>,
        progress: OnProgress<'_>,
    ) -> Result<u64, SecureError> {
        // One more for the margin.
        let mut parts = Vec::with_capacity(count_of(self.groups) + 1);
        let margin = self.before_mapping(progress)?;
        for group in self.groups {
            let backing = self.backing(group);
            for _ in 0..group.count {
                let region = map(group)?;
                if group.pool_page_log2().is_none() {
                    // SAFETY: the range is the region's own, which outlives the part, and was just
                    // made writable.
                    parts.push(unsafe { Part::new(region.base(), group.bytes, backing, true) });
                }
                regions.push(SecuredRegion {
                    region,
                    bytes: group.bytes,
                    is_committed: true,
                    secured: Secured {
                        how: Method::HugePool,
                        elapsed: Duration::ZERO,
                        resident_bytes: group.bytes as u64,
                        locked_bytes: 0,
                        waited: Duration::ZERO,
                    },
                });
            }
        }
        if let Some(margin) = &margin {
            let bytes = self.margin_in_huge_pages();
            // SAFETY: the range is the region's own, which outlives the part, and is writable.
            parts.push(unsafe { Part::new(margin.base(), bytes, Backing::Auto, true) });
        }
        self.populate_pool_pages(regions, progress)?;
        let margin_bytes = self.margin_bytes;
        Populate::new(margin_bytes, &self.reader, &self.trial, progress).run(&mut parts)?;
        let ranges = regions
            .iter()
            .map(|region| (region.region.base(), region.bytes));
        // SAFETY: the ranges are the regions' own.
        let locked_bytes = unsafe { self.locking.lock(ranges) }?;
        let mut parts = parts.iter();
        for (region, pool_page_log2) in regions.iter_mut().zip(self.pool_pages()) {
            if pool_page_log2.is_none()
                && let Some(part) = parts.next()
            {
                region.secured.how = part.method();
            }
            let base = region.region.base().as_ptr();
            self.reader.check(base, region.bytes, Mapped::Anonymous)?;
        }
        Ok(locked_bytes)
    }

    /// Returns the kind of pages of a group.
    fn backing(&self, group: &Group) -> Backing {
        match group.backing {
            Backing::Auto if self.only_base_pages => Backing::Base,
            backing => backing,
        }
    }

    /// Returns the size of the page of the machine's pool, if it has one, for each region.
    fn pool_pages(&self) -> impl Iterator<Item = Option<u32>> {
        let of_group = |group: &Group| iter::repeat_n(group.pool_page_log2(), group.count);
        self.groups.iter().flat_map(of_group)
    }

    fn populate_pool_pages(
        &self,
        regions: &[SecuredRegion],
        progress: OnProgress<'_>,
    ) -> Result<(), SecureError> {
        let mut done = 0;
        for (region, log2) in regions.iter().zip(self.pool_pages()) {
            let Some(log2) = log2 else { continue };
            let base = region.region.base();
            // SAFETY: the range was mapped as pages of the pool.
            unsafe {
                let progress =
                    &mut |within: usize| progress(Stage::Committing, done + within as u64);
                populate::pool_pages(base, region.bytes, 1 << log2, progress)
            }?;
            done += region.bytes as u64;
            progress(Stage::Committing, done);
        }
        Ok(())
    }

    /// Proves, before anything is mapped, that there is room if a limit may be hidden: in base pages
    /// by a trial, and in huge pages by a part of its own for the margin, which the kernel can
    /// refuse.
    fn before_mapping(&self, progress: OnProgress<'_>) -> Result<Option<Region>, SecureError> {
        if !self.trial.is_needed() {
            return Ok(None);
        }
        let others = self.groups.iter();
        let others = others.filter(|group| group.pool_page_log2().is_none());
        let huge = others.clone().any(|group| {
            group.bytes >= HUGE_PAGE_BYTES && populate::may_have_huge_pages(self.backing(group))
        });
        if !huge {
            let sizes = others.map(Group::all_bytes);
            let bytes = sizes.fold(0, u64::saturating_add);
            let margin_bytes = self.margin_bytes;
            self.trial.of_base_pages(bytes, margin_bytes, progress)?;
            return Ok(None);
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
        let region = map().map_err(SecureError::system("mmap of the margin", bytes))?;
        // SAFETY: the range is the region's own.
        unsafe { keep(region.base(), bytes) }?;
        Ok((bytes > 0).then_some(region))
    }

    fn margin_in_huge_pages(&self) -> usize {
        let bytes = usize::try_from(self.margin_bytes).unwrap_or(usize::MAX >> 1);
        bytes.next_multiple_of(HUGE_PAGE_BYTES)
    }
}

/// Maps one region that is writable. Nothing of it is resident.
fn map(group: &Group) -> Result<Region, SecureError> {
    let bytes = group.bytes;
    let mapping_bytes = group.layout.mapping_bytes().unwrap_or(usize::MAX);
    let region = Region::reserve(group.layout);
    let mut region = region.map_err(SecureError::system("mmap", mapping_bytes))?;
    match group.pool_page_log2() {
        Some(log2) => region
            .map_huge_pages(bytes, log2)
            .map_err(SecureError::system("mmap(MAP_HUGETLB)", bytes))?,
        None => region
            .make_writable(bytes)
            .map_err(SecureError::system("mprotect", bytes))?,
    }
    // SAFETY: the range is the region's own.
    unsafe { keep(region.base(), bytes) }?;
    Ok(region)
}

/// Keeps a range that is to be committed from same-page merging, from children and from core dumps.
/// A system without the advice is accepted: it does none of these, or cannot be kept from it.
///
/// The caller populates the range afterwards: pages that exist at a fork would be shared.
///
/// # Safety
/// The range is mapped, and belongs to the caller.
pub(crate) unsafe fn keep(start: NonNull<u8>, bytes: usize) -> Result<(), SecureError> {
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
            Err(source) => return Err(SecureError::system(call, bytes)(source)),
        }
    }
    Ok(())
}
