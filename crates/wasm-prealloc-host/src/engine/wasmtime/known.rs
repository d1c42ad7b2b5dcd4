//! The engines and modules that a pool has verified.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{PoisonError, RwLock};

use wasmtime::{Engine, EngineWeak, ExternType, Module, WasmFeatures};

use crate::commit::requirements::WASM_PAGE_BYTES;
use crate::engine::wasmtime::creator::{ENGINE_HEAP_GUARD_BYTES, check_sizes};
use crate::engine::wasmtime::trial::{self, Findings};
use crate::error::Error;
use crate::pool::memory_pool::MemoryPool;
use crate::pool::slot::RESERVATION_BYTES;

/// The number of verified modules that a pool keeps: one for blocks, and one for each of many views.
/// A further one replaces the oldest, which is verified again when it is used again.
const MODULES: usize = 32;

/// The engines that take their memories from a pool, and the modules that it has verified.
#[derive(Default)]
pub(crate) struct Known {
    /// Weak handles, so an engine made at the address of a dropped one is another.
    engines: RwLock<Vec<EngineWeak>>,
    /// The modules are kept alive, so a module made at the address of a dropped one is another.
    modules: RwLock<VecDeque<(Module, Findings)>>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").finish_non_exhaustive()
    }
}

impl Known {
    /// Records that an engine takes its memories from the pool.
    pub(crate) fn add_engine(&self, engine: &Engine) {
        if self.has_engine(engine) {
            return;
        }
        let mut engines = self.engines.write().unwrap_or_else(PoisonError::into_inner);
        engines.retain(|known| known.upgrade().is_some());
        engines.push(engine.weak());
    }

    fn has_engine(&self, engine: &Engine) -> bool {
        let engines = self.engines.read().unwrap_or_else(PoisonError::into_inner);
        let mut engines = engines.iter().filter_map(EngineWeak::upgrade);
        engines.any(|known| Engine::same(&known, engine))
    }

    fn findings(&self, module: &Module) -> Option<Findings> {
        let modules = self.modules.read().unwrap_or_else(PoisonError::into_inner);
        let mut modules = modules.iter();
        let (_, findings) = modules.find(|(known, _)| Module::same(known, module))?;
        Some(*findings)
    }

    fn add_module(&self, module: &Module, findings: Findings) {
        let replaced = {
            let mut modules = self.modules.write().unwrap_or_else(PoisonError::into_inner);
            let full = modules.len() == MODULES;
            let oldest = full.then(|| modules.pop_front());
            modules.push_back((module.clone(), findings));
            oldest
        };
        // Freeing compiled code takes a while, so it is done without the lock.
        drop(replaced);
    }
}

/// Verifies a module and its engine, or finds the result of an earlier verification.
pub(crate) fn verify(pool: &MemoryPool, module: &Module) -> Result<Findings, Error> {
    let side = pool.engine_side();
    if let Some(findings) = side.known.findings(module) {
        return Ok(findings);
    }
    let engine = module.engine();
    check_settings(pool, engine)?;
    for import in module.imports() {
        if let ExternType::Memory(_) = import.ty() {
            return Err(Error::ImportedMemory {
                module: import.module().to_owned(),
                name: import.name().to_owned(),
            });
        }
    }
    let (memories, slots) = (module.resources_required().num_memories, pool.slots());
    let memories = memories as usize;
    if memories > slots {
        return Err(Error::TooManyMemories { memories, slots });
    }
    let known = side.known.has_engine(engine) || trial::reaches(pool, engine)?;
    let findings = trial::run(pool, module, known, side.table_elements)?;
    if findings.engine_heap == Some(true) && side.heap.is_none() {
        return Err(Error::NoEngineHeap { heaps: 0 });
    }
    if known || memories > 0 || findings.engine_heap == Some(true) {
        side.known.add_engine(engine);
    }
    side.known.add_module(module, findings);
    Ok(findings)
}

/// Checks that no setting of the engine undoes the commit or bypasses the pool.
fn check_settings(pool: &MemoryPool, engine: &Engine) -> Result<(), Error> {
    let heap_bytes = RESERVATION_BYTES as u64;
    let slot_bytes = pool.pages().saturating_mul(WASM_PAGE_BYTES);
    let refused = [
        (
            engine.get_pooling_config().is_some(),
            "allocates from wasmtime's own pool (InstanceAllocationStrategy::Pooling)",
        ),
        (
            engine.get_memory_init_cow(),
            "maps copy-on-write images (memory_init_cow)",
        ),
        (
            engine.get_memory_may_move(),
            "may move memories (memory_may_move)",
        ),
        (
            engine.get_gc_heap_may_move()
                || engine.get_gc_heap_initial_size() != 0
                || engine.get_gc_heap_reservation() != heap_bytes
                || engine.get_gc_heap_guard_size() != ENGINE_HEAP_GUARD_BYTES as u64,
            "has other settings for its own heap than the pool gave it (gc_heap_may_move, \
             gc_heap_initial_size, gc_heap_reservation, gc_heap_guard_size)",
        ),
        (
            engine.get_memory_guard_size() == ENGINE_HEAP_GUARD_BYTES as u64,
            "requests the guards of its own heap for memories too (memory_guard_size)",
        ),
        (
            engine
                .get_wasm_features()
                .contains(WasmFeatures::STACK_SWITCHING),
            "lets a module make stacks, which nothing bounds (wasm_stack_switching)",
        ),
    ];
    for (is_set, what) in refused {
        if is_set {
            return Err(Error::Engine { what });
        }
    }
    check_sizes(
        slot_bytes,
        engine.get_memory_reservation(),
        engine.get_memory_guard_size(),
    )
}
