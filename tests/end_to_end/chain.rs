//! One chain of blocks on hosts with different amounts of memory: the same state root, or no block at
//! all. `cargo xtask memory-test --full` uses a longer chain and more hosts.

use wasm_prealloc_tests::chain::Chain;
use wasm_prealloc_tests::machines::{Bench, Machine};
use wasm_prealloc_tests::{INDEXER, MemoryGroup, Setup, memory_lock};

#[test]
fn secured_hosts_agree_or_refuse_to_start_and_unmodified_hosts_do_not() {
    let _lock = memory_lock().unwrap();
    if MemoryGroup::create_or_skip(1 << 20).is_none() {
        return;
    }
    let commit = wasm_prealloc_tests::commit().unwrap();
    let bench = Bench {
        indexer: &INDEXER,
        commit: &commit,
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
