//! What older versions of wasmtime lack, and how they are refused. `cargo xtask engines --test` runs
//! these tests with other versions than the workspace's.

use wasm_prealloc_host::{MemoryPool, Policy, VerifyError, WasmtimePool};
use wasmtime::{Config, Engine};

use crate::module;
use crate::support::skipped;

/// Returns true before that version of wasmtime.
fn is_before(version: u32) -> bool {
    let tested = std::env::var("WASM_PREALLOC_WASMTIME").ok();
    let major = tested.and_then(|tested| tested.split('.').next()?.parse::<u32>().ok());
    // The workspace's version lacks nothing.
    major.is_some_and(|major| major < version)
}

/// Reports a test that cannot run before that version of wasmtime.
pub(crate) fn lacks(version: u32) -> bool {
    let is_before = is_before(version);
    if is_before {
        skipped(&format!("needs wasmtime {version}"));
    }
    is_before
}

/// The setters that some versions lack. The compiler prefers wasmtime's own.
#[allow(dead_code, reason = "unused where wasmtime has them")]
pub(crate) trait HeapSettings: Sized {
    fn gc_heap_reservation(&mut self, _bytes: u64) -> &mut Self {
        self
    }
    fn gc_heap_may_move(&mut self, _enable: bool) -> &mut Self {
        self
    }
    fn gc_heap_guard_size(&mut self, _bytes: u64) -> &mut Self {
        self
    }
    fn gc_heap_initial_size(&mut self, _bytes: u64) -> &mut Self {
        self
    }
}

impl HeapSettings for Config {}

const PINNED: &str = "(module (table 1 1 funcref) (memory 16 16))";

#[test]
fn an_engine_made_elsewhere_is_read_or_refused() {
    let pool = MemoryPool::builder().pages(16).secure().unwrap();
    let mut config = Config::new();
    pool.configure(&mut config);
    let elsewhere = Engine::new(&config).unwrap();
    match pool.verify(&module(&elsewhere, PINNED)) {
        Ok(()) => assert!(!is_before(47)),
        Err(error @ VerifyError::EngineUnproven { .. }) => {
            assert!(is_before(47), "{error}");
            assert!(
                error.to_string().contains("WasmtimePool::engine"),
                "{error}"
            );
        }
        Err(other) => panic!("{other}"),
    }
    // As the error advises.
    let engine = pool.engine(&mut config).unwrap();
    pool.verify(&module(&engine, PINNED)).unwrap();
}

#[test]
fn a_memory_like_the_engines_heap_is_told_from_it_or_refused() {
    let builder = MemoryPool::builder().pages(16);
    let builder = builder.policy(Policy::CommitMaximum);
    let pool = builder.engine_heap_bytes(1 << 16).secure().unwrap();
    let mut config = Config::new();
    config.wasm_exceptions(true);
    let engine = pool.engine(&mut config).unwrap();
    let verify = |text: &str| pool.verify(&module(&engine, text));
    // Its maximum is 65,536 pages.
    match verify("(module (table 1 1 funcref) (memory 0))").unwrap_err() {
        VerifyError::Policy(_) => assert!(!is_before(45)),
        error @ VerifyError::AmbiguousMemory => {
            assert!(is_before(45), "{error}");
            assert!(error.to_string().contains("wasmtime 45"), "{error}");
        }
        other => panic!("{other}"),
    }
    verify("(module (table 1 1 funcref) (memory 0 16))").unwrap();
    let throws = r#"(module
        (tag $tag)
        (table 1 1 funcref)
        (memory 1 16)
        (func (export "run") (throw $tag)))"#;
    match verify(throws) {
        Ok(()) => assert!(!is_before(45)),
        Err(VerifyError::AmbiguousMemory) => assert!(is_before(45)),
        Err(other) => panic!("{other}"),
    }
}
