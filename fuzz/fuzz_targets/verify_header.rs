//! Checks that `verify` and `verify_deep` accept arbitrary bytes without a panic, and agree on the
//! memories that a module declares.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wasm_prealloc::{verify, verify_deep};

fuzz_target!(|bytes: &[u8]| {
    // With the magic number and the version, the bytes reach the code after those checks.
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    wasm.extend_from_slice(bytes);
    for wasm in [bytes, &wasm] {
        let shallow = verify(wasm, 65_536);
        if let Ok(deep) = verify_deep(wasm, 65_536) {
            assert_eq!(shallow.ok(), Some(deep));
        }
    }
});
