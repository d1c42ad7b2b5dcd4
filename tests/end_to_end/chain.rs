//! One chain of blocks on unlike machines: one state root, or nothing. `cargo xtask memory-test
//! --full` has a longer chain, and more machines.

use wasm_prealloc_tests::MemoryGroup;
use wasm_prealloc_tests::cells::Setup;
use wasm_prealloc_tests::chain::{Bench, Chain, Machine};

use crate::{INDEXER, NATURAL, PINNED, machine};

#[test]
fn secured_hosts_agree_or_do_not_begin_and_todays_hosts_do_not() {
    let _machine = machine();
    if MemoryGroup::create_or_skip(1 << 20).is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let bench = Bench {
        indexer: INDEXER.clone(),
        commit: wasm_prealloc_tests::commit().unwrap(),
        natural: NATURAL.memory_stress.clone(),
        pinned: PINNED.memory_stress.clone(),
        scratch: scratch.path().to_owned(),
    };
    let mut chain = Chain::short();
    assert!(chain.beyond() > 0);
    for machine in [
        Machine::new(Setup::Before, 512),
        Machine::new(Setup::Before, 4608),
        Machine::new(Setup::Before, 4608).beside(900),
        Machine::new(Setup::After, 2048),
        Machine::new(Setup::After, 4608),
        Machine::new(Setup::After, 4608).beside(900),
        Machine::new(Setup::After, 6144).interrupted_at(5),
    ] {
        let outcome = bench.run(&chain, machine).unwrap();
        let (blocks, elapsed) = (outcome.stored.len(), outcome.elapsed);
        println!("{machine}: {blocks} blocks in {elapsed:.1?}");
        let verdict = machine.judge(&mut chain, &outcome);
        assert_eq!(verdict, Ok(()), "{machine}: {outcome:?}");
    }
}
