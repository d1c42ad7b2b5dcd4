//! Finds out which of a process's pages were written, without a cost for those that were not:
//! `PAGEMAP_SCAN` over ranges that a userfaultfd(2) write-protects asynchronously.
//!
//! What is done with the answer is in `reset`. Since Linux 6.7; where a kernel or a sandbox has
//! it not, there is no tracker.
//!
//! Sources: `Documentation/admin-guide/mm/pagemap.rst` and `.../userfaultfd.rst` of the kernel.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// `linux/userfaultfd.h`: the version of the interface, and what is asked of it.
const UFFD_API: u64 = 0xaa;
const UFFD_USER_MODE_ONLY: libc::c_int = 1;
const UFFD_FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
const UFFD_FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
const UFFDIO_API: u64 = read_write(0xaa, 0x3f, size_of::<UffdioApi>());
const UFFDIO_REGISTER: u64 = read_write(0xaa, 0x00, size_of::<UffdioRegister>());
/// A plain read, as the header has it.
const UFFDIO_UNREGISTER: u64 = 0x8000_0000 | request(0xaa, 0x01, size_of::<UffdioRange>());

/// `linux/fs.h`.
const PAGEMAP_SCAN: u64 = read_write(b'f', 16, size_of::<PmScanArg>());
const PM_SCAN_WP_MATCHING: u64 = 1 << 0;
const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;
const PAGE_IS_WRITTEN: u64 = 1 << 1;

/// How many ranges one scan can return.
const RANGES_AT_ONCE: usize = 512;

/// The number of an ioctl(2) that reads and writes `bytes`, as `asm-generic/ioctl.h` makes it.
const fn read_write(kind: u8, number: u8, bytes: usize) -> u64 {
    0xc000_0000 | request(kind, number, bytes)
}

const fn request(kind: u8, number: u8, bytes: usize) -> u64 {
    (bytes as u64) << 16 | (kind as u64) << 8 | number as u64
}

#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdioRange {
    start: u64,
    len: u64,
}

#[repr(C)]
struct UffdioRegister {
    range: UffdioRange,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct PmScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// What it takes to track writes of this process.
#[derive(Debug)]
pub(crate) struct Tracker {
    userfault: OwnedFd,
    pagemap: File,
}

impl Tracker {
    /// Opens both interfaces.
    pub(crate) fn open() -> io::Result<Tracker> {
        // SAFETY: the call takes flags and returns a descriptor or -1.
        let descriptor = unsafe {
            libc::syscall(
                libc::SYS_userfaultfd,
                libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY,
            )
        };
        let descriptor = RawFd::try_from(descriptor).map_err(io::Error::other)?;
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and this value's alone.
        let userfault = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let mut api = UffdioApi {
            api: UFFD_API,
            features: UFFD_FEATURE_WP_ASYNC
                | UFFD_FEATURE_WP_UNPOPULATED
                | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
            ioctls: 0,
        };
        // SAFETY: the request takes this structure.
        unsafe { ioctl(&userfault, UFFDIO_API, &mut api) }?;
        let tracker = Tracker {
            userfault,
            pagemap: File::open("/proc/self/pagemap")?,
        };
        // An old kernel opens both and knows no scan. Of an empty range nothing is scanned.
        tracker.scan(0..0, 0, &mut [])?;
        Ok(tracker)
    }

    /// Starts to track a range: nothing in it counts as written.
    ///
    /// # Safety
    ///
    /// The range is of whole pages, mapped, the caller's own, and tracked by nobody else.
    pub(crate) unsafe fn watch(&self, range: Range<usize>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mut register = UffdioRegister {
            range: UffdioRange::of(&range),
            mode: UFFDIO_REGISTER_MODE_WP,
            ioctls: 0,
        };
        // SAFETY: the request takes this structure. It changes how writes to the range are
        // served, and nothing that can be read; the range is the caller's.
        unsafe { ioctl(&self.userfault, UFFDIO_REGISTER, &mut register) }?;
        self.forget(range)
    }

    /// Ceases to track a range. Writes to it are free again.
    ///
    /// # Safety
    ///
    /// The range is of whole pages, mapped, and the caller's own.
    pub(crate) unsafe fn unwatch(&self, range: Range<usize>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mut range = UffdioRange::of(&range);
        // SAFETY: the request takes this structure; for the rest see `watch`.
        unsafe { ioctl(&self.userfault, UFFDIO_UNREGISTER, &mut range) }
    }

    /// Makes everything in a tracked range count as not written again.
    pub(crate) fn forget(&self, range: Range<usize>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let (walked, _) = self.scan(
                at..range.end,
                PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
                &mut [],
            )?;
            if walked <= at {
                return Err(io::Error::other("PAGEMAP_SCAN does not advance"));
            }
            at = walked;
        }
        Ok(())
    }

    /// What was written of a tracked range, in ascending order, added to `found`.
    pub(crate) fn written(
        &self,
        range: Range<usize>,
        found: &mut Vec<Range<usize>>,
    ) -> io::Result<()> {
        let mut regions = [PageRegion::default(); RANGES_AT_ONCE];
        let mut at = range.start;
        while at < range.end {
            let (walked, count) = self.scan(at..range.end, PM_SCAN_CHECK_WPASYNC, &mut regions)?;
            for region in &regions[..count] {
                let (start, end) = (region.start as usize, region.end as usize);
                match found.last_mut() {
                    Some(last) if last.end == start => last.end = end,
                    _ => found.push(start..end),
                }
            }
            if walked <= at {
                return Err(io::Error::other("PAGEMAP_SCAN does not advance"));
            }
            at = walked;
        }
        Ok(())
    }

    /// One scan: where it stopped, and how many of `regions` it filled in.
    fn scan(
        &self,
        range: Range<usize>,
        flags: u64,
        regions: &mut [PageRegion],
    ) -> io::Result<(usize, usize)> {
        let mut arg = PmScanArg {
            size: size_of::<PmScanArg>() as u64,
            flags,
            start: range.start as u64,
            end: range.end as u64,
            walk_end: 0,
            vec: match regions.is_empty() {
                true => 0,
                false => regions.as_mut_ptr() as u64,
            },
            vec_len: regions.len() as u64,
            max_pages: 0,
            category_inverted: 0,
            category_mask: PAGE_IS_WRITTEN,
            category_anyof_mask: 0,
            return_mask: match regions.is_empty() {
                true => 0,
                false => PAGE_IS_WRITTEN,
            },
        };
        // SAFETY: the request takes this structure, and fills in no more regions than it says
        // there are. It reads page tables, and write-protects what a userfaultfd tracks.
        let count = unsafe { ioctl_counting(&self.pagemap, PAGEMAP_SCAN, &mut arg) }?;
        Ok((arg.walk_end as usize, count))
    }
}

impl UffdioRange {
    fn of(range: &Range<usize>) -> UffdioRange {
        UffdioRange {
            start: range.start as u64,
            len: range.len() as u64,
        }
    }
}

/// ioctl(2).
///
/// # Safety
///
/// `request` takes a `T`, and what it does is allowed.
unsafe fn ioctl<T>(file: &impl AsRawFd, request: u64, argument: &mut T) -> io::Result<()> {
    // SAFETY: the caller's promise.
    unsafe { ioctl_counting(file, request, argument) }.map(|_| ())
}

/// As [`ioctl`], and what it returns.
///
/// # Safety
///
/// As for [`ioctl`].
unsafe fn ioctl_counting<T>(
    file: &impl AsRawFd,
    request: u64,
    argument: &mut T,
) -> io::Result<usize> {
    loop {
        let argument: *mut T = argument;
        // SAFETY: the caller's promise. The type of a request differs between C libraries.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), request as _, argument) };
        match usize::try_from(result) {
            Ok(count) => return Ok(count),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}
