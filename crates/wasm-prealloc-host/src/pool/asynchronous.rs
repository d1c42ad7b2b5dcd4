//! Requests of tasks: they wait for slots in the same queue as threads, and suspend meanwhile.
//!
//! The futures use the standard library alone, so they run on every executor.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::error::LendError;
use crate::pool::lent::LentMemory;
use crate::pool::loans::LentTo;
use crate::pool::memory_pool::MemoryPool;
use crate::pool::queue::Ticket;
use crate::pool::reservation::Reservation;
use crate::pool::shared::Shared;

impl MemoryPool {
    /// Lends a memory as [`lend`](MemoryPool::lend) does. Waiting for a slot suspends the task, for
    /// as long as it takes: [`WhenExhausted`](crate::WhenExhausted) concerns threads only.
    ///
    /// The first poll takes a place in the queue, in which threads wait too, and requests are served
    /// in that order. Dropping the future leaves the queue; for a limited wait, drop it after a
    /// timeout. The slot is kept for the task once it is woken, so a host polls the future soon, or
    /// drops it. The future counts as a handle of the pool.
    ///
    /// With [`Reset::Background`](crate::Reset::Background), no reset runs on the executor's
    /// threads.
    ///
    /// ```
    /// use wasm_prealloc_host::{MemoryPool, Reset};
    ///
    /// # fn block_on<F: Future>(future: F) -> F::Output {
    /// #     let mut future = std::pin::pin!(future);
    /// #     let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// #     loop {
    /// #         if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
    /// #             return output;
    /// #         }
    /// #     }
    /// # }
    /// # block_on(async {
    /// let pool = MemoryPool::builder().slots(2).pages(16).reset(Reset::Background).secure()?;
    /// let mut memory = pool.lend_async(16, Some(16)).await?;
    /// memory.bytes_mut()[0] = 1;
    /// # Ok::<(), wasm_prealloc_host::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As for [`lend`](MemoryPool::lend). [`LendError::NoSlot`] only if no slot of the pool can ever be
    /// lent.
    pub fn lend_async(
        &self,
        minimum: u64,
        maximum: Option<u64>,
    ) -> impl Future<Output = Result<LentMemory, LendError>> + Send + 'static {
        let pool = self.clone();
        async move {
            pool.shared().options().limit_pages(minimum, maximum)?;
            let mut slot = pool.reserve_async_to(1, LentTo::Host).await?;
            slot.lend(minimum, maximum)
        }
    }

    /// Takes `count` slots at once as [`reserve`](MemoryPool::reserve) does. Waiting for them
    /// suspends the task; see [`lend_async`](MemoryPool::lend_async).
    ///
    /// # Errors
    /// As for [`reserve`](MemoryPool::reserve). [`LendError::NoSlot`] only if no slot of the pool can
    /// ever be lent.
    pub fn reserve_async(
        &self,
        count: usize,
    ) -> impl Future<Output = Result<Reservation, LendError>> + Send + 'static {
        self.reserve_async_to(count, LentTo::Reservation)
    }

    pub(crate) fn reserve_async_to(
        &self,
        count: usize,
        to: LentTo,
    ) -> impl Future<Output = Result<Reservation, LendError>> + Send + 'static {
        Request {
            shared: Arc::clone(self.shared()),
            count,
            to,
            ticket: None,
        }
    }
}

/// A task's request for slots. Dropping it leaves the queue, or gives back the slots that were
/// kept for it.
#[must_use = "a future does nothing unless it is polled"]
struct Request {
    shared: Arc<Shared>,
    count: usize,
    to: LentTo,
    /// `None` before the first poll, and after the last.
    ticket: Option<Ticket>,
}

impl Future for Request {
    type Output = Result<Reservation, LendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let taken = this
            .shared
            .poll_take(this.count, &mut this.ticket, context.waker());
        taken.map_ok(|slots| Reservation::new(slots, &this.shared, &this.to))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.shared.leave(ticket);
        }
    }
}
