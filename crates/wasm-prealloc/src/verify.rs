//! Verifies that every memory is pinned at the size that a host commits.
//!
//! [`verify()`] reads no further than the memory section. [`verify_deep`] also reads the code.

use std::fmt;

use crate::analysis::Analysis;
use crate::analysis::component::Nesting;
use crate::analysis::module_info::ModuleInfo;
use crate::analysis::sections::id;
use crate::error::Error;
use crate::limits::{Memory, MemoryId};

/// A memory that is not as expected. Displays as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Violation {
    /// The memory.
    pub memory: Memory,
    /// The expected size, in pages.
    pub expected: u64,
    /// The difference from what is expected.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub kind: ViolationKind,
}

/// The ways in which a memory can differ from what is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(tag = "kind", rename_all = "kebab-case")
)]
#[non_exhaustive]
pub enum ViolationKind {
    /// It may grow without bound.
    NoMaximum,
    /// It may grow: its minimum is below its maximum.
    NotPinned,
    /// It is pinned, at another size.
    WrongSize,
    /// It is pinned, and the module has `memory.grow` instructions, which can only fail.
    GrowthCanOnlyFail {
        /// The number of such instructions.
        sites: usize,
        /// Byte offset of the first one in the input.
        first_offset: u64,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            memory, expected, ..
        } = self;
        write!(f, "{}", memory.id)?;
        if let Some(import) = &memory.import {
            write!(f, " (imported as {import})")?;
        }
        write!(f, " at offset {:#x} ", memory.offset)?;
        let minimum = memory.minimum;
        let maximum = memory.maximum.unwrap_or(minimum);
        match self.kind {
            ViolationKind::NoMaximum => write!(
                f,
                "declares a minimum of {minimum} and no maximum; expected {expected} pages for both"
            ),
            ViolationKind::NotPinned => write!(
                f,
                "declares a minimum of {minimum} and a maximum of {maximum}; expected {expected} \
                 pages for both"
            ),
            ViolationKind::WrongSize => match memory.page_size_log2 {
                Some(log2) => write!(
                    f,
                    "declares a size of {minimum} pages of 2^{log2} bytes; expected {expected} \
                     pages of 64 KiB"
                ),
                None => write!(f, "declares a size of {minimum}; expected {expected} pages"),
            },
            ViolationKind::GrowthCanOnlyFail {
                sites,
                first_offset,
            } => write!(
                f,
                "is pinned, and {sites} `memory.grow` can only fail, the first at offset \
                 {first_offset:#x}"
            ),
        }?;
        f.write_str(&self.advice())
    }
}

/// The violations that were found. Displays as one line each.
///
/// ```
/// use wasm_prealloc::{VerifyError, ViolationKind, verify};
///
/// let module = wat::parse_str("(module (memory 1) (memory 2 3))")?;
/// let Err(VerifyError::NotPinned(violations)) = verify(&module, 65_536) else { panic!() };
/// for violation in &violations {
///     assert_eq!(violation.expected, 65_536);
/// }
/// let kinds: Vec<_> = violations.into_iter().map(|violation| violation.kind).collect();
/// assert_eq!(kinds, [ViolationKind::NoMaximum, ViolationKind::NotPinned]);
/// # Ok::<(), wat::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Violations(
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::message::serialize_all")
    )]
    Vec<Violation>,
);

impl std::ops::Deref for Violations {
    type Target = [Violation];

    fn deref(&self) -> &[Violation] {
        &self.0
    }
}

impl IntoIterator for Violations {
    type Item = Violation;
    type IntoIter = std::vec::IntoIter<Violation>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'v> IntoIterator for &'v Violations {
    type Item = &'v Violation;
    type IntoIter = std::slice::Iter<'v, Violation>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, violation) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{violation}")?;
        }
        Ok(())
    }
}

/// The reasons for which a module does not verify.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The module cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Error),
    /// The module was read, and its memories are not pinned at the expected size.
    #[error("{0}")]
    NotPinned(Violations),
}

/// Checks that every memory of a module, or of every core module in a component, has a minimum and a
/// maximum of `pages` pages of 64 KiB. Imported memories are included. A module without memories
/// passes. A memory with another page size is compared by its size in bytes. Returns the memories.
///
/// Only the sections up to the memory section are read. This takes microseconds for a module of any
/// size, and does not check the validity of what follows: an engine does that.
///
/// # Errors
/// Returns [`VerifyError::Unreadable`] if the bytes are not WebAssembly or are malformed up to the
/// memory section, and [`VerifyError::NotPinned`] with all violations otherwise.
///
/// ```
/// let module = wat::parse_str("(module (memory 17))")?;
/// let error = wasm_prealloc::verify(&module, 65_536).unwrap_err();
/// assert!(error.to_string().contains("no maximum"));
/// # Ok::<(), wat::Error>(())
/// ```
pub fn verify(wasm: &[u8], pages: u64) -> Result<Vec<Memory>, VerifyError> {
    let mut memories = Vec::new();
    for (module, range) in Nesting::read(wasm)?.modules() {
        let info = ModuleInfo::read_through(wasm, range, module, id::MEMORY)?;
        memories.extend(info.memories().cloned());
    }
    check_limits(memories, |_| pages)
}

/// Checks like [`verify()`], and also reads the code: a pinned memory is a violation if the module
/// has `memory.grow` instructions for it, because they can only fail.
///
/// # Errors
/// Returns the same errors as [`verify()`], and [`VerifyError::Unreadable`] also if the rest of the
/// module is malformed.
pub fn verify_deep(wasm: &[u8], pages: u64) -> Result<Vec<Memory>, VerifyError> {
    Analysis::new(wasm)?.verify_deep(pages)
}

impl Analysis<'_> {
    /// Checks the memories, like [`verify()`].
    ///
    /// # Errors
    /// Returns [`VerifyError::NotPinned`] with all violations.
    pub fn verify(&self, pages: u64) -> Result<Vec<Memory>, VerifyError> {
        self.verify_each(|_| pages)
    }

    /// Checks the memories, like [`verify()`]. `pages` gives the expected size of each memory in
    /// pages of 64 KiB.
    ///
    /// # Errors
    /// Returns [`VerifyError::NotPinned`] with all violations.
    pub fn verify_each(&self, pages: impl Fn(MemoryId) -> u64) -> Result<Vec<Memory>, VerifyError> {
        check_limits(self.memories().cloned().collect(), pages)
    }

    /// Checks the memories and the code, like [`verify_deep()`].
    ///
    /// # Errors
    /// Returns [`VerifyError::NotPinned`] with all violations, and [`VerifyError::Unreadable`] if
    /// the code is malformed.
    pub fn verify_deep(&self, pages: u64) -> Result<Vec<Memory>, VerifyError> {
        self.verify_deep_each(|_| pages)
    }

    /// Checks the memories and the code, like [`verify_deep()`]. `pages` gives the expected size of
    /// each memory in pages of 64 KiB.
    ///
    /// # Errors
    /// Returns the same errors as [`Analysis::verify_deep`].
    pub fn verify_deep_each(
        &self,
        pages: impl Fn(MemoryId) -> u64,
    ) -> Result<Vec<Memory>, VerifyError> {
        let mut violations = Vec::new();
        for module in &self.modules {
            for (memory, (sites, first)) in module.info.memories().zip(module.count_sites()?) {
                let expected = pages(memory.id);
                violations.extend(limits_violation(memory, expected));
                if let (true, Some(first_offset)) = (memory.is_pinned(), first.grow) {
                    let sites = sites.grow;
                    violations.push(Violation {
                        memory: memory.clone(),
                        expected,
                        kind: ViolationKind::GrowthCanOnlyFail {
                            sites,
                            first_offset,
                        },
                    });
                }
            }
        }
        finish(violations, self.memories().cloned().collect())
    }
}

fn check_limits(
    memories: Vec<Memory>,
    pages: impl Fn(MemoryId) -> u64,
) -> Result<Vec<Memory>, VerifyError> {
    let violations = memories
        .iter()
        .filter_map(|memory| limits_violation(memory, pages(memory.id)));
    finish(violations.collect(), memories)
}

fn finish(violations: Vec<Violation>, memories: Vec<Memory>) -> Result<Vec<Memory>, VerifyError> {
    match violations.is_empty() {
        true => Ok(memories),
        false => Err(VerifyError::NotPinned(Violations(violations))),
    }
}

fn limits_violation(memory: &Memory, pages: u64) -> Option<Violation> {
    let kind = match memory.maximum {
        None => ViolationKind::NoMaximum,
        Some(maximum) if maximum != memory.minimum => ViolationKind::NotPinned,
        Some(maximum) if memory.in_wasm_pages(maximum) != Some(pages) => ViolationKind::WrongSize,
        Some(_) => return None,
    };
    Some(Violation {
        memory: memory.clone(),
        expected: pages,
        kind,
    })
}
