//! A host with wasmi, an engine that allocates its memories itself. The limits are checked first,
//! because wasmi fills its memory with zeros, and the kernel would kill a process if there is too
//! little. Then the memory is secured in place, data segments included, before the guest runs.
//!
//! ```console
//! $ cargo run --example any_engine -- target/wasm/minimal.wasm
//! ```

// `secure_in_place` takes a range of addresses that the caller must vouch for.
#![allow(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use wasm_prealloc_host::{
    DEFAULT_MARGIN_BYTES, DEFAULT_PAGES, Headroom, Need, Requirements, WASM_PAGE_BYTES,
    resident_bytes, secure_in_place,
};
use wasmi::{Engine, Linker, Module, Store};

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: any_engine MODULE (pinned, without imports, its memory exported)");
        return ExitCode::from(2);
    };
    match run(path.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &std::path::Path) -> Result<()> {
    let wasm = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let engine = Engine::default();
    let module = Module::new(&engine, &wasm)
        .with_context(|| format!("{} is not a valid module", path.display()))?;
    let mut store = Store::new(&engine, ());
    let needed_bytes = DEFAULT_PAGES * WASM_PAGE_BYTES;
    let need = Need::commit(needed_bytes, needed_bytes, DEFAULT_MARGIN_BYTES);
    Headroom::read()?.check(&need)?;
    let instance = Linker::new(&engine).instantiate_and_start(&mut store, &module)?;
    let memory = instance
        .exports(&store)
        .find_map(|export| export.into_memory())
        .context("the module exports no memory")?;

    let bytes = memory.data(&store);
    ensure!(
        bytes.len() as u64 == needed_bytes,
        "the module's memory has {} bytes; run `wasm-prealloc rewrite` on it",
        bytes.len()
    );
    let resident = resident_bytes(bytes)?;
    println!("resident after instantiation: {resident} bytes");
    let (start, len) = (memory.data_ptr(&store), bytes.len());
    // SAFETY: the store owns the memory, and is neither dropped nor used during the call. A pinned
    // memory does not grow, so wasmi does not move it later either.
    let secured = unsafe { secure_in_place(start, len, &Requirements::default()) }?;
    println!("secured: {secured}");

    let start = instance.get_typed_func::<(), ()>(&store, "_start")?;
    start.call(&mut store, ())?;
    println!("ran `_start`");
    Ok(())
}
