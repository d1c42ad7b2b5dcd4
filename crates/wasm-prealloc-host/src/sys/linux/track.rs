//! Write tracking: finds the pages that a process wrote, at no cost for pages that it did not
//! write. `PAGEMAP_SCAN` reads ranges that a userfaultfd(2) write-protects asynchronously.
//!
//! Since Linux 6.7. The userfaultfd comes from the system call, or from `/dev/userfaultfd` (Linux
//! 6.1) where a sandbox denies the system call. What is done with the answer is in
//! `pool::watermark`.
//!
//! Sources: `Documentation/admin-guide/mm/pagemap.rst` and `.../userfaultfd.rst` of the kernel.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use linux_raw_sys::general::{
    PAGE_IS_WRITTEN, PM_SCAN_CHECK_WPASYNC, PM_SCAN_WP_MATCHING, UFFD_API, UFFD_FEATURE_WP_ASYNC,
    UFFD_FEATURE_WP_HUGETLBFS_SHMEM, UFFD_FEATURE_WP_UNPOPULATED, UFFD_USER_MODE_ONLY,
    UFFDIO_REGISTER_MODE_WP, page_region, pm_scan_arg, uffdio_api, uffdio_range, uffdio_register,
    uffdio_writeprotect,
};
use linux_raw_sys::ioctl::{UFFDIO_API, UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_WRITEPROTECT};

use crate::sys::tracking::{TrackingError, TrackingInterface};

/// The device that makes userfaultfds for those who can open it.
const DEVICE: &str = "/dev/userfaultfd";

/// The request of `linux/fs.h` that reads a [`pm_scan_arg`].
pub(super) const PAGEMAP_SCAN: libc::Ioctl = libc::_IOWR::<pm_scan_arg>(b'f' as u32, 16);

/// The request of `linux/userfaultfd.h` that makes a userfaultfd from [`DEVICE`].
const USERFAULTFD_IOC_NEW: libc::Ioctl = libc::_IO(0xAA, 0x00);

/// The number of ranges that one scan can return.
const RANGES_AT_ONCE: usize = 512;

const NO_RANGE: page_region = page_region {
    start: 0,
    end: 0,
    categories: 0,
};

/// Both interfaces of the kernel, open for this process.
#[derive(Debug)]
pub(crate) struct Tracker {
    userfault: OwnedFd,
    pagemap: File,
    interface: TrackingInterface,
}

impl Tracker {
    /// Opens both interfaces.
    pub(crate) fn open() -> Result<Tracker, TrackingError> {
        let (userfault, interface) = match userfault_by_call() {
            Ok(userfault) => (userfault, TrackingInterface::SystemCall),
            Err(system_call) => match userfault_by_device() {
                Ok(userfault) => (userfault, TrackingInterface::Device),
                Err(device) => {
                    return Err(TrackingError::Denied {
                        system_call,
                        device,
                    });
                }
            },
        };
        let features =
            UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
        let mut api = uffdio_api {
            api: UFFD_API.into(),
            features: features.into(),
            ioctls: 0,
        };
        // SAFETY: the request takes this structure.
        unsafe { ioctl(&userfault, UFFDIO_API as _, &mut api) }
            .map_err(TrackingError::Unsupported)?;
        let tracker = Tracker {
            userfault,
            pagemap: File::open("/proc/self/pagemap").map_err(TrackingError::Pagemap)?,
            interface,
        };
        // An old kernel opens both and does not know the request. An empty range scans nothing.
        let scanned = tracker.scan(0..0, 0, &mut []);
        scanned.map_err(TrackingError::Unsupported)?;
        Ok(tracker)
    }

    /// Returns the interface that the userfaultfd came from.
    pub(crate) fn interface(&self) -> TrackingInterface {
        self.interface
    }

    /// Returns the userfaultfd, for tests that let its calls fail.
    #[cfg(test)]
    pub(crate) fn userfault_for_tests(&self) -> &OwnedFd {
        &self.userfault
    }

    /// Starts to track a range: nothing in it counts as written.
    ///
    /// # Safety
    /// The range is of whole pages, mapped, owned by the caller, and not tracked by another
    /// tracker.
    pub(crate) unsafe fn watch(&self, range: Range<usize>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mut register = uffdio_register {
            range: to_uffdio(&range),
            mode: UFFDIO_REGISTER_MODE_WP.into(),
            ioctls: 0,
        };
        // SAFETY: the request takes this structure. It changes how the kernel serves writes to the
        // range, which is the caller's, and no contents.
        unsafe { ioctl(&self.userfault, UFFDIO_REGISTER as _, &mut register) }?;
        self.forget(range)
    }

    /// Stops tracking a range. Writes to it cost nothing again.
    ///
    /// # Safety
    /// The range is of whole pages, mapped, and owned by the caller.
    pub(crate) unsafe fn unwatch(&self, range: Range<usize>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mut range = to_uffdio(&range);
        // SAFETY: the request takes this structure; for the rest see `watch`.
        unsafe { ioctl(&self.userfault, UFFDIO_UNREGISTER as _, &mut range) }?;
        Ok(())
    }

    /// Makes everything in a tracked range count as written, without page faults, until
    /// [`forget`](Tracker::forget).
    pub(crate) fn expose(&self, range: Range<usize>) -> io::Result<()> {
        let mut protect = uffdio_writeprotect {
            range: to_uffdio(&range),
            mode: 0,
        };
        // SAFETY: the request takes this structure. It allows writes to pages that this
        // userfaultfd protected.
        unsafe { ioctl(&self.userfault, UFFDIO_WRITEPROTECT as _, &mut protect) }?;
        Ok(())
    }

    /// Makes everything in a tracked range count as not written again.
    pub(crate) fn forget(&self, range: Range<usize>) -> io::Result<()> {
        let flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC;
        self.scan_all(range, flags, &mut [], |_| {})
    }

    /// Adds the parts of a tracked range that were written to `found`, in ascending order.
    pub(crate) fn written(
        &self,
        range: Range<usize>,
        found: &mut Vec<Range<usize>>,
    ) -> io::Result<()> {
        let mut regions = [NO_RANGE; RANGES_AT_ONCE];
        self.scan_all(range, PM_SCAN_CHECK_WPASYNC, &mut regions, |region| {
            let (start, end) = (region.start as usize, region.end as usize);
            match found.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => found.push(start..end),
            }
        })
    }

    /// Scans a whole range, in as many steps as that takes.
    fn scan_all(
        &self,
        range: Range<usize>,
        flags: u32,
        regions: &mut [page_region],
        mut found: impl FnMut(&page_region),
    ) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let (walked, count) = self.scan(at..range.end, flags, regions)?;
            regions[..count].iter().for_each(&mut found);
            if walked <= at {
                return Err(io::Error::other("PAGEMAP_SCAN does not advance"));
            }
            at = walked;
        }
        Ok(())
    }

    /// Makes one scan. Returns the address where it stopped, and the number of `regions` that it
    /// filled in.
    fn scan(
        &self,
        range: Range<usize>,
        flags: u32,
        regions: &mut [page_region],
    ) -> io::Result<(usize, usize)> {
        let (vec, return_mask) = match regions.is_empty() {
            true => (0, 0),
            false => (regions.as_mut_ptr() as u64, PAGE_IS_WRITTEN.into()),
        };
        let mut arg = pm_scan_arg {
            size: size_of::<pm_scan_arg>() as u64,
            flags: flags.into(),
            start: range.start as u64,
            end: range.end as u64,
            walk_end: 0,
            vec,
            vec_len: regions.len() as u64,
            max_pages: 0,
            category_inverted: 0,
            category_mask: PAGE_IS_WRITTEN.into(),
            category_anyof_mask: 0,
            return_mask,
        };
        // SAFETY: the request takes this structure, and fills in at most `vec_len` regions. It
        // reads page tables, and write-protects what a userfaultfd tracks.
        let count = unsafe { ioctl(&self.pagemap, PAGEMAP_SCAN, &mut arg) }?;
        Ok((arg.walk_end as usize, count))
    }
}

/// Makes a userfaultfd by the system call.
fn userfault_by_call() -> io::Result<OwnedFd> {
    // SAFETY: the call takes flags and returns a descriptor or -1.
    let descriptor = unsafe { libc::syscall(libc::SYS_userfaultfd, userfault_flags()) };
    let descriptor = RawFd::try_from(descriptor).map_err(io::Error::other)?;
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and only this value owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Makes a userfaultfd by the device.
fn userfault_by_device() -> io::Result<OwnedFd> {
    let mut options = File::options();
    let device = options
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(DEVICE)?;
    // SAFETY: the request takes flags and returns a descriptor or -1.
    let descriptor =
        unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, userfault_flags()) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and only this value owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Faults in user mode only: what unprivileged processes are allowed. Asynchronous protection
/// handles writes by the kernel itself without it.
fn userfault_flags() -> libc::c_int {
    libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY.cast_signed()
}

fn to_uffdio(range: &Range<usize>) -> uffdio_range {
    uffdio_range {
        start: range.start as u64,
        len: range.len() as u64,
    }
}

/// Calls ioctl(2), again after each signal, and returns what it returns.
///
/// # Safety
/// `request` takes a `T`, and what it does is allowed.
pub(super) unsafe fn ioctl<T>(
    file: &impl AsRawFd,
    request: libc::Ioctl,
    argument: &mut T,
) -> io::Result<usize> {
    loop {
        // SAFETY: the caller's promise.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut *argument) };
        match usize::try_from(result) {
            Ok(count) => return Ok(count),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}
