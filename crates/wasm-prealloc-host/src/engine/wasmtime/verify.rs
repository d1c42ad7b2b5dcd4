//! The verification of a module and its engine, before the module is instantiated.

use wasmtime::{Engine, ExternType, Module, WasmFeatures};

use crate::commit::requirements::WASM_PAGE_BYTES;
use crate::engine::wasmtime::creator::{ENGINE_HEAP_GUARD_BYTES, check_sizes, check_type};
use crate::engine::wasmtime::known::Findings;
use crate::engine::wasmtime::probe;
use crate::engine::wasmtime::versions::Settings;
use crate::error::VerifyError;
use crate::pool::memory_pool::MemoryPool;
use crate::pool::slot::RESERVATION_BYTES;

/// Verifies a module and its engine, or returns the findings of an earlier verification.
pub(crate) fn verify(pool: &MemoryPool, module: &Module) -> Result<Findings, VerifyError> {
    let side = pool.engine_side();
    if let Some(findings) = side.known.findings(module) {
        return Ok(findings);
    }
    let engine = module.engine();
    check_settings(pool, engine)?;
    for import in module.imports() {
        if let ExternType::Memory(_) = import.ty() {
            return Err(VerifyError::ImportedMemory {
                module: import.module().to_owned(),
                name: import.name().to_owned(),
            });
        }
    }
    let (memories, slots) = (module.resources_required().num_memories, pool.slots());
    let memories = memories as usize;
    if memories > slots {
        return Err(VerifyError::TooManyMemories { memories, slots });
    }
    let known = side.known.has_engine(engine) || probe::reaches(pool, engine)?;
    let findings = probe::run(pool, module, known, side.table_elements)?;
    if findings.engine_heap.is_none() {
        check_shown(pool, module)?;
    }
    if findings.engine_heap == Some(true) && side.heap.is_none() {
        return Err(VerifyError::NoEngineHeap);
    }
    if known || memories > 0 || findings.engine_heap == Some(true) {
        side.known.add_engine(engine);
    }
    side.known.add_module(module, findings);
    Ok(findings)
}

/// Checks what a module that was not probed shows of its memories and tables: the types of those
/// that it exports, and the largest minimum of all.
///
/// What it does not show is checked when it is instantiated: the maximum and the kind of memories
/// that are not exported, and whether the module needs the engine's own heap.
fn check_shown(pool: &MemoryPool, module: &Module) -> Result<(), VerifyError> {
    for export in module.exports() {
        if let ExternType::Memory(ty) = export.ty() {
            check_type(pool, &ty)?;
        }
    }
    let required = module.resources_required();
    if let Some(minimum) = required.max_initial_memory_size {
        // The maximum is unknown, and one that suits the policy is possible.
        let maximum = Some(minimum.max(pool.pages()));
        pool.policy().limit_pages(minimum, maximum, pool.pages())?;
    }
    let bound = pool.engine_side().table_elements;
    match required.max_initial_table_size {
        Some(elements) if elements > bound => Err(VerifyError::TablesTooLarge { elements, bound }),
        _ => Ok(()),
    }
}

/// Checks that no setting of the engine undoes the commit or bypasses the pool.
pub(crate) fn check_settings(pool: &MemoryPool, engine: &Engine) -> Result<(), VerifyError> {
    let Some(settings) = Settings::read(engine) else {
        // The pool made a known engine with its own settings.
        return match pool.engine_side().known.has_engine(engine) {
            true => Ok(()),
            false => Err(VerifyError::EngineUnproven {
                why: "wasmtime reports the settings of an engine only since version 47",
            }),
        };
    };
    let slot_bytes = pool.pages().saturating_mul(WASM_PAGE_BYTES);
    let refused = [
        (
            settings.is_pooling,
            "allocates from wasmtime's own pool (InstanceAllocationStrategy::Pooling)",
        ),
        (
            settings.memory_init_cow,
            "maps copy-on-write images (memory_init_cow)",
        ),
        (
            settings.memory_may_move,
            "may move memories (memory_may_move)",
        ),
        (
            settings.gc_heap_may_move
                || settings.gc_heap_initial_size != 0
                || settings.gc_heap_reservation != RESERVATION_BYTES as u64
                || settings.gc_heap_guard_size != ENGINE_HEAP_GUARD_BYTES as u64,
            "has other settings for its own heap than the pool gave it (gc_heap_may_move, \
             gc_heap_initial_size, gc_heap_reservation, gc_heap_guard_size)",
        ),
        (
            settings.memory_guard_size == ENGINE_HEAP_GUARD_BYTES as u64,
            "requests the guards of its own heap for memories too (memory_guard_size)",
        ),
        (
            settings
                .wasm_features
                .contains(WasmFeatures::STACK_SWITCHING),
            "lets a module make stacks, which nothing bounds (wasm_stack_switching)",
        ),
    ];
    for (is_set, what) in refused {
        if is_set {
            return Err(VerifyError::Engine { what });
        }
    }
    check_sizes(
        slot_bytes,
        settings.memory_reservation,
        settings.memory_guard_size,
    )
}
