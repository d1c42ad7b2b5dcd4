//! The slots that are lent now: to what, and for how long.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pool::slot::Slot;

/// A slot that is lent or reserved now; see [`MemoryPool::loans`](crate::MemoryPool::loans).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loan {
    /// The borrower.
    pub to: LentTo,
    /// The time since the slot was lent.
    pub age: Duration,
}

impl fmt::Display for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:.1} s", self.to, self.age.as_secs_f64())
    }
}

/// The borrower of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LentTo {
    /// An instance that was made through the pool.
    Instance {
        /// The name of its module, if it is of a module that has one.
        module: Option<Arc<str>>,
    },
    /// A memory that an engine made without the pool's functions, for example by the engine's own
    /// `Instance::new`.
    Engine,
    /// A [`Reservation`](crate::Reservation), or memory that was lent from it.
    Reservation,
    /// [`MemoryPool::lend`](crate::MemoryPool::lend).
    Host,
}

impl LentTo {
    /// Returns the borrower for an instance of a module with this name.
    #[cfg(feature = "wasmtime-runtime")]
    pub(crate) fn instance(module: Option<&str>) -> LentTo {
        LentTo::Instance {
            module: module.map(Arc::from),
        }
    }
}

impl fmt::Display for LentTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LentTo::Instance { module: Some(name) } => write!(f, "an instance of {name:?}"),
            LentTo::Instance { module: None } => f.write_str("an instance without a name"),
            LentTo::Engine => f.write_str("an engine"),
            LentTo::Reservation => f.write_str("a reservation"),
            LentTo::Host => f.write_str("the host itself"),
        }
    }
}

/// The borrowers of a pool's slots, by the address of the slot.
#[derive(Debug, Default)]
pub(crate) struct Loans(HashMap<usize, (LentTo, Instant)>);

impl Loans {
    /// Makes room for the loans of all slots, so that lending allocates nothing here.
    pub(crate) fn reserve(&mut self, slots: usize) {
        self.0.reserve(slots);
    }

    pub(crate) fn add(&mut self, slot: &Slot, to: LentTo) {
        self.0.insert(slot.committed().start, (to, Instant::now()));
    }

    pub(crate) fn remove(&mut self, slot: &Slot) {
        self.0.remove(&slot.committed().start);
    }

    /// Returns the loans, the oldest first.
    pub(crate) fn list(&self) -> Vec<Loan> {
        let loans = self.0.values().map(|(to, since)| Loan {
            to: to.clone(),
            age: since.elapsed(),
        });
        let mut loans: Vec<Loan> = loans.collect();
        loans.sort_by_key(|loan| std::cmp::Reverse(loan.age));
        loans
    }
}
