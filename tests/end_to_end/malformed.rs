//! What is broken gives an error, and never a panic or a broken output.

use std::path::Path;

use wasm_prealloc::{Growth, Options, Validate, inspect, rewrite, verify, verify_deep};
use wasmparser::{Validator, WasmFeatures};

use crate::{NATURAL, PINNED};

fn guests() -> Vec<Vec<u8>> {
    let read = |path: &Path| std::fs::read(path).unwrap();
    vec![
        read(&PINNED.memory_stress),
        read(&NATURAL.memory_stress),
        read(&NATURAL.minimal),
    ]
}

fn validates(wasm: &[u8]) -> bool {
    Validator::new_with_features(WasmFeatures::all())
        .validate_all(wasm)
        .is_ok()
}

/// Asks everything of a module; gives whether it was rewritten.
fn ask_everything(wasm: &[u8]) -> bool {
    let _ = verify(wasm, 65_536);
    let _ = verify_deep(wasm, 65_536);
    let _ = inspect(wasm);
    let mut options = Options::default();
    options.validate = Validate::Changed;
    for growth in [Growth::Auto, Growth::Pregrown] {
        options.growth = growth;
        let _ = rewrite(wasm, &options);
    }
    options = Options::default();
    let Ok(rewritten) = rewrite(wasm, &options) else {
        return false;
    };
    assert!(validates(wasm), "an invalid input was accepted");
    assert!(validates(&rewritten.wasm), "an invalid output was given");
    if !rewritten.report.memories.is_empty() {
        verify(&rewritten.wasm, 65_536).unwrap();
    }
    let again = rewrite(&rewritten.wasm, &options).unwrap();
    assert!(
        again.wasm == rewritten.wasm,
        "a second rewrite changes something"
    );
    true
}

#[test]
fn every_prefix_of_a_real_module_is_refused_or_whole() {
    for wasm in guests() {
        let mut accepted = Vec::new();
        for length in 0..wasm.len() {
            if ask_everything(&wasm[..length]) {
                accepted.push(length);
            }
        }
        // Where only custom sections are missing, the rest is a module.
        for length in accepted {
            assert!(validates(&wasm[..length]), "prefix of {length} bytes");
        }
        assert!(ask_everything(&wasm));
    }
}

#[test]
fn ten_thousand_mutations_are_refused_or_handled() {
    let guests = guests();
    let mut random = fastrand::Rng::with_seed(20);
    let mut handled = 0;
    for _ in 0..10_000 {
        let mut wasm = guests[random.usize(..guests.len())].clone();
        for _ in 0..random.usize(1..=6) {
            // Half of them near the front, where the structure is.
            let near = if random.bool() {
                wasm.len().min(600)
            } else {
                wasm.len()
            };
            let at = random.usize(8..near);
            match random.u8(0..4) {
                0 => wasm[at] = random.u8(..),
                1 => wasm[at] ^= 1 << random.u8(0..8),
                2 => drop(wasm.remove(at)),
                _ => wasm.insert(at, [0x00, 0x3f, 0x40, 0x80, 0xff][random.usize(..5)]),
            }
        }
        handled += usize::from(ask_everything(&wasm));
    }
    // Some mutations change a constant or a name only: if none were handled, nothing was tested
    // behind the first check.
    assert!(handled > 100, "{handled} of 10,000 were handled");
}
