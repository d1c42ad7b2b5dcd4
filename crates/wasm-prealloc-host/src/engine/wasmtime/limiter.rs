//! The limiter of a store that bounds its tables.

use std::cell::Cell;
#[cfg(feature = "async")]
use std::{
    future::{Future, poll_fn, ready},
    pin::{Pin, pin},
};

use wasmtime::{AsContextMut, Ref, RefType, ResourceLimiter, Table, TableType};

use crate::pool::memory_pool::{MemoryPool, WeakPool};

thread_local! {
    /// The pool of the limiter that most recently allowed an empty table on this thread.
    static CALLED: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Bounds the tables of one store; see [`WasmtimePool::limiter`](crate::WasmtimePool::limiter).
///
/// Growth beyond the bound returns -1, the same on every host. The bound counts the elements of all
/// tables of the store together. Memories are bounded by the pool's slots, and are not counted.
#[derive(Debug, Clone)]
pub struct StoreLimiter {
    /// Keeps the pool's address from being used for another pool.
    pool: WeakPool,
    bound: u64,
    elements: u64,
}

impl StoreLimiter {
    pub(crate) fn new(pool: &MemoryPool) -> StoreLimiter {
        StoreLimiter {
            pool: pool.downgrade(),
            bound: pool.engine_side().table_elements,
            elements: 0,
        }
    }

    /// Allows the tables of that many instances in the store. The default is 1.
    pub fn for_instances(mut self, instances: usize) -> StoreLimiter {
        self.bound = self.bound.saturating_mul(instances as u64);
        self
    }
}

impl ResourceLimiter for StoreLimiter {
    /// A memory of the pool cannot grow beyond what is committed.
    fn memory_growing(
        &mut self,
        _current: usize,
        _desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired == 0 {
            CALLED.set(Some(self.pool.id()));
        }
        // wasmtime refuses growth beyond the table's own maximum, but only afterwards.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let grown = (desired as u64).saturating_sub(current as u64);
        match self.elements.checked_add(grown) {
            Some(elements) if elements <= self.bound => {
                self.elements = elements;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// For [`Store::limiter_async`](wasmtime::Store::limiter_async).
#[cfg(feature = "async")]
impl wasmtime::ResourceLimiterAsync for StoreLimiter {
    fn memory_growing<'a, 'growing>(
        &'a mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Pin<Box<dyn Future<Output = wasmtime::Result<bool>> + Send + 'growing>>
    where
        'a: 'growing,
    {
        let allowed = ResourceLimiter::memory_growing(self, current, desired, maximum);
        Box::pin(ready(allowed))
    }

    fn table_growing<'a, 'growing>(
        &'a mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Pin<Box<dyn Future<Output = wasmtime::Result<bool>> + Send + 'growing>>
    where
        'a: 'growing,
    {
        let allowed = ResourceLimiter::table_growing(self, current, desired, maximum);
        Box::pin(ready(allowed))
    }
}

/// The type of a table without elements.
fn empty_table() -> TableType {
    TableType::new(RefType::FUNCREF, 0, Some(0))
}

/// Returns true if a limiter of the pool bounds the tables of the store. wasmtime does not report
/// the limiter of a store, but it calls the limiter when an empty table is made.
pub(crate) fn bounds(mut store: impl AsContextMut, pool: &MemoryPool) -> bool {
    CALLED.set(None);
    let made = Table::new(&mut store, empty_table(), Ref::Func(None)).is_ok();
    made && CALLED.take() == Some(pool.id())
}

/// As [`bounds`], for a store whose limiter may be asynchronous. A host's own limiter may suspend
/// before or after it calls the pool's.
#[cfg(feature = "async")]
pub(crate) async fn bounds_async<T: Send>(
    mut store: impl AsContextMut<Data = T> + Send,
    pool: &MemoryPool,
) -> bool {
    let mut made = pin!(Table::new_async(&mut store, empty_table(), Ref::Func(None)));
    let mut called = false;
    let made = poll_fn(|context| {
        CALLED.set(None);
        let polled = made.as_mut().poll(context);
        called |= CALLED.take() == Some(pool.id());
        polled
    });
    made.await.is_ok() && called
}
