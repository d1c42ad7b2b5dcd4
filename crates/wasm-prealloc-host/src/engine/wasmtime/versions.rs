//! The differences between the versions of wasmtime that this crate supports. The range is in this
//! crate's manifest.
//!
//! One source serves all versions, without a build script: cargo passes a build script nothing about
//! wasmtime, so it would have to guess the version. Instead, a trait here has the methods that some
//! versions lack. The compiler prefers wasmtime's own method where there is one. Each fallback returns
//! `None`, so that a caller cannot take a missing setting for one that was made.

use wasmtime::{Config, Engine, WasmFeatures};

use crate::engine::wasmtime::creator::ENGINE_HEAP_GUARD_BYTES;
use crate::pool::slot::RESERVATION_BYTES;

/// The settings of an engine that decide where its memories come from.
pub(crate) struct Settings {
    pub(crate) is_pooling: bool,
    pub(crate) memory_init_cow: bool,
    pub(crate) memory_may_move: bool,
    pub(crate) memory_reservation: u64,
    pub(crate) memory_guard_size: u64,
    pub(crate) gc_heap_may_move: bool,
    pub(crate) gc_heap_initial_size: u64,
    pub(crate) gc_heap_reservation: u64,
    pub(crate) gc_heap_guard_size: u64,
    pub(crate) wasm_features: WasmFeatures,
}

impl Settings {
    /// Reads the settings. Returns `None` before wasmtime 47, where an engine does not report them.
    pub(crate) fn read(engine: &Engine) -> Option<Settings> {
        Some(Settings {
            // Without a value where the others have none.
            is_pooling: engine.get_pooling_config().is_some(),
            memory_init_cow: present(engine.get_memory_init_cow())?,
            memory_may_move: present(engine.get_memory_may_move())?,
            memory_reservation: present(engine.get_memory_reservation())?,
            memory_guard_size: present(engine.get_memory_guard_size())?,
            gc_heap_may_move: present(engine.get_gc_heap_may_move())?,
            gc_heap_initial_size: present(engine.get_gc_heap_initial_size())?,
            gc_heap_reservation: present(engine.get_gc_heap_reservation())?,
            gc_heap_guard_size: present(engine.get_gc_heap_guard_size())?,
            wasm_features: present(engine.get_wasm_features())?,
        })
    }
}

/// Gives the engine's own heap other guards than memories, so that a creator can tell the two apart.
/// Returns `None` before wasmtime 45, where the heap has the settings of memories.
pub(crate) fn set_heap(config: &mut Config) -> Option<()> {
    is_set(config.gc_heap_reservation(RESERVATION_BYTES as u64))?;
    is_set(config.gc_heap_may_move(false))?;
    is_set(config.gc_heap_guard_size(ENGINE_HEAP_GUARD_BYTES as u64))?;
    // Before wasmtime 47 the heap always starts empty.
    let _ = is_set(config.gc_heap_initial_size(0));
    Some(())
}

fn present<T>(value: impl Into<Option<T>>) -> Option<T> {
    value.into()
}

fn is_set<'a>(config: impl Into<Option<&'a mut Config>>) -> Option<()> {
    config.into().map(drop)
}

/// The methods of `Engine` that wasmtime has since version 47.
#[allow(dead_code, reason = "unused where wasmtime has the methods")]
trait EngineFallback {
    fn get_pooling_config(&self) -> Option<()> {
        None
    }
    fn get_memory_init_cow(&self) -> Option<bool> {
        None
    }
    fn get_memory_may_move(&self) -> Option<bool> {
        None
    }
    fn get_memory_reservation(&self) -> Option<u64> {
        None
    }
    fn get_memory_guard_size(&self) -> Option<u64> {
        None
    }
    fn get_gc_heap_may_move(&self) -> Option<bool> {
        None
    }
    fn get_gc_heap_initial_size(&self) -> Option<u64> {
        None
    }
    fn get_gc_heap_reservation(&self) -> Option<u64> {
        None
    }
    fn get_gc_heap_guard_size(&self) -> Option<u64> {
        None
    }
    fn get_wasm_features(&self) -> Option<WasmFeatures> {
        None
    }
}

impl EngineFallback for Engine {}

/// The methods of `Config` that wasmtime has since version 45, and the last one since version 47.
#[allow(dead_code, reason = "unused where wasmtime has the methods")]
trait ConfigFallback {
    fn gc_heap_reservation(&mut self, _bytes: u64) -> Option<&mut Config> {
        None
    }
    fn gc_heap_may_move(&mut self, _enable: bool) -> Option<&mut Config> {
        None
    }
    fn gc_heap_guard_size(&mut self, _bytes: u64) -> Option<&mut Config> {
        None
    }
    fn gc_heap_initial_size(&mut self, _bytes: u64) -> Option<&mut Config> {
        None
    }
}

impl ConfigFallback for Config {}
