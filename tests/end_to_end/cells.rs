//! The cells that the project exists for, as `cargo xtask memory-test` shows them.

use wasm_prealloc_tests::MemoryGroup;
use wasm_prealloc_tests::cells::{Bench, Cell};

use crate::{INDEXER, NATURAL, PINNED, machine};

#[test]
fn every_cell_is_as_it_must_be() {
    let _machine = machine();
    if MemoryGroup::create_or_skip(1 << 20).is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let bench = Bench {
        indexer: INDEXER.clone(),
        natural: NATURAL.clone(),
        pinned: PINNED.clone(),
        scratch: scratch.path().to_owned(),
    };
    for cell in Cell::all() {
        let outcome = bench.run(cell).unwrap();
        let verdict = cell.judge(&outcome);
        assert_eq!(verdict, Ok(()), "{cell}: {outcome:?}");
    }
}
