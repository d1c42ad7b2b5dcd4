//! The verification of a component and its engine, before the component is instantiated.
//!
//! wasmtime counts the memories and tables of a component, and shows the largest size that one of
//! them starts with. It shows no limits, and a probe would run the start functions of the core
//! modules before the last. What cannot be seen here is checked when the engine requests the memory.

use wasmtime::component::Component;

use crate::engine::wasmtime::needs::Needs;
use crate::engine::wasmtime::probe;
use crate::engine::wasmtime::verify::check_settings;
use crate::error::{PolicyError, VerifyError};
use crate::pool::loans::LentTo;
use crate::pool::memory_pool::MemoryPool;

impl Needs {
    /// Verifies a component and its engine, as far as it can be seen.
    pub(crate) fn of_component(
        pool: &MemoryPool,
        component: &Component,
    ) -> Result<Needs, VerifyError> {
        let (side, engine) = (pool.engine_side(), component.engine());
        check_settings(pool, engine)?;
        if !side.known.has_engine(engine) {
            if !probe::reaches(pool, engine)? {
                let why = "a component cannot be probed";
                return Err(VerifyError::EngineUnproven { why });
            }
            side.known.add_engine(engine);
        }
        let Some(required) = component.resources_required() else {
            return Err(VerifyError::ImportedModules);
        };
        let (memories, slots) = (required.num_memories as usize, pool.slots());
        if memories > slots {
            return Err(VerifyError::TooManyMemories { memories, slots });
        }
        if let Some(largest) = required.max_initial_memory_size {
            check_largest(pool, largest)?;
        }
        let (bound, elements) = (side.table_elements, required.max_initial_table_size);
        if let Some(elements) = elements.filter(|&elements| elements > bound) {
            return Err(VerifyError::TablesTooLarge { elements, bound });
        }
        Ok(Needs {
            memories,
            to: LentTo::instance(None),
            unlimited: (required.num_tables > 0).then_some(VerifyError::ComponentTables { bound }),
        })
    }
}

/// Checks the memory that starts with the most pages.
fn check_largest(pool: &MemoryPool, largest: u64) -> Result<(), VerifyError> {
    let limits = (pool.policy()).limit_pages(largest, Some(largest), pool.pages());
    match limits {
        Ok(_) => Ok(()),
        // Its maximum cannot be seen.
        Err(PolicyError::NotPinned { expected, .. }) => {
            Err(VerifyError::ComponentNotPinned { largest, expected })
        }
        Err(other) => Err(other.into()),
    }
}
