//! End-to-end tests: one file a subject. What commits gigabytes takes turns on [`machine`].

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod any_engine;
mod cells;
mod chain;
mod clients;
mod differential;
mod engine;
mod growth;
mod limits;
mod low_memory;
mod malformed;
mod offsets;
mod preflight;
mod shapes;
mod spec;
mod stress;

use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use wasm_prealloc_build::Linking;
use wasm_prealloc_tests::Guests;

/// The guests as this project makes them.
static PINNED: LazyLock<Guests> = LazyLock::new(|| Guests::build(Linking::Pinned).unwrap());

/// The guests as cargo links them by itself.
static NATURAL: LazyLock<Guests> = LazyLock::new(|| Guests::build(Linking::Natural).unwrap());

/// The indexer host.
static INDEXER: LazyLock<PathBuf> = LazyLock::new(|| wasm_prealloc_tests::indexer().unwrap());

/// The machine's memory, for one test at a time.
fn machine() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    // A test that failed while it had the machine says so itself.
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}
