//! The needs of verified code: memories of the pool, and a limiter in the store.

use wasmtime::{AsContextMut, Module};

use crate::engine::wasmtime::limiter;
use crate::engine::wasmtime::scope::InstanceMemories;
use crate::engine::wasmtime::verify::verify;
use crate::error::{Error, VerifyError};
use crate::pool::loans::LentTo;
use crate::pool::memory_pool::MemoryPool;

/// The needs of a module or component that was verified.
#[derive(Debug)]
pub(crate) struct Needs {
    pub(crate) memories: usize,
    /// The borrower of the memories.
    pub(crate) to: LentTo,
    /// The refusal of a store that does not have the pool's limiter. `None` if the tables need none.
    pub(crate) unlimited: Option<VerifyError>,
}

impl Needs {
    /// Verifies a module.
    pub(crate) fn of_module(pool: &MemoryPool, module: &Module) -> Result<Needs, VerifyError> {
        let findings = verify(pool, module)?;
        let (maximum, bound) = (findings.table_maximum, pool.engine_side().table_elements);
        Ok(Needs {
            memories: findings.memories,
            to: LentTo::instance(module.name()),
            unlimited: (maximum > bound).then(|| VerifyError::UnboundedTables {
                maximum: (maximum < u64::from(u32::MAX)).then_some(maximum),
                bound,
            }),
        })
    }

    /// Takes the memories, in any store.
    pub(crate) fn reserve(self, pool: &MemoryPool) -> Result<InstanceMemories, Error> {
        match self.unlimited {
            Some(refusal) => Err(refusal.into()),
            None => Ok(InstanceMemories::reserve(pool, self.memories, &self.to)?),
        }
    }

    /// Takes the memories for an instance in this store.
    pub(crate) fn reserve_in(
        self,
        pool: &MemoryPool,
        store: impl AsContextMut,
    ) -> Result<InstanceMemories, Error> {
        match self.unlimited {
            Some(refusal) if !limiter::bounds(store, pool) => Err(refusal.into()),
            _ => Ok(InstanceMemories::reserve(pool, self.memories, &self.to)?),
        }
    }

    /// Takes the memories for an instance in this store, and suspends until they are free.
    #[cfg(feature = "async")]
    pub(crate) async fn reserve_in_async<T: Send>(
        self,
        pool: &MemoryPool,
        store: impl AsContextMut<Data = T> + Send,
    ) -> Result<InstanceMemories, Error> {
        if let Some(refusal) = self.unlimited
            && !limiter::bounds_async(store, pool).await
        {
            return Err(refusal.into());
        }
        Ok(InstanceMemories::reserve_async(pool, self.memories, self.to).await?)
    }
}
