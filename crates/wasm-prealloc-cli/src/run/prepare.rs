//! Everything that happens before the commit: the module is verified, compiled and linked.

use anyhow::{Result, anyhow};
use wasm_prealloc::{Analysis, Format, MAX_PAGES, Memory, VerifyError};
use wasm_prealloc_host::{
    MemoryPool, Policy, PolicyError, PolicyKind, PreparedPool, VerifyError as PoolError,
    WasmtimePool as _,
};
use wasmtime::component::Component;
use wasmtime::{Config, Engine};

use super::component::ComponentProgram;
use super::core_module::{self, CoreProgram};
use super::from_engine;
use super::opts::Opts;
use super::outcome::{Failure, Refusal};
use super::program::Program;
use crate::flags;
use crate::pages::Pages;

/// A verified program, and a pool that suits it. Nothing is committed yet.
pub(super) struct Prepared {
    pub(super) pool: PreparedPool,
    pub(super) engine: Engine,
    pub(super) program: Program,
}

impl Prepared {
    /// Verifies and compiles a module or a component. Its imports and its arguments are checked
    /// before 4 GiB are committed.
    pub(super) fn new(opts: &Opts, args: &[String], wasm: &[u8]) -> Result<Self, Failure> {
        let memories = memories(opts, wasm)?;
        match Format::detect(wasm) {
            Format::Component => Self::of_component(opts, args, wasm, &memories),
            _ => Self::of_module(opts, args, wasm, &memories),
        }
    }

    fn of_module(
        opts: &Opts,
        args: &[String],
        wasm: &[u8],
        memories: &[Memory],
    ) -> Result<Self, Failure> {
        let mut pool = pool(opts, memories, memories.len())?;
        let engine = pool.engine(&mut config(opts)).map_err(from_engine)?;
        let module = core_module::compile(&engine, wasm)?;
        // The store will have the pool's limiter.
        pool.verify_limited(&module)
            .map_err(Failure::not_verified)?;
        if !core_module::needs_engine_heap(&pool, &module, wasm).map_err(Failure::not_verified)? {
            pool = pool.without_engine_heap();
        }
        let program = Program::Core(CoreProgram::new(opts, args, module)?);
        Ok(Self {
            pool,
            engine,
            program,
        })
    }

    fn of_component(
        opts: &Opts,
        args: &[String],
        wasm: &[u8],
        memories: &[Memory],
    ) -> Result<Self, Failure> {
        check_memories(opts, memories)?;
        let slots = opts.slots.unwrap_or(memories.len());
        let mut compiled = compile(opts, wasm, memories, slots)?;
        // A core module can be instantiated several times, or not at all.
        let required = compiled.component.resources_required();
        let count = required.map_or(slots, |required| required.num_memories as usize);
        if count > slots || (count < slots && opts.slots.is_none()) {
            compiled = compile(opts, wasm, memories, count)?;
        }
        let Compiled {
            pool,
            engine,
            component,
        } = compiled;
        pool.verify_component(&component)
            .map_err(Failure::not_verified)?;
        let program = Program::Component(ComponentProgram::new(opts, args, &component)?);
        Ok(Self {
            pool,
            engine,
            program,
        })
    }
}

/// A component that was compiled for a pool.
struct Compiled {
    pool: PreparedPool,
    engine: Engine,
    component: Component,
}

/// Compiles a component for a pool with that many slots. The pool has a heap for the engine only if
/// the component is not valid without one.
fn compile(opts: &Opts, wasm: &[u8], memories: &[Memory], slots: usize) -> Result<Compiled> {
    let pool_without_heap = pool(opts, memories, slots)?.without_engine_heap();
    let mut config_without_heap = config(opts);
    core_module::without_heap(&mut config_without_heap);
    let without_heap = (pool_without_heap, config_without_heap);
    let with_heap = (pool(opts, memories, slots)?, config(opts));
    let build = |(pool, mut config): (PreparedPool, Config)| {
        let engine = pool.engine(&mut config)?;
        let component = Component::new(&engine, wasm)?;
        Ok(Compiled {
            pool,
            engine,
            component,
        })
    };
    build(without_heap)
        .or_else(|_: wasmtime::Error| build(with_heap))
        .map_err(core_module::uncompiled)
}

/// Checks the memories that the engine shows only when a component is instantiated, and core modules
/// of it may have started.
fn check_memories(opts: &Opts, memories: &[Memory]) -> Result<(), Failure> {
    for memory in memories {
        let kind = match memory.page_size_log2 {
            _ if memory.shared => "shared",
            Some(_) => "custom-page-size",
            None => continue,
        };
        return Err(Failure::not_verified(PoolError::UnsupportedMemory { kind }));
    }
    let largest = memories.iter().map(maximum_pages).max();
    if let (PolicyKind::CommitMaximum, Some(slot_pages)) = (opts.memory.policy, opts.pages)
        && largest > Some(slot_pages)
    {
        let maximum = largest;
        let error = PolicyError::SlotTooSmall {
            maximum,
            slot_pages,
        };
        return Err(Failure::not_verified(PoolError::from(error)));
    }
    let minimum = memories.iter().map(|memory| memory.minimum).max();
    if let (PolicyKind::Cap, Some(cap), Some(minimum)) = (opts.memory.policy, opts.pages, minimum)
        && minimum > cap
    {
        let error = PolicyError::AboveCap { minimum, cap };
        return Err(Failure::not_verified(PoolError::from(error)));
    }
    Ok(())
}

/// Returns a pool for that many memories.
fn pool(opts: &Opts, memories: &[Memory], count: usize) -> Result<PreparedPool> {
    let policy = opts.memory.policy(opts.pages)?;
    if let Some(slots) = opts.slots.filter(|slots| *slots < count) {
        return Err(anyhow!(
            "it has {count} memories: leave out `--slots {slots}`"
        ));
    }
    let pages = match policy {
        Policy::CommitMaximum => memories.iter().map(maximum_pages).max().unwrap_or(1),
        _ => MAX_PAGES,
    };
    let builder = MemoryPool::builder()
        .slots(opts.slots.unwrap_or(count))
        .pages(opts.pages.unwrap_or(pages))
        .policy(policy);
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

/// Returns the memories that the core modules define. With the policy `declared` they must be pinned.
fn memories(opts: &Opts, wasm: &[u8]) -> Result<Vec<Memory>, Failure> {
    let analysis = Analysis::new(wasm)?;
    if opts.memory.policy == PolicyKind::Declared {
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
    let defined = analysis.memories().filter(|memory| memory.import.is_none());
    Ok(defined.cloned().collect())
}

/// Returns the size to which a memory can grow, in 64 KiB pages, and at least the smallest size of a
/// slot.
fn maximum_pages(memory: &Memory) -> u64 {
    memory.maximum.unwrap_or(MAX_PAGES).max(1)
}
