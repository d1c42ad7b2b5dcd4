//! Verified instantiation in asynchronous stores.
//!
//! The engine calls the memory creator on the thread that polls, so a reservation is put on that
//! thread for each poll; see `scope`. Start functions run on a stack of their own, which wasmtime
//! resumes within a poll, on the thread that polls.

use wasmtime::{AsContextMut, Instance, InstancePre, Linker, Module};

use crate::engine::wasmtime::error::InstantiateError;
use crate::engine::wasmtime::needs::Needs;
use crate::engine::wasmtime::scope::InstanceMemories;
use crate::error::Error;
use crate::pool::memory_pool::MemoryPool;

pub(crate) async fn reserve_for(
    pool: &MemoryPool,
    module: &Module,
) -> Result<InstanceMemories, Error> {
    let needs = Needs::of_module(pool, module)?;
    match needs.unlimited {
        Some(refusal) => Err(refusal.into()),
        None => Ok(InstanceMemories::reserve_async(pool, needs.memories, needs.to).await?),
    }
}

pub(crate) async fn instantiate<T: Send + 'static>(
    pool: &MemoryPool,
    linker: &Linker<T>,
    mut store: impl AsContextMut<Data = T> + Send,
    module: &Module,
) -> Result<Instance, InstantiateError> {
    let needs = Needs::of_module(pool, module)?;
    let memories = needs.reserve_in_async(pool, &mut store).await?;
    let instantiated = memories.during(linker.instantiate_async(store, module));
    Ok(instantiated.await?)
}

pub(crate) async fn instantiate_pre<T: Send + 'static>(
    pool: &MemoryPool,
    pre: &InstancePre<T>,
    mut store: impl AsContextMut<Data = T> + Send,
) -> Result<Instance, InstantiateError> {
    let needs = Needs::of_module(pool, pre.module())?;
    let memories = needs.reserve_in_async(pool, &mut store).await?;
    Ok(memories.during(pre.instantiate_async(store)).await?)
}

/// The same for components.
#[cfg(feature = "component-model")]
pub(crate) mod component {
    use wasmtime::component::{Component, Instance, InstancePre, Linker};

    use super::*;

    pub(crate) async fn instantiate<T: Send + 'static>(
        pool: &MemoryPool,
        linker: &Linker<T>,
        mut store: impl AsContextMut<Data = T> + Send,
        component: &Component,
    ) -> Result<Instance, InstantiateError> {
        let needs = Needs::of_component(pool, component)?;
        let memories = needs.reserve_in_async(pool, &mut store).await?;
        let instantiated = memories.during(linker.instantiate_async(store, component));
        Ok(instantiated.await?)
    }

    pub(crate) async fn instantiate_pre<T: Send + 'static>(
        pool: &MemoryPool,
        pre: &InstancePre<T>,
        mut store: impl AsContextMut<Data = T> + Send,
    ) -> Result<Instance, InstantiateError> {
        let needs = Needs::of_component(pool, pre.component())?;
        let memories = needs.reserve_in_async(pool, &mut store).await?;
        Ok(memories.during(pre.instantiate_async(store)).await?)
    }
}
