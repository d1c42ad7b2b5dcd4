//! End-to-end tests, one file for each subject. Tests that use gigabytes of memory hold
//! [`memory_lock`](wasm_prealloc_tests::memory_lock).

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod advice;
mod any_engine;
mod capped;
mod chain;
mod differential;
mod earlier_attempts;
mod glue;
mod growth;
mod in_place;
mod interleavings;
mod kept;
mod ledger;
mod legacy_exceptions;
mod limits;
mod line_table;
mod linked;
mod linked_in_node;
mod malformed;
mod migration;
mod offsets;
mod positions;
mod preflight;
mod processes;
mod runner;
mod running;
mod secured_components;
mod shapes;
mod source_maps;
mod stress;
mod threads;
