//! What a host asks before it commits memory gives an answer, whatever the bytes, and the shallow
//! question and the deep one agree on what a module declares.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wasm_prealloc::{verify, verify_deep};

fuzz_target!(|bytes: &[u8]| {
    // The magic number and the version are given, so that what lies behind them is reached.
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    wasm.extend_from_slice(bytes);
    for wasm in [bytes, &wasm] {
        let shallow = verify(wasm, 65_536);
        if let Ok(deep) = verify_deep(wasm, 65_536) {
            assert_eq!(shallow.ok(), Some(deep));
        }
    }
});
