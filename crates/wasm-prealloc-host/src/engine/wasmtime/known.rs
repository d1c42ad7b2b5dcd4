//! The engines and modules that a pool has verified.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{PoisonError, RwLock};

use wasmtime::{Engine, EngineWeak, Module};

/// The number of verified modules that a pool keeps. A further one replaces the oldest, which is
/// verified again when it is used again. A host has one module for blocks, and one for each view.
const MODULES: usize = 32;

/// The findings of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Findings {
    /// The number of memories that the module defines.
    pub(crate) memories: usize,
    /// True if the module needs the engine's heap. `None` if the probe did not finish.
    pub(crate) engine_heap: Option<bool>,
    /// The number of elements to which all tables together can grow.
    pub(crate) table_maximum: u64,
}

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

    /// Returns true if the engine is known to take its memories from the pool.
    pub(crate) fn has_engine(&self, engine: &Engine) -> bool {
        let engines = self.engines.read().unwrap_or_else(PoisonError::into_inner);
        let mut engines = engines.iter().filter_map(EngineWeak::upgrade);
        engines.any(|known| Engine::same(&known, engine))
    }

    /// Returns the findings of an earlier verification.
    pub(crate) fn findings(&self, module: &Module) -> Option<Findings> {
        let modules = self.modules.read().unwrap_or_else(PoisonError::into_inner);
        let mut modules = modules.iter();
        let (_, findings) = modules.find(|(known, _)| Module::same(known, module))?;
        Some(*findings)
    }

    /// Records the findings on a module. They replace the oldest if there are too many.
    pub(crate) fn add_module(&self, module: &Module, findings: Findings) {
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
