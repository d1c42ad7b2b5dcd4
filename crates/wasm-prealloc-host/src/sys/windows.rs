//! VirtualAlloc and related functions, and the file that committers lock. Windows counts committed
//! memory against its commit limit at once and refuses there; it has no OOM killer.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};

use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_RELEASE, MEM_RESERVE, PAGE_NOACCESS, PAGE_READWRITE, VirtualAlloc, VirtualFree,
    VirtualLock, VirtualProtect, VirtualUnlock,
};
use windows_sys::Win32::System::ProcessStatus::{
    PSAPI_WORKING_SET_EX_INFORMATION, QueryWorkingSetEx,
};
use windows_sys::Win32::System::SystemInformation::{GetSystemInfo, SYSTEM_INFO};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

/// Reserves `bytes` of inaccessible address space.
pub(crate) fn reserve(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new reservation at an address that the system chooses replaces nothing.
    let mapping = unsafe { VirtualAlloc(ptr::null(), bytes, MEM_RESERVE, PAGE_NOACCESS) };
    NonNull::new(mapping.cast()).ok_or_else(io::Error::last_os_error)
}

/// Commits a range: readable, writable, and counted. It reads as zero.
///
/// # Safety
/// The range lies in a reservation that the caller owns.
pub(crate) unsafe fn make_writable(start: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller's promise.
    let committed =
        unsafe { VirtualAlloc(start.as_ptr().cast(), bytes, MEM_COMMIT, PAGE_READWRITE) };
    match committed.is_null() {
        true => Err(io::Error::last_os_error()),
        false => Ok(()),
    }
}

/// Makes a committed range accessible or inaccessible. Its contents stay.
///
/// # Safety
/// The range lies in a committed range that the caller owns. If it becomes inaccessible, it is not
/// in use.
pub(crate) unsafe fn protect(start: NonNull<u8>, bytes: usize, accessible: bool) -> io::Result<()> {
    let access = match accessible {
        true => PAGE_READWRITE,
        false => PAGE_NOACCESS,
    };
    let mut before = 0;
    // SAFETY: the caller's promise; `before` outlives the call.
    result(unsafe { VirtualProtect(start.as_ptr().cast(), bytes, access, &mut before) })
}

/// Frees a reservation.
///
/// # Safety
/// The range is a whole reservation, and is not used afterwards.
pub(crate) unsafe fn release(start: NonNull<u8>, _bytes: usize) {
    // SAFETY: the caller's promise. A size of 0 frees the whole reservation.
    let released = unsafe { VirtualFree(start.as_ptr().cast(), 0, MEM_RELEASE) };
    debug_assert_ne!(released, 0, "VirtualFree of an own reservation");
}

/// Keeps a range from being paged out.
///
/// # Safety
/// The range lies in a committed range that the caller owns.
pub(crate) unsafe fn lock_memory(start: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller's promise; locking changes no contents.
    result(unsafe { VirtualLock(start.as_ptr().cast(), bytes) })
}

/// Undoes [`lock_memory`], also where nothing is locked.
///
/// # Safety
/// The range belongs to the caller.
pub(crate) unsafe fn unlock_memory(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise. It fails where nothing is locked.
    unsafe { VirtualUnlock(start.as_ptr().cast(), bytes) };
}

/// Reads the residency of the pages from address `first` on. The lowest bit of a page's entry is 1
/// if the page is in the working set.
pub(crate) fn residency(first: usize, pages: &mut [u8]) -> io::Result<()> {
    const PAGES_AT_ONCE: usize = 1 << 10;
    let page = page_bytes();
    for (index, pages) in pages.chunks_mut(PAGES_AT_ONCE).enumerate() {
        let first = first + index * PAGES_AT_ONCE * page;
        let mut queries: Vec<PSAPI_WORKING_SET_EX_INFORMATION> = (0..pages.len())
            .map(|index| PSAPI_WORKING_SET_EX_INFORMATION {
                VirtualAddress: (first + index * page) as *mut _,
                ..Default::default()
            })
            .collect();
        let size = u32::try_from(size_of_val(queries.as_slice())).unwrap_or(u32::MAX);
        // SAFETY: the array has the size that is passed, and is written within its bounds only.
        result(unsafe {
            QueryWorkingSetEx(GetCurrentProcess(), queries.as_mut_ptr().cast(), size)
        })?;
        for (state, query) in pages.iter_mut().zip(&queries) {
            // SAFETY: the call filled the union in; every bit pattern is a number.
            *state = unsafe { query.VirtualAttributes.Flags } as u8;
        }
    }
    Ok(())
}

/// The size of the operating system's page, in bytes.
pub(crate) fn page_bytes() -> usize {
    let mut info = SYSTEM_INFO::default();
    // SAFETY: the call fills the structure in.
    unsafe { GetSystemInfo(&mut info) };
    usize::try_from(info.dwPageSize).unwrap_or(4096)
}

/// The default path of [`LockOptions`](crate::LockOptions). Windows does not lock directories.
pub(crate) fn default_lock_path() -> PathBuf {
    std::env::temp_dir().join("wasm-prealloc.lock")
}

/// The path that every host on the machine shares.
pub(crate) const SHARED_LOCK: &str = "/";

/// Returns false: each user has one path, which all hosts of the user share.
pub(crate) fn is_private_lock(_path: &Path) -> bool {
    false
}

/// Opens the file to be locked, and creates it if it is missing.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false).open(path)
}

/// The result of a system call that returns 0 on failure.
fn result(returned: i32) -> io::Result<()> {
    match returned {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
