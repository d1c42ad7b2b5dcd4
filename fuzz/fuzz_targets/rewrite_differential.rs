//! Compares random modules with their rewrites.

#![no_main]

use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};
use wasm_prealloc_fuzzing::differential::check;
use wasm_prealloc_fuzzing::{Generated, Stats};

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Ok(generated) = Generated::new(&mut Unstructured::new(bytes)) else {
        return Corpus::Reject;
    };
    if let Err(error) = check(&generated, &mut Stats::default()) {
        panic!("{error:?}");
    }
    Corpus::Keep
});
