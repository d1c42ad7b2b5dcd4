//! Arbitrary bytes are refused or handled. Give it a corpus of real modules to start from.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(error) = wasm_prealloc_fuzzing::mutation::check(bytes) {
        panic!("{error:?}");
    }
});
