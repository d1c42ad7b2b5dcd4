//! The parts of error messages that depend on the fields, and the messages of variants that several
//! errors have.

use std::time::Duration;

use crate::commit::requirements::DEFAULT_PAGES;
use crate::limits::limit::Reading;
use crate::pool::loans::{LentTo, Loan};

pub(crate) const FORKED: &str = "the pool belongs to the process that made it, and its memory is \
     not in a child process that fork(2) made; make a pool in the child";

pub(crate) const NOT_SECURED_YET: &str =
    "the pool's memory is not secured yet; call `PreparedPool::secure` first";

pub(crate) const RELEASED: &str =
    "the pool's memory was released; call `PreparedPool::secure` again";

/// Lists some borrowers, in parentheses.
pub(crate) fn borrowers(loans: &[Loan]) -> String {
    const NAMED: usize = 4;
    let mut list: Vec<String> = loans.iter().take(NAMED).map(Loan::to_string).collect();
    if loans.len() > NAMED {
        list.push(format!("{} more", loans.len() - NAMED));
    }
    match list.is_empty() {
        true => String::new(),
        false => format!(" (to {})", list.join(", ")),
    }
}

/// Returns the usual reason why an instance finds no slot.
pub(crate) fn usual_cause(loans: &[Loan]) -> &'static str {
    let is_instance = |loan: &Loan| matches!(loan.to, LentTo::Instance { .. } | LentTo::Engine);
    match loans.iter().any(is_instance) {
        true => {
            " (usually the next instance is made before the last store is dropped: drop the store \
             first, or add a slot)"
        }
        false => "",
    }
}

pub(crate) fn maximum_pages(maximum: &Option<u64>) -> String {
    match maximum {
        Some(pages) => format!("a maximum of {pages} pages"),
        None => "no maximum".to_owned(),
    }
}

pub(crate) fn raise_cap(minimum: &u64) -> String {
    match *minimum {
        0..=DEFAULT_PAGES => {
            format!("raise the cap to at least {minimum} (MemoryPoolBuilder::cap)")
        }
        _ => format!("no slot can have more than {DEFAULT_PAGES}"),
    }
}

pub(crate) fn retired_slots(retired: &usize) -> String {
    match retired {
        0 => String::new(),
        retired => format!(", {retired} cannot be lent again because a reset failed"),
    }
}

pub(crate) fn after(waited: &Duration) -> String {
    match waited.is_zero() {
        true => String::new(),
        false => format!(", and too few came back in {:.1} s", waited.as_secs_f64()),
    }
}

pub(crate) fn elements(maximum: &Option<u64>) -> String {
    match maximum {
        Some(elements) => format!("{elements} elements"),
        None => "any number of elements".to_owned(),
    }
}

pub(crate) fn too_many_memories(memories: usize, slots: usize) -> String {
    format!(
        "{memories} memories are needed at once, and the pool can lend only {slots}; give it a \
         slot for each memory that a module defines (MemoryPoolBuilder::slots)"
    )
}

pub(crate) fn nearest_now(reading: &Option<Box<Reading>>) -> String {
    match reading {
        Some(reading) => format!("the nearest visible limit now is {reading}"),
        None => "no limit is visible from here".to_owned(),
    }
}
