//! A component that rustc makes for WASI preview 2, in secured memory: pinned by the rewriter, and
//! untouched.

use std::path::Path;
use std::process::Command;

use wasm_prealloc::{Options, rewrite};
use wasm_prealloc_host::{InstantiateError, MemoryPool, Policy, WasmtimePool};
use wasm_prealloc_tests::{memory_lock, repository, skipped};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, Store};

const TARGET: &str = "wasm32-wasip2";
/// The size of a slot, and the maximum that the component is linked with: 128 MiB.
const PAGES: u64 = 2048;

/// Compiles the component. Returns `None` if the target cannot be installed.
fn compile() -> Option<Vec<u8>> {
    let installed = Command::new("rustup")
        .args(["target", "add", TARGET])
        .output();
    if !installed.is_ok_and(|output| output.status.success()) {
        skipped(&format!("rustup cannot install {TARGET}"));
        return None;
    }
    let sources = repository().join("tests/fixtures/components");
    let folder = repository().join("target/tests/secured-components");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("library.wasm");
    let wit = |path: &Path| format!("-Clink-arg=--component-type={}", path.display());
    let output = Command::new("rustc")
        .args([
            "--edition=2024",
            "--target",
            TARGET,
            "-Copt-level=2",
            "-Clto=fat",
        ])
        .args(["--crate-type=cdylib", "-Clink-arg=--max-memory=134217728"])
        .arg(wit(&sources.join("heap.wit")))
        .arg(sources.join("library.rs"))
        .arg("-o")
        .arg(&file)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    Some(std::fs::read(file).unwrap())
}

/// Calls `fill` in a new instance.
fn fill(pool: &MemoryPool, component: &Component, mebibytes: u32) -> Result<u64, InstantiateError> {
    let engine = component.engine();
    let mut linker = Linker::new(engine);
    // It calls none of them unless it panics.
    linker.define_unknown_imports_as_traps(component)?;
    let mut store = Store::new(engine, pool.limiter());
    store.limiter(|limiter| limiter);
    let instance = pool.instantiate_component(&linker, &mut store, component)?;
    let fill = instance.get_typed_func::<(u32,), (u64,)>(&mut store, "fill")?;
    Ok(fill.call(&mut store, (mebibytes,))?.0)
}

fn pool(policy: Policy) -> (MemoryPool, Engine) {
    let pool = MemoryPool::builder().pages(PAGES).policy(policy);
    let pool = pool.secure().unwrap();
    let engine = pool.engine(&mut Config::new()).unwrap();
    (pool, engine)
}

/// Checks what the component computes, twice, and where its memory ends.
fn check(pool: &MemoryPool, component: &Component) {
    pool.verify_component(component).unwrap();
    let blocks = 0..100_u64;
    let bytes = blocks.flat_map(|block| (0..256).map(move |page| (block * 31 + page) & 0xff));
    let expected: u64 = bytes.sum();
    for _ in 0..2 {
        assert_eq!(fill(pool, component, 100).unwrap(), expected);
        assert!(matches!(
            fill(pool, component, 128),
            Err(InstantiateError::Engine(_))
        ));
    }
}

#[test]
fn a_component_for_wasi_preview_2_runs_pinned_and_untouched() {
    let Some(untouched) = compile() else { return };
    let mut options = Options::default();
    options.pages = PAGES;
    let pinned = rewrite(&untouched, &options).unwrap().wasm;
    let _lock = memory_lock().unwrap();

    let (declared, engine) = pool(Policy::Declared);
    check(&declared, &Component::new(&engine, &pinned).unwrap());
    let growing = Component::new(&engine, &untouched).unwrap();
    let refused = declared.verify_component(&growing).unwrap_err().to_string();
    // The advice is what was done above.
    let advice = format!("`wasm-prealloc rewrite --pages {PAGES}`");
    assert!(refused.contains(&advice), "{refused}");
    drop(declared);

    for policy in [Policy::CommitMaximum, Policy::Cap { pages: PAGES }] {
        let (pool, engine) = pool(policy);
        check(&pool, &Component::new(&engine, &untouched).unwrap());
    }
}
