//! Commits a region: lock, headroom check, reserve, populate in a way that the kernel can refuse,
//! read back. Whatever fails, the region is unmapped before anything else happens.
//!
//! The populating itself is in `populate`, the mapping in `region`, the limits in `headroom`.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::headroom::{Headroom, Need};
use crate::limit::Bytes;
use crate::lock::{CommitLock, LockOptions};
use crate::populate::{self, Failure};
use crate::region::{Extent, HUGE_PAGE_BYTES, Region, os_page_bytes};

/// The bytes of a wasm page.
pub const WASM_PAGE_BYTES: u64 = 64 << 10;

/// The pages of a full 32-bit linear memory: 65,536 of 64 KiB are 4 GiB.
pub const DEFAULT_PAGES: u64 = 1 << 16;

/// The margin that a commit leaves by default: 32 MiB.
///
/// In a quiet cgroup none is needed. This covers what the same group still allocates between the
/// check and the end of the block: compiled code, tables and stacks of the engine, a few MiB, and
/// the charges that the kernel makes in advance, up to 256 KiB for each processor.
pub const DEFAULT_MARGIN_BYTES: u64 = 32 << 20;

/// How pages are obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Backing {
    /// Huge pages, which are fastest and which a cgroup can refuse without killing anybody.
    /// Where the kernel has none to give, as for [`Backing::Base`].
    #[default]
    Auto,
    /// Pages of the operating system's base size, with a headroom check for every 64 MiB.
    Base,
}

/// What is to be secured, and how carefully.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Requirements {
    /// The size of each memory, in wasm pages of 64 KiB.
    pub pages: u64,
    /// What each limit on physical memory must leave beyond the need, in bytes.
    pub margin_bytes: u64,
    /// How committers on one machine wait for each other.
    pub lock: LockOptions,
    /// How pages are obtained.
    pub backing: Backing,
}

impl Default for Requirements {
    fn default() -> Self {
        Requirements::of_pages(DEFAULT_PAGES)
    }
}

impl Requirements {
    /// Memories of `pages` wasm pages of 64 KiB, and the default for everything else.
    pub fn of_pages(pages: u64) -> Self {
        Requirements {
            pages,
            margin_bytes: DEFAULT_MARGIN_BYTES,
            lock: LockOptions::default(),
            backing: Backing::default(),
        }
    }

    /// The size of each memory in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::PageCount`] unless the number of pages is from 1 to 65,536.
    pub fn bytes(&self) -> Result<usize, Error> {
        let pages = self.pages;
        if !(1..=DEFAULT_PAGES).contains(&pages) {
            return Err(Error::PageCount { pages });
        }
        usize::try_from(pages * WASM_PAGE_BYTES).map_err(|_| Error::PageCount { pages })
    }
}

/// How a region was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    /// Huge pages throughout, `madvise(MADV_COLLAPSE)`.
    Collapsed,
    /// `madvise(MADV_POPULATE_WRITE)`, for at least a part of the region.
    Populated,
    /// One write to each of the operating system's pages, for at least a part of the region.
    Touched,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Collapsed => "huge pages (MADV_COLLAPSE)",
            Method::Populated => "populating (MADV_POPULATE_WRITE)",
            Method::Touched => "touching each page of the operating system",
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
        let extent = Extent {
            reservation_bytes: requirements.bytes()?,
            guard_bytes: os_page_bytes().max(WASM_PAGE_BYTES as usize),
        };
        SecuredRegion::secure_within(requirements, extent)
    }

    /// Commits the pages required at the start of a larger reservation.
    pub(crate) fn secure_within(
        requirements: &Requirements,
        extent: Extent,
    ) -> Result<SecuredRegion, Error> {
        let bytes = requirements.bytes()?;
        let mapping_bytes = extent.mapping_bytes().unwrap_or(usize::MAX);
        let need = Need::commit(
            bytes as u64,
            mapping_bytes as u64,
            requirements.margin_bytes,
        );

        let _lock = CommitLock::acquire(&requirements.lock)?;
        let start = Instant::now();
        Headroom::read()?.check(&need)?;
        let mut region = Region::reserve(extent)
            .map_err(|source| refused("mmap", mapping_bytes, source, &need))?;
        let outcome = match region.make_writable(bytes) {
            Ok(()) => commit(&region, bytes, requirements),
            Err(source) => Err(Failure::system("mprotect", bytes, &source)),
        };
        let (how, resident_bytes) = match outcome {
            Ok(done) => done,
            Err(failure) => {
                // At a limit every further page can get somebody killed, and even making the
                // message of an error takes memory.
                drop(region);
                return Err(explain(failure, &need));
            }
        };
        let secured = Secured {
            how,
            elapsed: start.elapsed(),
            resident_bytes,
        };
        Ok(SecuredRegion {
            region,
            bytes,
            secured,
        })
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

    /// The first byte, for an engine that owns this value and reads and writes through addresses.
    #[cfg(feature = "wasmtime")]
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.region.base().as_ptr()
    }

    /// How many bytes there are.
    #[cfg(feature = "wasmtime")]
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }
}

/// Populates the writable part of `region` and reads back what became resident.
fn commit(
    region: &Region,
    bytes: usize,
    requirements: &Requirements,
) -> Result<(Method, u64), Failure> {
    let base = region.base();
    let mut how = Method::Collapsed;
    let mut collapsed = 0;
    if requirements.backing == Backing::Auto {
        // SAFETY: the first `bytes` from the base are mapped, writable, still zero, and known to
        // nobody else.
        collapsed = unsafe { populate::collapse(base, bytes) }?;
    }
    if collapsed < bytes {
        let margin = requirements.margin_bytes;
        // SAFETY: as above; touching and collapsing left every byte zero.
        let used = unsafe { populate::in_chunks(base, collapsed, bytes, margin) }?;
        // A tail shorter than a huge page does not change how the region was had.
        if bytes - collapsed >= HUGE_PAGE_BYTES || collapsed == 0 {
            how = used;
        }
    }
    let resident_bytes = populate::resident(base.as_ptr(), bytes)
        .map_err(|source| Failure::system("mincore", bytes, &source))?;
    if resident_bytes < bytes as u64 {
        return Err(Failure::NotResident {
            expected_bytes: bytes as u64,
            resident_bytes,
        });
    }
    Ok((how, resident_bytes))
}

/// The error of a failure, with the limits read afresh. The region is gone by now.
fn explain(failure: Failure, need: &Need) -> Error {
    match failure {
        Failure::Known(error) => error,
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
    if source.raw_os_error() == Some(libc::ENOMEM)
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
    populate::resident(memory.as_ptr(), memory.len())
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
