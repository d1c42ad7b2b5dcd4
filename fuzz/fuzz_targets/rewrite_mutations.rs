//! Checks that arbitrary bytes are refused or rewritten correctly. Start from a corpus of real modules.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(error) = wasm_prealloc_fuzzing::mutation::check(bytes) {
        panic!("{error:?}");
    }
});
