//! The parts of error messages that depend on the fields.

use std::time::Duration;

use crate::limits::limit::Reading;

pub(crate) fn maximum_pages(maximum: &Option<u64>) -> String {
    match maximum {
        Some(pages) => format!("a maximum of {pages} pages"),
        None => "no maximum".to_owned(),
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

pub(crate) fn engine_heaps(heaps: &usize) -> String {
    match heaps {
        0 => "the pool has no memory for it; set MemoryPoolBuilder::engine_heap_bytes, 16 MiB for \
              example"
            .to_owned(),
        heaps => format!(
            "all {heaps} heaps of the pool are in use; drop a store first, or give the pool more \
             slots, each with a heap (MemoryPoolBuilder::slots)"
        ),
    }
}

pub(crate) fn nearest_now(reading: &Option<Box<Reading>>) -> String {
    match reading {
        Some(reading) => format!("the nearest visible limit now is {reading}"),
        None => "no limit is visible from here".to_owned(),
    }
}
