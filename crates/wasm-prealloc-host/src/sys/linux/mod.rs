//! What Linux has beyond other systems: readable limits, huge pages, populating that can be
//! refused, and write tracking.

mod child;
mod fork;
mod mappings;
mod page_tables;
mod track;

use std::io;
use std::ptr::NonNull;

pub(crate) use child::{Child, Outcome};
pub(crate) use fork::process_mark;
pub(crate) use mappings::mappings;
pub(crate) use page_tables::{PAGEMAP, PageTables};
pub(crate) use track::Tracker;

use super::{Advice, unix};

/// The limits of memory can be read from `/proc` and `/sys`.
pub(crate) const HAS_LIMIT_FILES: bool = true;

/// Memory can be mapped in huge pages.
pub(crate) const HAS_HUGE_PAGES: bool = true;

/// The page tables of a process can be read, other than in a sandbox.
pub(crate) const HAS_PAGE_TABLES: bool = true;

/// Gives the kernel advice on a range, see madvise(2).
///
/// # Safety
/// The range is mapped, and the caller owns it.
pub(crate) unsafe fn advise(start: NonNull<u8>, bytes: usize, advice: Advice) -> io::Result<()> {
    let advice = match advice {
        Advice::BasePages => libc::MADV_NOHUGEPAGE,
        Advice::HugePages => libc::MADV_HUGEPAGE,
        // Since Linux 6.1, and not in every C library's headers yet.
        Advice::Collapse => linux_raw_sys::general::MADV_COLLAPSE.cast_signed(),
        // Since Linux 5.14.
        Advice::Populate => linux_raw_sys::general::MADV_POPULATE_WRITE.cast_signed(),
        Advice::KeepFromMerging => libc::MADV_UNMERGEABLE,
        Advice::KeepFromChildren => libc::MADV_DONTFORK,
        Advice::KeepFromDumps => libc::MADV_DONTDUMP,
        Advice::Apart => libc::MADV_RANDOM,
        Advice::Normal => libc::MADV_NORMAL,
    };
    // SAFETY: the caller's promise; no advice that is given here changes contents.
    unix::result(unsafe { libc::madvise(start.as_ptr().cast(), bytes, advice) })
}

/// Gives the pages of a range back. It reads as zero afterwards, and its pages come on first touch.
///
/// # Safety
/// The range is private anonymous memory that the caller owns, and is not in use.
pub(crate) unsafe fn discard(start: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller's promise.
    unix::result(unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_DONTNEED) })
}

/// Keeps a range from being swapped out, see mlock2(2).
///
/// # Safety
/// The range lies in a reservation that the caller owns and is resident.
pub(crate) unsafe fn lock_memory(start: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // What is resident is locked at once, and the rest at its first page fault. Without this flag,
    // mprotect(2) of locked memory looks at every page that becomes writable, which makes the
    // growth of a lent memory in base pages 2 to 3 times slower.
    const ON_FAULT: libc::c_uint = libc::MLOCK_ONFAULT;
    // SAFETY: the caller's promise; locking changes no contents.
    match unix::result(unsafe { libc::mlock2(start.as_ptr().cast(), bytes, ON_FAULT) }) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            // SAFETY: as above.
            unix::result(unsafe { libc::mlock(start.as_ptr().cast(), bytes) })
        }
        result => result,
    }
}

/// Returns true if the kernel's transparent huge pages have this size, or if it does not say.
pub(crate) fn has_transparent_huge_pages(bytes: usize) -> bool {
    let path = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse() == Ok(bytes),
        // A sandbox may hide the file. The kernel's answer to the advice decides then.
        Err(_) => true,
    }
}

/// Replaces a range by huge pages of the machine's pool: readable, writable, and zero. `log2` is
/// the binary logarithm of the huge page's size.
///
/// # Safety
/// The range lies in a reservation that the caller owns, is aligned to the huge page, and is not in
/// use.
pub(crate) unsafe fn map_huge_pages(start: NonNull<u8>, bytes: usize, log2: u32) -> io::Result<()> {
    // SAFETY: the caller's promise.
    let mapped = unsafe {
        libc::mmap(
            start.as_ptr().cast(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE
                | libc::MAP_ANONYMOUS
                | libc::MAP_FIXED
                | libc::MAP_HUGETLB
                | (log2 << libc::MAP_HUGE_SHIFT).cast_signed(),
            -1,
            0,
        )
    };
    match mapped == libc::MAP_FAILED {
        true => Err(io::Error::last_os_error()),
        false => Ok(()),
    }
}

/// Returns true if the process asked the kernel to merge equal pages, see `PR_GET_MEMORY_MERGE` of
/// prctl(2). A kernel before Linux 6.4 does not merge pages of whole processes.
pub(crate) fn merges_equal_pages() -> bool {
    const PR_GET_MEMORY_MERGE: libc::c_int = 68;
    // SAFETY: the option takes no pointers.
    unsafe { libc::prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1 }
}

/// Returns the NUMA nodes that the memory policy of this thread binds it to, see set_mempolicy(2).
/// Returns `None` if it is bound to none.
pub(crate) fn bound_nodes() -> Option<Vec<usize>> {
    /// The most nodes that a kernel is built for.
    const NODES: usize = 1024;
    const BITS: usize = usize::BITS as usize;
    const MPOL_BIND: libc::c_int = 2;
    /// The flags above the mode.
    const FLAGS: libc::c_int = !0 << 13;
    let mut mode: libc::c_int = 0;
    let mut mask = [0_usize; NODES / BITS];
    // SAFETY: the kernel writes one integer, and no more bits than the length that it receives.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut mode,
            mask.as_mut_ptr(),
            NODES,
            0_usize,
            0_usize,
        )
    };
    let bound = result == 0 && mode & !FLAGS == MPOL_BIND;
    let nodes = || (0..NODES).filter(|node| mask[node / BITS] >> (node % BITS) & 1 == 1);
    bound.then(|| nodes().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_that_a_thread_is_bound_to_are_read() {
        // A memory policy belongs to its thread.
        let bound = std::thread::spawn(|| {
            assert_eq!(bound_nodes(), None);
            let (bind, mask) = (2_usize, [1_usize]);
            // SAFETY: the kernel reads the mask's first bits.
            let set = unsafe {
                libc::syscall(
                    libc::SYS_set_mempolicy,
                    bind,
                    mask.as_ptr(),
                    usize::BITS as usize,
                )
            };
            (set == 0).then(bound_nodes)
        });
        match bound.join().unwrap() {
            Some(nodes) => assert_eq!(nodes, Some(vec![0])),
            None => println!("skipped: memory policies cannot be set here"),
        }
    }
}
