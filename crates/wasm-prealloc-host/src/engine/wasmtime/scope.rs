//! The reservations from which a creator lends on this thread.
//!
//! A creator is called by the engine, which passes nothing on from the embedder. The slots that
//! were reserved for a module reach it through a list of the thread, innermost last: a start
//! function can instantiate another module.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::error::LendError;
use crate::pool::lent::LentMemory;
use crate::pool::loans::LentTo;
use crate::pool::memory_pool::MemoryPool;
use crate::pool::reservation::Reservation;

thread_local! {
    static SCOPES: RefCell<Vec<Scope>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
struct Scope {
    pool: MemoryPool,
    /// `None` while a memory is lent from it.
    reservation: Option<Reservation>,
}

/// The slots for all memories of one instance, taken at once; see
/// [`WasmtimePool::reserve_for`](crate::WasmtimePool::reserve_for). Slots that the instance does
/// not take go back to the pool.
#[derive(Debug)]
#[must_use = "the slots go back to the pool when this is dropped"]
pub struct InstanceMemories {
    pool: MemoryPool,
    /// `None` for a module without memories.
    reservation: Option<Reservation>,
}

impl InstanceMemories {
    pub(crate) fn reserve(
        pool: &MemoryPool,
        memories: usize,
        to: &LentTo,
    ) -> Result<InstanceMemories, LendError> {
        let reservation = match memories {
            0 => None,
            memories => Some(pool.reserve_to(memories, to)?),
        };
        Ok(InstanceMemories {
            pool: pool.clone(),
            reservation,
        })
    }

    /// As [`reserve`](InstanceMemories::reserve), for a task.
    #[cfg(feature = "async")]
    pub(crate) async fn reserve_async(
        pool: &MemoryPool,
        memories: usize,
        to: LentTo,
    ) -> Result<InstanceMemories, LendError> {
        let reservation = match memories {
            0 => None,
            memories => Some(pool.reserve_async_to(memories, to).await?),
        };
        Ok(InstanceMemories {
            pool: pool.clone(),
            reservation,
        })
    }

    /// Calls `instantiate`, in which the engine takes these slots for the memories that it creates
    /// on this thread.
    pub fn with<R>(mut self, instantiate: impl FnOnce() -> R) -> R {
        let _entered = self.enter();
        instantiate()
    }

    /// Returns a future during which the engine takes these slots, for an asynchronous store. It
    /// may be polled on several threads: with an asynchronous resource limiter, wasmtime can
    /// suspend between two memories.
    pub fn during<F: Future>(self, future: F) -> WithMemories<F> {
        WithMemories {
            memories: self,
            future: Box::pin(future),
        }
    }

    fn enter(&mut self) -> Entered<'_> {
        if let Some(reservation) = self.reservation.take() {
            let pool = self.pool.clone();
            let scope = Scope {
                pool,
                reservation: Some(reservation),
            };
            SCOPES.with_borrow_mut(|scopes| scopes.push(scope));
            Entered(Some(self))
        } else {
            Entered(None)
        }
    }
}

/// Takes the reservation out of the thread's list again, also when the engine panics.
struct Entered<'a>(Option<&'a mut InstanceMemories>);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(memories) = self.0.take() {
            // What is left is dropped by its owner, without the borrow of the list.
            let scope = SCOPES.with_borrow_mut(Vec::pop);
            memories.reservation = scope.and_then(|scope| scope.reservation);
        }
    }
}

/// A future during which an engine takes reserved memories; see [`InstanceMemories::during`].
#[derive(Debug)]
#[must_use = "a future does nothing unless it is polled"]
pub struct WithMemories<F> {
    memories: InstanceMemories,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for WithMemories<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _entered = this.memories.enter();
        this.future.as_mut().poll(context)
    }
}

/// Lends a memory from the innermost reservation of this thread in that pool, or else from the pool
/// itself.
pub(crate) fn lend(
    pool: &MemoryPool,
    minimum: u64,
    maximum: Option<u64>,
) -> Result<LentMemory, LendError> {
    let take = |scopes: &mut Vec<Scope>| {
        let index = scopes.iter().rposition(|scope| scope.pool.is_same(pool))?;
        let reservation = scopes[index].reservation.take_if(|left| !left.is_empty())?;
        Some((index, reservation))
    };
    let Some((index, mut reservation)) = SCOPES.with_borrow_mut(take) else {
        return pool.lend_to(minimum, maximum, LentTo::Engine);
    };
    // Without the borrow: lending emits events, and a subscriber may call the pool.
    let lent = reservation.lend(minimum, maximum);
    SCOPES.with_borrow_mut(|scopes| scopes[index].reservation = Some(reservation));
    lent
}
