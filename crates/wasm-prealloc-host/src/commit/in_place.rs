//! Commits memory that somebody else has mapped: the linear memory of any engine.
//!
//! The populating itself is in `populate`.

use std::ptr::NonNull;
use std::time::Instant;

use crate::commit::lock::CommitLock;
use crate::commit::populate::{self, Failure};
use crate::commit::region::HUGE_PAGE_BYTES;
use crate::commit::requirements::{Backing, Requirements};
use crate::commit::secure::{Method, Secured, explain};
use crate::error::Error;
use crate::limits::headroom::{Headroom, Need};
use crate::sys as os;

/// Makes `bytes` of memory from `start` on resident, and changes nothing of what they hold.
///
/// For an engine that maps its memories itself: call it once the module is instantiated, data
/// segments and all. Of `requirements` the margin, the lock, the backing and
/// [`lock_memory`](Requirements::lock_memory) count, not the number of pages. How long it lasts is
/// the engine's affair: one that unmaps or resets its memories gives the pages back.
///
/// The lock is held and limits are checked as for [`SecuredRegion::secure`], so where the memory
/// does not fit nobody is killed. What a failure has already made resident stays so until the
/// engine frees it: drop the instance at once.
///
/// [`SecuredRegion::secure`]: crate::SecuredRegion::secure
///
/// # Errors
///
/// As for [`SecuredRegion::secure`]; [`Error::Backing`] for pages of the machine's pool, which
/// cannot be put below memory that is already mapped.
///
/// # Safety
///
/// All of the range is mapped, readable and writable, and stays so during the call.
///
/// ```
/// use wasm_prealloc_host::{Requirements, resident_bytes, secure_in_place};
///
/// let mut memory = vec![7_u8; 1 << 20];
/// // SAFETY: the vector owns the range, and nothing frees it meanwhile.
/// unsafe { secure_in_place(memory.as_mut_ptr(), memory.len(), &Requirements::default()) }?;
/// assert_eq!(resident_bytes(&memory)?, 1 << 20);
/// assert!(memory.iter().all(|&byte| byte == 7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub unsafe fn secure_in_place(
    start: *mut u8,
    bytes: usize,
    requirements: &Requirements,
) -> Result<Secured, Error> {
    if requirements.backing.pool_page_log2().is_some() {
        return Err(Error::Backing {
            backing: requirements.backing,
            why: "the memory is mapped already; use Backing::Auto",
        });
    }
    requirements.backing.check(bytes)?;
    let since = Instant::now();
    // Populating is by whole pages: those that the range lies in.
    let page = os::page_bytes();
    let first = start as usize - start as usize % page;
    let end = (start as usize + bytes).next_multiple_of(page);
    let (Some(base), false) = (NonNull::new(start.with_addr(first)), bytes == 0) else {
        return Ok(Secured {
            how: Method::Populated,
            elapsed: since.elapsed(),
            resident_bytes: 0,
        });
    };
    let missing = |already: u64| (end - first) as u64 - already.min((end - first) as u64);

    let _lock = CommitLock::acquire(&requirements.lock)?;
    let resident = |source| {
        explain(
            Failure::system("mincore", bytes, &source),
            &Need::populate(0, 0),
        )
    };
    let already = os::resident(base.as_ptr(), end - first).map_err(resident)?;
    let mut need = Need::populate(missing(already), requirements.margin_bytes);
    if requirements.lock_memory {
        need = need.locked((end - first) as u64);
    }
    Headroom::read()?.check(&need)?;
    if missing(already) == 0 && !requirements.lock_memory && requirements.backing == Backing::Auto {
        // Huge pages would have to be copied together, for no gain in what is asked for.
        return Ok(Secured {
            how: Method::Populated,
            elapsed: since.elapsed(),
            resident_bytes: bytes as u64,
        });
    }
    // SAFETY: the pages hold a part of the caller's range, so they are mapped and writable.
    let committed = unsafe { commit(base, end - first, requirements) };
    let how = committed.map_err(|failure| explain(failure, &need))?;
    let resident_bytes = os::resident(start, bytes).map_err(resident)?;
    if resident_bytes < bytes as u64 {
        let failure = Failure::NotResident {
            expected_bytes: bytes as u64,
            resident_bytes,
        };
        return Err(explain(failure, &need));
    }
    Ok(Secured {
        how,
        elapsed: since.elapsed(),
        resident_bytes,
    })
}

/// # Safety
///
/// `bytes` from `base` on are whole pages, mapped and writable.
unsafe fn commit(
    base: NonNull<u8>,
    bytes: usize,
    requirements: &Requirements,
) -> Result<Method, Failure> {
    let margin = requirements.margin_bytes;
    let silent = &mut |_| {};
    let aligned = (base.as_ptr() as usize).next_multiple_of(HUGE_PAGE_BYTES);
    let head = (aligned - base.as_ptr() as usize).min(bytes);
    let mut collapsed = 0;
    if requirements.backing != Backing::Base && head < bytes {
        // SAFETY: the range lies in the caller's, and starts at a multiple of a huge page.
        collapsed = unsafe { populate::collapse(base.add(head), bytes - head, silent) }?;
    }
    let rest = bytes - head - collapsed;
    if requirements.backing == Backing::Transparent && rest >= HUGE_PAGE_BYTES {
        return Err(Failure::NoHugePages {
            collapsed_bytes: collapsed as u64,
            needed_bytes: bytes as u64,
        });
    }
    let mut how = Method::Populated;
    for (from, to) in [(0, head), (head + collapsed, bytes)] {
        if from < to {
            // SAFETY: the range lies in the caller's, and both ends are multiples of a page.
            how = unsafe { populate::in_chunks(base, from, to, margin, silent) }?;
        }
    }
    if requirements.lock_memory {
        // SAFETY: the range is the caller's, and resident.
        unsafe { os::lock(base, bytes) }
            .map_err(|source| Failure::system("mlock", bytes, &source))?;
    }
    // What lies before and behind the huge pages does not change how the range was had.
    Ok(match rest < HUGE_PAGE_BYTES && collapsed > 0 {
        true => Method::Collapsed,
        false => how,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_mapping_holds_stays_and_all_of_it_is_resident() {
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
    fn nothing_is_secured_at_once_and_a_pools_pages_are_refused() {
        let requirements = &mut Requirements::default();
        // SAFETY: an empty range.
        let secured = unsafe { secure_in_place(NonNull::dangling().as_ptr(), 0, requirements) };
        assert_eq!(secured.unwrap().resident_bytes, 0);
        requirements.backing = Backing::HugeTlb2M;
        let mut memory = [0_u8; 8];
        // SAFETY: the array is there during the call.
        let refused = unsafe { secure_in_place(memory.as_mut_ptr(), 8, requirements) };
        assert!(matches!(refused, Err(Error::Backing { .. })), "{refused:?}");
    }
}
