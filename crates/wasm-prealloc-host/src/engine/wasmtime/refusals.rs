//! The refusals of a pool's memory creators, found again behind the engine's error.
//!
//! wasmtime lets a creator return a text only. The pool keeps the errors themselves, so that they
//! are found by their text on every thread.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use crate::error::Error;

/// The number of refusals that a pool keeps. An embedder that never converts the engine's errors
/// leaves this many behind.
const KEPT: usize = 64;

/// The registers of all pools that refused a memory. An embedder converts an error without naming
/// the pool.
static REGISTERS: RwLock<Vec<Weak<Refusals>>> = RwLock::new(Vec::new());

/// The refusals of one pool that were not converted yet, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<VecDeque<(String, Error)>>);

impl Refusals {
    /// Keeps an error whose message the engine receives as `text`.
    pub(crate) fn keep(self: &Arc<Refusals>, text: String, error: Error) {
        let first = {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let first = kept.is_empty();
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back((text, error));
            first
        };
        // The register is found in the list as long as it has an entry.
        if first {
            let mut registers = REGISTERS.write().unwrap_or_else(PoisonError::into_inner);
            registers.retain(|register| {
                register
                    .upgrade()
                    .is_some_and(|register| !Arc::ptr_eq(&register, self))
            });
            registers.push(Arc::downgrade(self));
        }
    }

    fn take(&self, text: &str) -> Option<Error> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Errors with one text have the same fields.
        let index = kept.iter().rposition(|(other, _)| other == text)?;
        kept.remove(index).map(|(_, error)| error)
    }
}

/// Takes the refusal that caused an engine's error, if there is one.
pub(crate) fn take(error: &wasmtime::Error) -> Option<Error> {
    let text = error.root_cause().to_string();
    let registers = REGISTERS.read().unwrap_or_else(PoisonError::into_inner);
    let mut registers = registers.iter().filter_map(Weak::upgrade);
    registers.find_map(|register| register.take(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::LendError;

    fn error(heaps: usize) -> Error {
        LendError::NoEngineHeap { heaps }.into()
    }

    #[test]
    fn errors_that_are_never_converted_are_bounded() {
        let refusals = Arc::new(Refusals::default());
        for heaps in 0..1000 {
            refusals.keep(format!("{heaps} heaps"), error(heaps));
        }
        assert_eq!(refusals.0.lock().unwrap().len(), KEPT);
        let newest = wasmtime::Error::msg("999 heaps");
        assert!(matches!(
            take(&newest),
            Some(Error::Lend(LendError::NoEngineHeap { heaps: 999 }))
        ));
        assert!(take(&newest).is_none());
        assert!(take(&wasmtime::Error::msg("0 heaps")).is_none());
    }

    #[test]
    fn two_refusals_with_one_text_are_both_found() {
        let refusals = Arc::new(Refusals::default());
        for _ in 0..2 {
            refusals.keep("the same text twice".to_owned(), error(7));
        }
        let told = wasmtime::Error::msg("the same text twice");
        assert!(take(&told).is_some() && take(&told).is_some() && take(&told).is_none());
    }

    #[test]
    fn a_register_that_was_empty_is_found_again() {
        let refusals = Arc::new(Refusals::default());
        for round in 0..3 {
            let text = format!("found in round {round}");
            refusals.keep(text.clone(), error(round));
            assert!(take(&wasmtime::Error::msg(text)).is_some());
        }
    }
}
