//! Commits regions: lock, headroom check, reserve, populate in a way that the kernel can refuse,
//! read back. Whatever fails, all of them are unmapped before anything else happens.
//!
//! The populating itself is in `populate`, the mapping in `region`, the limits in `headroom`.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crate::commit::lock::CommitLock;
use crate::commit::populate::{self, Failure};
use crate::commit::region::{Extent, HUGE_PAGE_BYTES, Region};
use crate::commit::requirements::{Backing, Requirements, WASM_PAGE_BYTES};
use crate::error::Error;
use crate::limits::headroom::{Headroom, Need};
use crate::limits::limit::Bytes;
use crate::sys as os;

/// How a region was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    /// Transparent huge pages throughout, `madvise(MADV_COLLAPSE)`.
    Collapsed,
    /// `madvise(MADV_POPULATE_WRITE)`, for at least a part of the region.
    Populated,
    /// One write to each of the operating system's pages, for at least a part of the region.
    Touched,
    /// Huge pages of the machine's pool.
    HugePool,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Collapsed => "huge pages (MADV_COLLAPSE)",
            Method::Populated => "populating (MADV_POPULATE_WRITE)",
            Method::Touched => "touching each page of the operating system",
            Method::HugePool => "huge pages of the machine's pool (MAP_HUGETLB)",
        })
    }
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Secured {
    /// How.
    pub how: Method,
    /// How long it took, waiting for the lock not counted.
    pub elapsed: Duration,
    /// How many bytes were found resident afterwards: all.
    pub resident_bytes: u64,
}

impl fmt::Display for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} resident, by {}, in {:.3} s",
            Bytes(self.resident_bytes),
            self.how,
            self.elapsed.as_secs_f64()
        )
    }
}

/// How far a commit has come. Memory that a virtual machine uses for the first time can take 15 s
/// for 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is committed so far, in bytes.
    pub committed_bytes: u64,
    /// What is to be committed, in bytes.
    pub total_bytes: u64,
}

/// Committed memory, zero at first, given back when dropped.
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
    ///
    /// [`Error::Shortfall`] names the limit that leaves too little; other variants say why memory
    /// could not be asked for, or was refused although every limit allows it. Nothing stays
    /// mapped.
    pub fn secure(requirements: &Requirements) -> Result<SecuredRegion, Error> {
        let guard_bytes = os::page_bytes().max(WASM_PAGE_BYTES as usize);
        let bytes = requirements.bytes()?;
        let mut regions = secure_many(requirements, bytes, guard_bytes, 1, &mut |_| {})?;
        Ok(regions.pop().expect("as many regions as were asked for"))
    }

    /// What the commit did.
    pub fn secured(&self) -> &Secured {
        &self.secured
    }

    /// The committed bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped and readable for as long as this value lives, and writing
        // to it takes a mutable borrow of this value, or an engine that owns it.
        unsafe { std::slice::from_raw_parts(self.region.base().as_ptr(), self.bytes) }
    }

    /// The committed bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range is mapped and writable for as long as this value lives, which is
        // mutably borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.region.base().as_ptr(), self.bytes) }
    }

    /// The mapping, for a pool that lends this memory and changes its protection.
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }
}

/// Commits `count` regions, each at the start of a reservation with guards around it, or none.
///
/// `progress` is called under the lock, near whatever limit there is: it must not need memory.
pub(crate) fn secure_many(
    requirements: &Requirements,
    reservation_bytes: usize,
    guard_bytes: usize,
    count: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<SecuredRegion>, Error> {
    let bytes = requirements.bytes()?;
    let extent = extent(requirements, reservation_bytes, guard_bytes)?;
    let need = need_of_many(requirements, &extent, count)?;
    let span = tracing::info_span!("secure", regions = count, pages = requirements.pages);
    let _entered = span.enter();

    // Under the lock, and before anything is committed: at a limit there may be no memory left
    // to make room for what is had.
    let mut regions = Vec::with_capacity(count);
    let _lock = CommitLock::acquire(&requirements.lock)?;
    Headroom::read()?.check(&need)?;
    let total_bytes = (bytes as u64).saturating_mul(count as u64);
    for done in 0..count {
        let before = (bytes as u64).saturating_mul(done as u64);
        let mut progress = |within: usize| {
            progress(Progress {
                committed_bytes: before + within as u64,
                total_bytes,
            });
        };
        match commit(requirements, bytes, extent, &mut progress) {
            Ok(region) => {
                progress(bytes);
                regions.push(region);
            }
            Err(failure) => {
                // At a limit every further page can get somebody killed, and even making the
                // message of an error takes memory.
                drop(regions);
                let error = explain(failure, &need);
                tracing::warn!(%error, "memory was not secured");
                return Err(error);
            }
        }
    }
    for region in &regions {
        tracing::info!(
            how = %region.secured.how,
            bytes = region.secured.resident_bytes,
            elapsed = ?region.secured.elapsed,
            "memory is resident"
        );
    }
    Ok(regions)
}

/// The address space of one region, if its pages can be had as required at all.
pub(crate) fn extent(
    requirements: &Requirements,
    reservation_bytes: usize,
    guard_bytes: usize,
) -> Result<Extent, Error> {
    let bytes = requirements.bytes()?;
    requirements.backing.check(bytes)?;
    let pool_page = requirements.backing.pool_page_log2();
    Ok(Extent {
        reservation_bytes: reservation_bytes.max(bytes),
        guard_bytes,
        alignment_bytes: pool_page.map_or(HUGE_PAGE_BYTES, |log2| 1 << log2),
    })
}

/// What `count` regions need together.
pub(crate) fn need_of_many(
    requirements: &Requirements,
    extent: &Extent,
    count: usize,
) -> Result<Need, Error> {
    let all = |bytes: u64| bytes.saturating_mul(count as u64);
    let committed_bytes = all(requirements.bytes()? as u64);
    let reserved_bytes = all(extent.mapping_bytes().unwrap_or(usize::MAX) as u64);
    let margin_bytes = requirements.margin_bytes;
    let mut need = Need::commit(committed_bytes, reserved_bytes, margin_bytes);
    if let Some(log2) = requirements.backing.pool_page_log2() {
        need = need.in_huge_pages(1 << log2, committed_bytes, margin_bytes);
    }
    if requirements.lock_memory {
        need = need.locked(committed_bytes);
    }
    Ok(need)
}

/// Commits one region. Whatever fails, it is unmapped.
fn commit(
    requirements: &Requirements,
    bytes: usize,
    extent: Extent,
    progress: populate::Progress<'_>,
) -> Result<SecuredRegion, Failure> {
    let start = Instant::now();
    let mapping_bytes = extent.mapping_bytes().unwrap_or(usize::MAX);
    let mut region = Region::reserve(extent)
        .map_err(|source| Failure::system("mmap", mapping_bytes, &source))?;
    let how = match requirements.backing.pool_page_log2() {
        #[cfg(target_os = "linux")]
        Some(log2) => {
            region
                .map_huge_pages(bytes, log2)
                .map_err(|source| Failure::system("mmap(MAP_HUGETLB)", bytes, &source))?;
            // SAFETY: the range was just mapped as such pages.
            unsafe { populate::huge_pages(region.base(), bytes, 1 << log2, progress) }?;
            Method::HugePool
        }
        _ => {
            region
                .make_writable(bytes)
                .map_err(|source| Failure::system("mprotect", bytes, &source))?;
            populate(&region, bytes, requirements, progress)?
        }
    };
    // SAFETY: the range is the region's own.
    unsafe { populate::keep_from_children(region.base(), bytes) };
    if requirements.lock_memory {
        // SAFETY: the range is the region's own, and resident.
        unsafe { os::lock(region.base(), bytes) }
            .map_err(|source| Failure::system("mlock", bytes, &source))?;
    }
    let resident_bytes = os::resident(region.base().as_ptr(), bytes)
        .map_err(|source| Failure::system("mincore", bytes, &source))?;
    if resident_bytes < bytes as u64 {
        return Err(Failure::NotResident {
            expected_bytes: bytes as u64,
            resident_bytes,
        });
    }
    Ok(SecuredRegion {
        region,
        bytes,
        secured: Secured {
            how,
            elapsed: start.elapsed(),
            resident_bytes,
        },
    })
}

/// Populates the writable part of `region`.
fn populate(
    region: &Region,
    bytes: usize,
    requirements: &Requirements,
    progress: populate::Progress<'_>,
) -> Result<Method, Failure> {
    let base = region.base();
    let mut how = Method::Collapsed;
    let mut collapsed = 0;
    if requirements.backing != Backing::Base {
        // SAFETY: the first `bytes` from the base are mapped and writable, and the base is aligned.
        collapsed = unsafe { populate::collapse(base, bytes, &mut *progress) }?;
    }
    if requirements.backing == Backing::Transparent && bytes - collapsed >= HUGE_PAGE_BYTES {
        return Err(Failure::NoHugePages {
            collapsed_bytes: collapsed as u64,
            needed_bytes: bytes as u64,
        });
    }
    if collapsed < bytes {
        let margin = requirements.margin_bytes;
        // SAFETY: as above.
        let used = unsafe { populate::in_chunks(base, collapsed, bytes, margin, progress) }?;
        // A tail shorter than a huge page does not change how the region was had.
        if bytes - collapsed >= HUGE_PAGE_BYTES || collapsed == 0 {
            how = used;
        }
    }
    Ok(how)
}

/// The error of a failure, with the limits read afresh. Nothing is mapped any more.
pub(crate) fn explain(failure: Failure, need: &Need) -> Error {
    match failure {
        Failure::Known(error) => error,
        Failure::NoHugePages {
            collapsed_bytes,
            needed_bytes,
        } => Error::NoHugePages {
            collapsed_bytes,
            needed_bytes,
        },
        Failure::CgroupFull { committed_bytes } => match Headroom::read() {
            Ok(headroom) => match headroom.shortfall(need) {
                Some(shortfall) => Error::Shortfall(shortfall),
                None => Error::CgroupRefused {
                    committed_bytes,
                    needed_bytes: need.physical_bytes,
                    nearest: headroom.nearest_cgroup().cloned().map(Box::new),
                },
            },
            Err(_) => Error::CgroupRefused {
                committed_bytes,
                needed_bytes: need.physical_bytes,
                nearest: None,
            },
        },
        Failure::System { call, bytes, errno } => {
            refused(call, bytes, io::Error::from_raw_os_error(errno), need)
        }
        Failure::NotResident {
            expected_bytes,
            resident_bytes,
        } => Error::NotResident {
            expected_bytes,
            resident_bytes,
        },
    }
}

/// ENOMEM has a limit behind it more often than not: name it where it can be found.
fn refused(call: &'static str, bytes: usize, source: io::Error, need: &Need) -> Error {
    if source.raw_os_error() == Some(os::errno::ENOMEM)
        && let Some(shortfall) = Headroom::read().ok().and_then(|now| now.shortfall(need))
    {
        return Error::Shortfall(shortfall);
    }
    Error::System {
        call,
        bytes: bytes as u64,
        source,
    }
}

/// How many bytes of `memory` are resident, counted in whole pages of the operating system and
/// cut to the slice.
///
/// # Errors
///
/// What mincore(2) says.
pub fn resident_bytes(memory: &[u8]) -> io::Result<u64> {
    os::resident(memory.as_ptr(), memory.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Need {
        Need::populate(0, 0)
    }

    fn too_much() -> Need {
        Need::populate(1 << 60, 0)
    }

    #[test]
    fn no_memory_names_the_limit_where_there_is_one() {
        let no_memory = || io::Error::from_raw_os_error(libc::ENOMEM);
        let error = refused("mmap", 1, no_memory(), &too_much());
        assert!(matches!(error, Error::Shortfall(_)), "{error}");
        let error = refused("mmap", 1, no_memory(), &nothing());
        assert!(
            matches!(error, Error::System { call: "mmap", .. }),
            "{error}"
        );
        let other = io::Error::from_raw_os_error(libc::EPERM);
        let error = refused("mprotect", 1, other, &too_much());
        assert!(matches!(error, Error::System { bytes: 1, .. }), "{error}");
    }

    #[test]
    fn a_cgroups_refusal_is_an_error_of_its_own_where_every_limit_allows_it() {
        let full = || Failure::CgroupFull {
            committed_bytes: 4 << 20,
        };
        let error = explain(full(), &nothing());
        assert!(
            matches!(error, Error::CgroupRefused { committed_bytes, .. } if committed_bytes == 4 << 20),
            "{error}"
        );
        let error = explain(full(), &too_much());
        assert!(matches!(error, Error::Shortfall(_)), "{error}");
    }

    #[test]
    fn less_resident_than_committed_is_an_error() {
        let failure = Failure::NotResident {
            expected_bytes: 2,
            resident_bytes: 1,
        };
        assert!(matches!(
            explain(failure, &nothing()),
            Error::NotResident { .. }
        ));
    }
}
