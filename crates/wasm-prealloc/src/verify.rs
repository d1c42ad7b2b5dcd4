//! Judges a module by what it declares: is every memory pinned at the size the host commits?
//!
//! Reads no further than the memory section; `verify_deep` also looks into the code.

use std::fmt;

use crate::component::Node;
use crate::error::Error;
use crate::limits::Memory;
use crate::map::{Map, id};
use crate::scan::{count_sites, growth_sites};

/// One thing that keeps a module from being what was asked for. Displays as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Violation {
    /// The memory concerned.
    pub memory: Memory,
    /// The size asked for, in pages.
    pub expected: u64,
    /// What is wrong with it.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub kind: ViolationKind,
}

/// What is wrong with a memory.
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
    /// It is pinned, and yet the module has `memory.grow` instructions, which can only fail.
    GrowthCanOnlyFail {
        /// How many of them there are.
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
                "declares a minimum of {minimum} and no maximum; expected {expected} pages for \
                 both: `wasm-prealloc rewrite --pages {expected}` declares them"
            ),
            ViolationKind::NotPinned => write!(
                f,
                "declares a minimum of {minimum} and a maximum of {maximum}; expected {expected} \
                 pages for both: `wasm-prealloc rewrite --pages {expected}` declares them"
            ),
            ViolationKind::WrongSize if let Some(log2) = memory.page_size_log2 => write!(
                f,
                "declares a size of {minimum} pages of 2^{log2} bytes; expected {expected} pages \
                 of 64 KiB: link the module anew"
            ),
            ViolationKind::WrongSize if minimum > *expected => write!(
                f,
                "declares a size of {minimum}; expected {expected} pages: a memory is never made \
                 smaller, so expect `--pages {minimum}` or link the module anew"
            ),
            ViolationKind::WrongSize => write!(
                f,
                "declares a size of {minimum}; expected {expected} pages: \
                 `wasm-prealloc rewrite --pages {expected}` declares them"
            ),
            ViolationKind::GrowthCanOnlyFail {
                sites,
                first_offset,
            } => write!(
                f,
                "is pinned, and {sites} `memory.grow` can only fail, the first at offset \
                 {first_offset:#x}: rewrite the module as it was before it was pinned, or with \
                 `wasm-prealloc rewrite --emulate-from heap-base` where its allocator only grows \
                 the memory"
            ),
        }
    }
}

/// The violations that were found. Displays as one line each.
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

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, violation) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{violation}")?;
        }
        Ok(())
    }
}

/// Why a module was not found to be pinned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It cannot be read, so that nothing can be said of its memories.
    #[error(transparent)]
    Unreadable(#[from] Error),
    /// It was read, and it is not pinned as asked for.
    #[error("{0}")]
    NotPinned(Violations),
}

/// Checks that every memory of a module, or of every core module in a component, imported ones included, has a minimum and a maximum of
/// `pages` pages of 64 KiB, and gives back the memories. A module without memories passes. A memory
/// with another page size is judged by its size in bytes.
///
/// Only the sections up to the memory section are read, so this takes microseconds whatever the
/// module's size, and says nothing about the validity of what follows: an engine checks that.
///
/// # Errors
/// [`VerifyError::Unreadable`] where the bytes are no module or are malformed up to there,
/// [`VerifyError::NotPinned`] with every violation otherwise.
///
/// ```
/// let module = wat::parse_str("(module (memory 17))")?;
/// let error = wasm_prealloc::verify(&module, 65_536).unwrap_err();
/// assert!(error.to_string().contains("no maximum"));
/// # Ok::<(), wat::Error>(())
/// ```
pub fn verify(wasm: &[u8], pages: u64) -> Result<Vec<Memory>, VerifyError> {
    let mut memories = Vec::new();
    for (module, range) in Node::read(wasm)?.modules() {
        let map = Map::read_through(wasm, range, module, id::MEMORY)?;
        memories.extend(map.memories().cloned());
    }
    let violations = memories
        .iter()
        .filter_map(|memory| limits_violation(memory, pages));
    finish(violations.collect(), memories)
}

/// As [`verify`], and reads the code too: a memory that is pinned while the module still holds
/// `memory.grow` instructions for it is a violation, because they can only fail.
///
/// # Errors
/// As [`verify`], and [`VerifyError::Unreadable`] also where the rest of the module is malformed.
pub fn verify_deep(wasm: &[u8], pages: u64) -> Result<Vec<Memory>, VerifyError> {
    let mut memories = Vec::new();
    let mut violations = Vec::new();
    for (module, range) in Node::read(wasm)?.modules() {
        let map = Map::read(wasm, range, module)?;
        let bodies = growth_sites(&map)?;
        for memory in map.memories() {
            violations.extend(limits_violation(memory, pages));
            let (sites, first) = count_sites(&bodies, memory.id.index);
            if let (true, Some(first_offset)) = (memory.is_pinned(), first.grow) {
                violations.push(Violation {
                    memory: memory.clone(),
                    expected: pages,
                    kind: ViolationKind::GrowthCanOnlyFail {
                        sites: sites.grow,
                        first_offset,
                    },
                });
            }
            memories.push(memory.clone());
        }
    }
    finish(violations, memories)
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
