//! Damaged modules: an error, and never a panic or an invalid output.

use wasm_prealloc_build::Linking;
use wasm_prealloc_fuzzing::for_each_seed;
use wasm_prealloc_fuzzing::mutation::{Outcome, check};
use wasm_prealloc_tests::Guests;

use crate::differential::check_mutations;

fn guests() -> [Vec<u8>; 3] {
    let pinned = Guests::build(Linking::Pinned).unwrap();
    let natural = Guests::build(Linking::Natural).unwrap();
    let paths = [pinned.memory_stress, natural.memory_stress, natural.minimal];
    paths.map(|path| std::fs::read(path).unwrap())
}

/// A prefix that lacks only custom sections is a valid module. `check` validates what it accepts.
#[test]
fn every_prefix_of_a_guest_is_refused_or_valid() {
    for wasm in guests() {
        for_each_seed(0..wasm.len() as u64, |length| {
            let outcome = check(&wasm[..length as usize]);
            outcome.unwrap_or_else(|error| panic!("prefix of {length} bytes: {error:?}"));
        });
        assert_eq!(check(&wasm).unwrap(), Outcome::Rewritten);
    }
}

#[test]
fn ten_thousand_mutations_of_guests_are_refused_or_rewritten() {
    let guests = guests();
    let module = |_, random: &mut fastrand::Rng| random.choice(&guests).cloned();
    if let Some(rewritten) = check_mutations(10_000, module) {
        // Some mutations only change a constant or a name. If all were refused, only the first
        // check was tested.
        assert!(rewritten > 100, "{rewritten} of 10,000 were rewritten");
    }
}
