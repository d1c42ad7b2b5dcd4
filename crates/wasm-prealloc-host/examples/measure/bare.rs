//! System calls with nothing around them: what the library's own work is measured against.

use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};

use anyhow::{Result, bail};

use crate::MIB;

const HUGE_PAGE: usize = 2 * MIB;
const MADV_COLLAPSE: libc::c_int = 25;

/// Private anonymous memory, aligned to a huge page.
pub(crate) struct Mapping {
    mapping: *mut libc::c_void,
    base: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    pub(crate) fn new(bytes: usize) -> Result<Mapping> {
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let mapping = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes + HUGE_PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            bail!(io::Error::last_os_error());
        }
        let offset = (mapping as usize).next_multiple_of(HUGE_PAGE) - mapping as usize;
        let Some(base) = NonNull::new(mapping.cast::<u8>().wrapping_add(offset)) else {
            bail!("mapped at address 0");
        };
        Ok(Mapping {
            mapping,
            base,
            bytes,
        })
    }

    /// The calls that commit, in the library's order, and no check, lock or look back.
    pub(crate) fn collapse(&self) -> Result<()> {
        self.advise(0, self.bytes, libc::MADV_NOHUGEPAGE)?;
        self.touch(HUGE_PAGE);
        self.advise(0, self.bytes, libc::MADV_HUGEPAGE)?;
        for offset in (0..self.bytes).step_by(HUGE_PAGE) {
            self.advise(offset, HUGE_PAGE, MADV_COLLAPSE)?;
        }
        Ok(())
    }

    /// One write in every `step` bytes.
    pub(crate) fn touch(&self, step: usize) {
        for offset in (0..self.bytes).step_by(step) {
            // SAFETY: the offset lies in the mapping, which nobody else knows.
            unsafe { self.base.add(offset).write_volatile(0) };
        }
    }

    /// The addresses.
    pub(crate) fn range(&self) -> Range<usize> {
        let start = self.base.addr().get();
        start..start + self.bytes
    }

    /// memset(3) of the first `bytes`.
    pub(crate) fn fill(&self, bytes: usize, value: u8) {
        assert!(bytes <= self.bytes);
        // SAFETY: the range lies in the mapping, which nobody else knows.
        unsafe { self.base.write_bytes(value, bytes) };
        std::hint::black_box(self.base);
    }

    fn advise(&self, offset: usize, bytes: usize, advice: libc::c_int) -> Result<()> {
        // SAFETY: the range lies in the mapping; no advice given here loses what it holds.
        let result = unsafe { libc::madvise(self.base.add(offset).as_ptr().cast(), bytes, advice) };
        if result != 0 {
            bail!(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.mapping, self.bytes + HUGE_PAGE) };
    }
}
