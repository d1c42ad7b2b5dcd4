//! A host without a compiler: it loads modules that were compiled before. `cargo xtask engines --test`
//! runs this file with the compiler, which writes the modules, and then without it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "wasmtime-runtime")]

#[path = "support/mod.rs"]
mod support;

use std::path::PathBuf;

use support::skipped;
use wasm_prealloc_host::wasmtime::{Config, Linker, Module, Store, WasmFeatures};
use wasm_prealloc_host::{
    Error, InstantiateError, MemoryPool, PolicyError, VerifyError, WasmtimePool, resident_bytes,
};

/// The folder of compiled modules. A build with a compiler writes to it, and one without reads it.
const FOLDER: &str = "WASM_PREALLOC_COMPILED";

const PINNED: &str = r#"(module
    (table 1 1 funcref)
    (memory (export "memory") 16 16)
    (data (i32.const 7) "x")
    (func (export "read") (param i32) (result i32) (i32.load8_u (local.get 0))))"#;
const GROWING: &str = "(module (table 1 1 funcref) (memory 1))";

/// Settings that are the same in each build: wasmtime's features decide which proposals are enabled.
fn config() -> Config {
    let mut config = Config::new();
    config.wasm_features(WasmFeatures::THREADS, false);
    config.wasm_features(WasmFeatures::EXCEPTIONS, false);
    config.wasm_features(WasmFeatures::COMPONENT_MODEL, false);
    config.gc_support(false);
    config
}

#[cfg(feature = "wasmtime")]
fn compiled(name: &str, text: &str) -> Option<Vec<u8>> {
    // The settings of a pool decide the code, so a compiler without memory prepares the same pool.
    let prepared = MemoryPool::builder().pages(16).prepare();
    let engine = prepared.engine(&mut config()).unwrap();
    let compiled = engine.precompile_module(&wat::parse_str(text).unwrap());
    let compiled = compiled.unwrap();
    if let Some(folder) = std::env::var_os(FOLDER) {
        std::fs::write(PathBuf::from(folder).join(name), &compiled).unwrap();
    }
    Some(compiled)
}

#[cfg(not(feature = "wasmtime"))]
fn compiled(name: &str, _: &str) -> Option<Vec<u8>> {
    let folder = std::env::var_os(FOLDER)?;
    Some(std::fs::read(PathBuf::from(folder).join(name)).unwrap())
}

#[test]
fn a_module_that_was_compiled_before_is_verified_and_runs() {
    let (Some(pinned), Some(growing)) = (
        compiled("pinned.cwasm", PINNED),
        compiled("growing.cwasm", GROWING),
    ) else {
        return skipped(&format!("no compiler in this build, and no {FOLDER}"));
    };
    let pool = MemoryPool::builder().pages(16).secure().unwrap();
    let engine = pool.engine(&mut config()).unwrap();
    #[allow(unsafe_code, reason = "wasmtime trusts a compiled module")]
    // SAFETY: wasmtime's compiler of the same version made the modules in this test.
    let load = |compiled: &[u8]| unsafe { Module::deserialize(&engine, compiled) }.unwrap();
    let mut store = Store::new(&engine, ());
    let linker = Linker::new(&engine);
    match pool.instantiate(&linker, &mut store, &load(&growing)) {
        Err(InstantiateError::Memory(Error::Verify(VerifyError::Policy(
            PolicyError::NotPinned { minimum: 1, .. },
        )))) => {}
        other => panic!("{other:?}"),
    }
    let module = load(&pinned);
    pool.verify(&module).unwrap();
    let instance = pool.instantiate(&linker, &mut store, &module).unwrap();
    let memory = instance.get_memory(&mut store, "memory").unwrap();
    assert_eq!(resident_bytes(memory.data(&store)).unwrap(), 16 << 16);
    let read = instance.get_typed_func::<i32, i32>(&mut store, "read");
    assert_eq!(read.unwrap().call(&mut store, 7).unwrap(), i32::from(b'x'));
}
