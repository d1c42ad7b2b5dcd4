//! VirtualAlloc and its relatives. Windows charges committed memory against its commit limit at
//! once, and refuses there; it has no OOM killer.

use std::io;
use std::ptr::{self, NonNull};

use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_RELEASE, MEM_RESERVE, PAGE_NOACCESS, PAGE_READWRITE, VirtualAlloc, VirtualFree,
    VirtualLock, VirtualProtect,
};
use windows_sys::Win32::System::ProcessStatus::{
    PSAPI_WORKING_SET_EX_INFORMATION, QueryWorkingSetEx,
};
use windows_sys::Win32::System::SystemInformation::{GetSystemInfo, SYSTEM_INFO};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

/// Reserves `bytes` of address space, nothing of it accessible.
pub(crate) fn reserve(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new reservation at an address of the system's choice replaces nothing.
    let mapping = unsafe { VirtualAlloc(ptr::null(), bytes, MEM_RESERVE, PAGE_NOACCESS) };
    NonNull::new(mapping.cast()).ok_or_else(io::Error::last_os_error)
}

/// Commits a range: readable, writable, and charged. It reads as zero.
///
/// # Safety
///
/// The range lies in a reservation of the caller's.
pub(crate) unsafe fn make_writable(start: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller's promise.
    let committed =
        unsafe { VirtualAlloc(start.as_ptr().cast(), bytes, MEM_COMMIT, PAGE_READWRITE) };
    match committed.is_null() {
        true => Err(io::Error::last_os_error()),
        false => Ok(()),
    }
}

/// Makes a committed range accessible or inaccessible. What it holds stays.
///
/// # Safety
///
/// The range lies in a committed range of the caller's, who knows of nobody that still uses it.
pub(crate) unsafe fn protect(start: NonNull<u8>, bytes: usize, accessible: bool) -> io::Result<()> {
    let access = match accessible {
        true => PAGE_READWRITE,
        false => PAGE_NOACCESS,
    };
    let mut before = 0;
    // SAFETY: the caller's promise; `before` outlives the call.
    match unsafe { VirtualProtect(start.as_ptr().cast(), bytes, access, &mut before) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Gives a reservation back.
///
/// # Safety
///
/// It is the whole of a reservation, and nobody uses it any more.
pub(crate) unsafe fn release(start: NonNull<u8>, _bytes: usize) {
    // SAFETY: the caller's promise. Releasing takes the size 0 and frees the whole.
    let released = unsafe { VirtualFree(start.as_ptr().cast(), 0, MEM_RELEASE) };
    debug_assert_ne!(released, 0, "VirtualFree of an own reservation");
}

/// Keeps a range from being paged out.
///
/// # Safety
///
/// The range lies in a committed range of the caller's.
pub(crate) unsafe fn lock(start: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller's promise; locking changes nothing that can be read.
    match unsafe { VirtualLock(start.as_ptr().cast(), bytes) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// How many of `bytes` from `start` on are in the working set.
pub(crate) fn resident(start: *const u8, bytes: usize) -> io::Result<u64> {
    const PAGES_AT_ONCE: usize = 1 << 10;
    /// The lowest bit of a page's attributes: it is in the working set.
    const VALID: usize = 1;
    let page = page_bytes();
    let end = start as usize + bytes;
    let mut at = start as usize - start as usize % page;
    let mut sum: u64 = 0;
    while at < end {
        let stop = end.min(at + PAGES_AT_ONCE * page);
        let mut pages: Vec<PSAPI_WORKING_SET_EX_INFORMATION> = (at..stop)
            .step_by(page)
            .map(|address| PSAPI_WORKING_SET_EX_INFORMATION {
                VirtualAddress: address as *mut _,
                // SAFETY: a union of numbers, for which zero is a value.
                VirtualAttributes: unsafe { std::mem::zeroed() },
            })
            .collect();
        let size = u32::try_from(std::mem::size_of_val(pages.as_slice())).unwrap_or(u32::MAX);
        // SAFETY: the array is as long as is said, and is written within its bounds only.
        let known =
            unsafe { QueryWorkingSetEx(GetCurrentProcess(), pages.as_mut_ptr().cast(), size) };
        if known == 0 {
            return Err(io::Error::last_os_error());
        }
        for entry in &pages {
            // SAFETY: the call filled the union in; every bit pattern of a number is one.
            if unsafe { entry.VirtualAttributes.Flags } & VALID == VALID {
                let address = entry.VirtualAddress as usize;
                sum += ((address + page).min(end) - address.max(start as usize)) as u64;
            }
        }
        at = stop;
    }
    Ok(sum)
}

/// The size of the operating system's page, in bytes.
pub(crate) fn page_bytes() -> usize {
    // SAFETY: a structure of numbers and addresses, for which zero is a value, and which the call
    // fills in.
    let info = unsafe {
        let mut info: SYSTEM_INFO = std::mem::zeroed();
        GetSystemInfo(&mut info);
        info
    };
    usize::try_from(info.dwPageSize).unwrap_or(4096)
}
