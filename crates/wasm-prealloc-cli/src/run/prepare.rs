//! Everything that happens before the commit: the module is verified, compiled and linked.

use anyhow::{Result, anyhow};
use wasm_prealloc::{Analysis, Format, MAX_PAGES, Memory, VerifyError};
use wasm_prealloc_host::{MemoryPool, Policy, PreparedPool, WasmtimePool as _};
use wasmtime::{Config, Engine};

use super::core_module::{self, CoreProgram};
use super::from_engine;
use super::opts::Opts;
use super::outcome::{Failure, Refusal};
use crate::flags;
use crate::pages::Pages;

/// A verified program, and a pool that suits it. Nothing is committed yet.
pub(super) struct Prepared {
    pub(super) pool: PreparedPool,
    pub(super) engine: Engine,
    pub(super) program: CoreProgram,
}

impl Prepared {
    /// Verifies and compiles a module. Its imports and its arguments are checked before 4 GiB are
    /// committed.
    pub(super) fn new(opts: &Opts, args: &[String], wasm: &[u8]) -> Result<Self, Failure> {
        if Format::detect(wasm) == Format::Component {
            return Err(anyhow!("it is a component: give a core module").into());
        }
        let memories = memories(opts, wasm)?;
        let mut pool = pool(opts, &memories)?;
        let engine = pool.engine(&mut config(opts)).map_err(from_engine)?;
        let module = core_module::compile(&engine, wasm)?;
        // The store will have the pool's limiter.
        pool.verify_limited(&module)
            .map_err(Failure::not_verified)?;
        if !core_module::needs_engine_heap(&pool, &module, wasm).map_err(Failure::not_verified)? {
            pool = pool.without_engine_heap();
        }
        let program = CoreProgram::new(opts, args, module)?;
        Ok(Self {
            pool,
            engine,
            program,
        })
    }
}

/// Returns a pool with a slot for each memory.
fn pool(opts: &Opts, memories: &[Memory]) -> Result<PreparedPool> {
    let count = memories.len();
    if let Some(slots) = opts.slots.filter(|slots| *slots < count) {
        return Err(anyhow!(
            "it has {count} memories: leave out `--slots {slots}`"
        ));
    }
    let pages = match opts.memory.policy {
        Policy::CommitMaximum => memories.iter().map(maximum_pages).max().unwrap_or(1),
        _ => MAX_PAGES,
    };
    let builder = MemoryPool::builder()
        .slots(opts.slots.unwrap_or(count))
        .pages(opts.pages.unwrap_or(pages));
    let builder = match opts.quiet {
        true => opts.memory.apply(builder),
        false => opts.memory.apply_with_progress(builder),
    };
    Ok(builder
        .engine_heap_bytes(opts.engine_heap_bytes)
        .table_elements(opts.table_elements)
        .prepare())
}

fn config(opts: &Opts) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(opts.timeout.is_some())
        .consume_fuel(opts.fuel.is_some());
    config
}

/// Returns the module's memories. With the policy `declared` they must be pinned.
fn memories(opts: &Opts, wasm: &[u8]) -> Result<Vec<Memory>, Failure> {
    let analysis = Analysis::new(wasm)?;
    if opts.memory.policy == Policy::Declared {
        analysis
            .verify(opts.pages.unwrap_or(MAX_PAGES))
            .map_err(|error| match error {
                VerifyError::NotPinned(violations) => {
                    let expected = Pages::of_all(opts.pages.unwrap_or(MAX_PAGES));
                    let line = |violation| flags::violation(violation, &expected);
                    let lines: Vec<_> = violations.iter().map(line).collect();
                    Failure::Refused(Refusal::NotPinned, anyhow!(lines.join("\n")))
                }
                // The cause itself has a kind and an offset.
                VerifyError::Unreadable(error) => error.into(),
            })?;
    }
    Ok(analysis.memories().cloned().collect())
}

/// Returns the size to which a memory can grow, in 64 KiB pages, and at least the smallest size of a
/// slot.
fn maximum_pages(memory: &Memory) -> u64 {
    memory.maximum.unwrap_or(MAX_PAGES).max(1)
}
