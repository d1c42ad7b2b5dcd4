//! A program: a core module or a component.

use wasm_prealloc_host::{InstantiateError, MemoryPool};
use wasmtime::Store;

use super::component::ComponentProgram;
use super::core_module::CoreProgram;
use super::outcome::Ended;
use super::wasi::State;

/// A program that was verified, compiled and linked.
pub(super) enum Program {
    Core(CoreProgram),
    Component(ComponentProgram),
}

impl Program {
    /// Instantiates the program in memory of the pool, and runs it.
    pub(super) fn run(
        &self,
        pool: &MemoryPool,
        store: &mut Store<State>,
    ) -> Result<Ended, InstantiateError> {
        match self {
            Self::Core(program) => program.run(pool, store),
            Self::Component(program) => program.run(pool, store),
        }
    }
}
