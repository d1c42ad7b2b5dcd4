//! Commits memory that an engine mapped itself.

use std::ops::Range;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use crate::commit::backing::Backing;
use crate::commit::lock::CommitLock;
use crate::commit::locking::Locking;
use crate::commit::populate::{Part, Populate};
use crate::commit::report::{Method, Secured};
use crate::commit::requirements::{LockMemory, Requirements};
use crate::commit::residency::{Mapped, Reader};
use crate::commit::secure::{keep, whole_milliseconds};
use crate::commit::trial::Trial;
use crate::error::SecureError;
use crate::limits::explain::explain;
use crate::limits::headroom::{Headroom, Need};
use crate::sys::{self, Mapping};

/// Makes `bytes` of memory from `start` on resident, and keeps their contents.
///
/// For an engine that maps its memories itself: call it after the module is instantiated, so that
/// data segments are in place. Of `requirements` the number of pages does not apply; the margin,
/// the lock, the backing and [`lock_memory`](Requirements::lock_memory) do. An engine that unmaps
/// or resets its memories gives the pages back.
///
/// The memory has to be private. Pages that were only read, that come from a file (a copy-on-write
/// image), or that a child shares are replaced by pages of the process's own. Same-page merging
/// leaves the memory alone afterwards, core dumps do not contain it, and a child that is forked
/// later does not have the pages that lie completely in the range: a child that uses them crashes.
///
/// The lock is held and limits are checked as for [`SecuredRegion::secure`], so memory that does
/// not fit is refused without a kill. After a failure, pages that are already resident stay so
/// until the engine frees them: drop the instance at once.
///
/// [`SecuredRegion::secure`]: crate::SecuredRegion::secure
///
/// # Errors
/// As for [`SecuredRegion::secure`]; [`SecureError::Backing`] for pages of the machine's pool,
/// which cannot back memory that is already mapped; [`SecureError::Mapping`] for shared memory, and
/// for a part that is not mapped, or not readable and writable.
///
/// # Safety
/// All of the range is mapped, readable and writable, and stays so during the call.
///
/// ```
/// use wasm_prealloc_host::{Requirements, resident_bytes, secure_in_place};
///
/// let mut memory = vec![7_u8; 1 << 20];
/// // SAFETY: the vector owns the range, and is not freed during the call.
/// unsafe { secure_in_place(memory.as_mut_ptr(), memory.len(), &Requirements::default()) }?;
/// assert_eq!(resident_bytes(&memory)?, 1 << 20);
/// assert!(memory.iter().all(|&byte| byte == 7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub unsafe fn secure_in_place(
    start: *mut u8,
    bytes: usize,
    requirements: &Requirements,
) -> Result<Secured, SecureError> {
    if requirements.backing.pool_page_log2().is_some() {
        return Err(SecureError::Backing {
            backing: requirements.backing,
            why: "the memory is mapped already; use Backing::Auto",
        });
    }
    requirements.check_backing(bytes)?;
    let since = Instant::now();
    let mut waited = Duration::ZERO;
    let secured = |how, resident_bytes, locked_bytes, waited| Secured {
        how,
        elapsed: since.elapsed().saturating_sub(waited),
        resident_bytes,
        locked_bytes,
        waited,
    };
    // Only whole pages can be populated: those that contain the range.
    let page = sys::page_bytes();
    let first = start as usize - start as usize % page;
    let end = (start as usize).checked_add(bytes);
    let Some(end) = end.and_then(|end| end.checked_next_multiple_of(page)) else {
        return Err(NOT_MAPPED);
    };
    let whole_bytes = end - first;
    let (Some(base), false) = (NonNull::new(start.with_addr(first)), bytes == 0) else {
        return Ok(secured(Method::Populated, 0, 0, waited));
    };

    let range = base.addr().get()..base.addr().get() + whole_bytes;
    let mappings = private_mappings(range)?;
    let lock = CommitLock::acquire(&requirements.lock, &mut || {})?;
    waited = whole_milliseconds(lock.waited());
    let reader = Reader::open();
    let missing = reader.missing(base.as_ptr(), whole_bytes)?;
    let mut need = Need::populate(missing, requirements.margin_bytes);
    if requirements.lock_memory == LockMemory::On {
        need = need.locked(whole_bytes as u64);
    }
    let headroom = Headroom::read()?;
    headroom.check(&need)?;
    let locking = Locking::decide(requirements.lock_memory, &headroom, whole_bytes as u64);
    let trial = Trial::new(&headroom);
    let commit = || {
        // Page faults of memory that was only read can take huge pages, so everything is tried.
        trial.of_base_pages(missing, requirements.margin_bytes, &mut |_, _| {})?;
        // A page at either end can hold other data, which a child may use.
        let inner = range_inside(start as usize, bytes, page);
        if let Some(first) = NonNull::new(start.with_addr(inner.start))
            && !inner.is_empty()
        {
            // SAFETY: the range lies in the caller's.
            unsafe { keep(first, inner.len()) }?;
        }
        let mut parts: Vec<Part> = (mappings.iter())
            .map(|mapping| {
                let offset = mapping.range.start - base.addr().get();
                // A collapse of a file's pages would change the page cache, and not this memory.
                let huge = !mapping.file;
                // SAFETY: the pages contain a part of the caller's range, so they are mapped and
                // writable. They are private, and `huge` is false unless they are anonymous.
                unsafe {
                    let (start, bytes) = (base.add(offset), mapping.range.len());
                    Part::new(start, bytes, requirements.backing, huge)
                }
            })
            .collect();
        // Huge pages would cost a copy where all is resident, and residency is all that is
        // required.
        if missing > 0 || requirements.backing != Backing::Auto {
            let progress = &mut |_, _| {};
            let tried = Trial::of_visible_limits();
            let margin_bytes = requirements.margin_bytes;
            Populate::new(margin_bytes, &reader, &tried, progress).run(&mut parts)?;
        }
        // SAFETY: the pages are the caller's.
        let locked_bytes = unsafe { locking.lock([(base, whole_bytes)].into_iter()) }?;
        let resident_bytes = reader.check(start, bytes, Mapped::Unknown)?;
        let how = parts
            .iter()
            .map(Part::method)
            .max()
            .unwrap_or(Method::Populated);
        Ok(secured(how, resident_bytes, locked_bytes, waited))
    };
    commit().map_err(|failure| explain(failure, &need))
}

const NOT_MAPPED: SecureError = SecureError::Mapping {
    why: "a part of it is not mapped; give only the range that the engine has mapped",
};

/// Reads the mappings of a range, and checks that they are private and cover all of it, readable and
/// writable. Populating anything else would end the process.
fn private_mappings(range: Range<usize>) -> Result<Vec<Mapping>, SecureError> {
    let bytes = range.len();
    let mappings = sys::mappings(range).map_err(|source| SecureError::Unreadable {
        path: "/proc/self/maps".into(),
        source,
    })?;
    if mappings.iter().any(|mapping| mapping.shared) {
        return Err(SecureError::Mapping {
            why: "it is shared (MAP_SHARED), so other processes can change it and take it away; \
                  map it with MAP_PRIVATE",
        });
    }
    if mappings.iter().any(|mapping| !mapping.accessible) {
        return Err(SecureError::Mapping {
            why: "a part of it is not readable and writable; give only the range that the guest \
                  can use now",
        });
    }
    match mappings
        .iter()
        .map(|mapping| mapping.range.len())
        .sum::<usize>()
        == bytes
    {
        true => Ok(mappings),
        false => Err(NOT_MAPPED),
    }
}

/// Returns the whole pages that lie completely in a range.
fn range_inside(start: usize, bytes: usize, page: usize) -> Range<usize> {
    let (first, end) = (start.next_multiple_of(page), start + bytes);
    first..(end - end % page).max(first)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    #[cfg(target_os = "linux")]
    use crate::commit::region::Region;
    #[cfg(target_os = "linux")]
    use crate::commit::residency::tests::in_every_way;

    /// A private, writable mapping of a file.
    #[cfg(target_os = "linux")]
    pub(crate) struct PrivateFile {
        base: NonNull<u8>,
        bytes: usize,
    }

    #[cfg(target_os = "linux")]
    impl PrivateFile {
        pub(crate) fn new(contents: &[u8]) -> PrivateFile {
            use std::io::Write as _;
            use std::os::fd::AsRawFd as _;

            let mut file = tempfile::tempfile().unwrap();
            file.write_all(contents).unwrap();
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let bytes = contents.len();
            // SAFETY: a new mapping at an address that the kernel chooses replaces nothing.
            let base = unsafe {
                let private = libc::MAP_PRIVATE;
                let file = file.as_raw_fd();
                libc::mmap(std::ptr::null_mut(), bytes, access, private, file, 0)
            };
            assert_ne!(base, libc::MAP_FAILED);
            let base = NonNull::new(base.cast()).unwrap();
            PrivateFile { base, bytes }
        }

        pub(crate) fn base(&self) -> NonNull<u8> {
            self.base
        }
    }

    #[cfg(target_os = "linux")]
    impl Drop for PrivateFile {
        fn drop(&mut self) {
            // SAFETY: the mapping is this value's own.
            unsafe { sys::release(self.base, self.bytes) };
        }
    }

    #[test]
    fn contents_stay_and_everything_is_resident() {
        let bytes = 9 << 20;
        let mut memory: Vec<u8> = Vec::with_capacity(bytes);
        let written = [1_usize, (3 << 20) + 5, bytes - 1];
        let spare = memory.spare_capacity_mut();
        for at in written {
            spare[at].write(0xa5);
        }
        let start = memory.as_mut_ptr();
        for backing in [Backing::Base, Backing::Auto] {
            let requirements = Requirements {
                backing,
                ..Requirements::default()
            };
            // SAFETY: the allocation is the vector's, and outlives the call.
            let secured = unsafe { secure_in_place(start, bytes, &requirements) }.unwrap();
            assert_eq!(secured.resident_bytes, bytes as u64);
            for at in written {
                // SAFETY: the byte was written above.
                assert_eq!(unsafe { start.add(at).read() }, 0xa5);
            }
        }
    }

    #[test]
    fn an_empty_range_is_secured_and_pool_pages_are_refused() {
        let requirements = &mut Requirements::default();
        // SAFETY: an empty range.
        let secured = unsafe { secure_in_place(NonNull::dangling().as_ptr(), 0, requirements) };
        assert_eq!(secured.unwrap().resident_bytes, 0);
        requirements.backing = Backing::HugeTlb2M;
        let mut memory = [0_u8; 8];
        // SAFETY: the array outlives the call.
        let refused = unsafe { secure_in_place(memory.as_mut_ptr(), 8, requirements) };
        assert!(
            matches!(refused, Err(SecureError::Backing { .. })),
            "{refused:?}"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_part_that_cannot_be_written_is_refused_and_nothing_crashes() {
        let (bytes, part) = (4 << 20, 64 << 10);
        let refused = |start: *mut u8, bytes| {
            // SAFETY: nothing uses the range, of which the call checks that it is writable.
            let refused = unsafe { secure_in_place(start, bytes, &Requirements::default()) };
            assert!(
                matches!(refused, Err(SecureError::Mapping { .. })),
                "{refused:?}"
            );
        };
        for at in [0, 1 << 20, bytes - part] {
            for access in [libc::PROT_NONE, libc::PROT_READ] {
                let region = Region::writable(bytes);
                // SAFETY: the range is this test's own.
                let (start, protected) = unsafe {
                    let start = region.base().as_ptr();
                    (start, libc::mprotect(start.add(at).cast(), part, access))
                };
                assert_eq!(protected, 0);
                refused(start, bytes);
            }
        }
        let memory = Region::writable(part);
        refused(memory.base().as_ptr(), usize::MAX);
        refused(memory.base().as_ptr(), usize::MAX / 4);
        refused(std::ptr::without_provenance_mut(usize::MAX - 4095), 4096);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_that_was_only_read_is_committed_in_every_way() {
        in_every_way(|reader| {
            for backing in [Backing::Base, Backing::Auto] {
                let bytes = 8 << 20;
                let region = Region::writable(bytes);
                let base = region.base();
                for at in (0..bytes).step_by(sys::page_bytes()) {
                    // SAFETY: the range is readable and this test's own.
                    assert_eq!(unsafe { base.add(at).read_volatile() }, 0);
                }
                check_in_place(base, bytes, backing, 0, reader);
            }
        });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_private_image_of_a_file_is_committed_in_every_way() {
        in_every_way(|reader| {
            for backing in [Backing::Base, Backing::Auto] {
                let bytes = 4 << 20;
                let file = PrivateFile::new(&vec![7; bytes]);
                check_in_place(file.base(), bytes, backing, 7, reader);
            }
        });
    }

    /// Secures memory in place, and checks it by the page tables.
    #[cfg(target_os = "linux")]
    fn check_in_place(
        base: NonNull<u8>,
        bytes: usize,
        backing: Backing,
        contents: u8,
        reader: &Reader,
    ) {
        let requirements = Requirements {
            backing,
            ..Requirements::default()
        };
        // SAFETY: the range is mapped and writable during the call.
        let secured = unsafe { secure_in_place(base.as_ptr(), bytes, &requirements) }.unwrap();
        assert_eq!(secured.resident_bytes, bytes as u64);
        let mut own = 0;
        let range = base.addr().get()..base.addr().get() + bytes;
        let tables = sys::PageTables::open().unwrap();
        tables.unshared(range, |pages| own += pages.len()).unwrap();
        assert_eq!(own, bytes, "{backing} {reader:?}");
        // SAFETY: the range is mapped, and nothing writes to it.
        let memory = unsafe { std::slice::from_raw_parts(base.as_ptr(), bytes) };
        assert!(memory.iter().all(|&byte| byte == contents));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn pages_that_a_child_shares_are_missing() {
        let bytes = 2 << 20;
        let region = Region::writable(bytes);
        // SAFETY: the range is writable and this test's own.
        unsafe { region.base().write_bytes(1, bytes) };
        let reader = Reader::open();
        assert_eq!(reader.missing(region.base().as_ptr(), bytes).unwrap(), 0);
        // SAFETY: the child makes one system call until it is killed.
        let child = unsafe { libc::fork() };
        if child == 0 {
            loop {
                // SAFETY: pause has no preconditions.
                unsafe { libc::pause() };
            }
        }
        let missing = reader.missing(region.base().as_ptr(), bytes).unwrap();
        check_in_place(region.base(), bytes, Backing::Base, 1, &reader);
        // SAFETY: the child was not waited for, so the number is still its own.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
        assert_eq!(missing, bytes as u64);
    }
}
