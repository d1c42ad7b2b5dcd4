//! The queue of a pool: tasks and threads in one order, cancelled at any time. Random sequences are
//! compared with a model; `WASM_PREALLOC_SEED` sets the first seed.
#![allow(unsafe_code, reason = "children are forked")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use wasm_prealloc_host::{
    LendError, LockOptions, MemoryPool, MemoryPoolBuilder, Policy, PolicyError, Reservation, Reset,
    WhenExhausted,
};

fn builder(slots: usize) -> MemoryPoolBuilder {
    let mut lock = LockOptions::default();
    lock.path = std::env::temp_dir();
    let builder = MemoryPool::builder().slots(slots).pages(1).lock(lock);
    builder.policy(Policy::CommitMaximum)
}

fn first_seed() -> u64 {
    let seed = std::env::var("WASM_PREALLOC_SEED").ok();
    seed.and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// A task's waker, which uses the pool as an executor that drops tasks at once would.
struct Task {
    pool: MemoryPool,
    woken: AtomicUsize,
}

impl Wake for Task {
    fn wake(self: Arc<Task>) {
        self.woken.fetch_add(1, Ordering::SeqCst);
        assert!(self.pool.statistics().lent <= self.pool.slots());
        drop(self.pool.reserve(0).unwrap());
    }
}

type Request = Pin<Box<dyn Future<Output = Result<Reservation, LendError>> + Send>>;

fn poll(request: &mut Request, waker: &Waker) -> Poll<Result<Reservation, LendError>> {
    request.as_mut().poll(&mut Context::from_waker(waker))
}

/// A request that waits, and the number of slots that it waits for.
struct Waiting {
    request: Request,
    task: Arc<Task>,
    count: usize,
    served: bool,
}

/// The state that a pool must have.
struct Model {
    pool: MemoryPool,
    free: usize,
    /// The requests that wait or were served and not polled, in the order in which they came.
    waiting: VecDeque<Waiting>,
    held: Vec<Reservation>,
}

impl Model {
    fn is_blocked(&self) -> bool {
        self.waiting.iter().any(|waiting| !waiting.served)
    }

    /// Serves the first requests for as long as their slots are free.
    fn serve(&mut self) {
        for waiting in self.waiting.iter_mut().filter(|waiting| !waiting.served) {
            if waiting.count > self.free {
                return;
            }
            self.free -= waiting.count;
            waiting.served = true;
        }
    }

    fn request(&mut self, count: usize) {
        let task = Arc::new(Task {
            pool: self.pool.clone(),
            woken: AtomicUsize::new(0),
        });
        let mut request: Request = Box::pin(self.pool.reserve_async(count));
        let at_once = count == 0 || !self.is_blocked() && count <= self.free;
        match poll(&mut request, &task.clone().into()) {
            Poll::Ready(reservation) if count <= self.pool.slots() => {
                assert!(at_once, "{count} of {}", self.free);
                self.free -= count;
                self.held.push(reservation.unwrap());
            }
            Poll::Ready(refused) => {
                let refused = refused.unwrap_err();
                assert!(matches!(refused, LendError::TooManyMemories { .. }));
            }
            Poll::Pending => {
                assert!(!at_once);
                let served = false;
                self.waiting.push_back(Waiting {
                    request,
                    task,
                    count,
                    served,
                });
            }
        }
    }

    /// Polls a request, with its task's waker or with another one.
    fn poll(&mut self, index: usize, random: &mut Rng) {
        let waiting = &mut self.waiting[index];
        if random.bool() {
            waiting.task = Arc::new(Task {
                pool: self.pool.clone(),
                woken: AtomicUsize::new(usize::from(waiting.served)),
            });
        }
        let polled = poll(&mut waiting.request, &waiting.task.clone().into());
        assert_eq!(polled.is_ready(), waiting.served);
        if let Poll::Ready(reservation) = polled {
            self.held.push(reservation.unwrap());
            self.waiting.remove(index);
        }
    }

    fn cancel(&mut self, index: usize) {
        let cancelled = self.waiting.remove(index).unwrap();
        if cancelled.served {
            self.free += cancelled.count;
        }
        drop(cancelled);
        self.serve();
    }

    /// Requests slots as a thread that does not wait.
    fn try_reserve(&mut self, count: usize) {
        let at_once = !self.is_blocked() && count <= self.free;
        match self.pool.reserve(count) {
            Ok(reservation) => {
                assert!(at_once);
                self.free -= count;
                self.held.push(reservation);
            }
            Err(error) => assert!(
                !at_once && matches!(error, LendError::NoSlot { .. }),
                "{error}"
            ),
        }
    }

    fn check(&self) {
        let now = self.pool.statistics();
        let waiting = self.waiting.iter().filter(|waiting| !waiting.served);
        assert_eq!(now.lent, self.pool.slots() - self.free, "{now:?}");
        assert_eq!(now.waiting, waiting.count(), "{now:?}");
        for waiting in &self.waiting {
            // A task is woken once, when it is served.
            let woken = waiting.task.woken.load(Ordering::SeqCst);
            assert_eq!(woken, usize::from(waiting.served));
        }
    }
}

#[test]
fn tasks_are_served_in_order_and_cancelled_at_any_time() {
    for seed in first_seed()..first_seed() + 300 {
        let mut random = Rng::with_seed(seed);
        let slots = random.usize(1..5);
        let mut model = Model {
            pool: builder(slots).secure().unwrap(),
            free: slots,
            waiting: VecDeque::new(),
            held: Vec::new(),
        };
        for _ in 0..100 {
            let index = |random: &mut Rng, len: usize| (len > 0).then(|| random.usize(0..len));
            match random.u8(0..8) {
                0..3 => model.request(random.usize(0..=slots + 1)),
                3..5 => {
                    if let Some(index) = index(&mut random, model.waiting.len()) {
                        model.poll(index, &mut random);
                    }
                }
                5 => {
                    if let Some(index) = index(&mut random, model.waiting.len()) {
                        model.cancel(index);
                    }
                }
                6 => model.try_reserve(random.usize(1..=slots)),
                _ => {
                    if let Some(index) = index(&mut random, model.held.len()) {
                        let mut reservation = model.held.swap_remove(index);
                        model.free += reservation.len();
                        if !reservation.is_empty() {
                            drop(reservation.lend(1, Some(1)).unwrap());
                        }
                        drop(reservation);
                        model.serve();
                    }
                }
            }
            model.check();
        }
        let pool = model.pool.clone();
        drop((model.waiting, model.held));
        assert_eq!(pool.reserve(slots).unwrap().len(), slots, "seed {seed}");
    }
}

/// Finishes a future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Thread(thread::Thread);
    impl Wake for Thread {
        fn wake(self: Arc<Thread>) {
            self.0.unpark();
        }
    }
    let mut future = std::pin::pin!(future);
    let waker = Waker::from(Arc::new(Thread(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Requests slots in each way at random. Returns the number of requests that were served.
fn request(pool: &MemoryPool, random: &mut Rng) -> u64 {
    let count = random.usize(1..=pool.slots());
    let mut reservation = match random.u8(0..4) {
        // Threads wait for a millisecond.
        0 | 1 => match pool.reserve(count) {
            Ok(reservation) => reservation,
            Err(error) => {
                assert!(matches!(error, LendError::NoSlot { .. }), "{error}");
                return 0;
            }
        },
        2 => block_on(pool.reserve_async(count)).unwrap(),
        _ => {
            let mut request: Request = Box::pin(pool.reserve_async(count));
            let polled = poll(&mut request, Waker::noop());
            for _ in 0..random.usize(0..20) {
                thread::yield_now();
            }
            drop(request);
            match polled {
                Poll::Ready(reservation) => reservation.unwrap(),
                Poll::Pending => return 0,
            }
        }
    };
    while !reservation.is_empty() && random.bool() {
        let mut memory = reservation.lend(1, Some(1)).unwrap();
        assert_eq!(memory.bytes()[0], 0);
        memory.bytes_mut()[0] = 1;
    }
    let now = pool.statistics();
    assert!(now.lent + now.resetting <= pool.slots(), "{now:?}");
    1
}

#[test]
fn threads_and_tasks_that_time_out_or_are_cancelled_leave_no_request_behind() {
    for (slots, reset) in [
        (1, Reset::Inline),
        (3, Reset::Background),
        (4, Reset::Inline),
    ] {
        let wait = WhenExhausted::Wait(Duration::from_millis(1));
        let builder = builder(slots).reset(reset).when_exhausted(wait);
        let pool = builder.secure().unwrap();
        let (ended, outcomes) = mpsc::channel();
        for seed in first_seed()..first_seed() + 6 {
            let (pool, ended) = (pool.clone(), ended.clone());
            thread::spawn(move || {
                let mut random = Rng::with_seed(seed);
                let served: u64 = (0..1500).map(|_| request(&pool, &mut random)).sum();
                ended.send(served).unwrap();
            });
        }
        for _ in 0..6 {
            // A request that is never woken hangs, and so does a thread that panicked with slots.
            let served = outcomes.recv_timeout(Duration::from_secs(120)).unwrap();
            assert!(served > 0);
        }
        let all = block_on(pool.reserve_async(slots)).unwrap();
        let now = pool.statistics();
        assert_eq!((all.len(), now.lent, now.waiting), (slots, slots, 0));
    }
}

#[test]
fn a_thread_does_not_wait_for_a_task_of_its_own_executor() {
    let pool = builder(2).secure().unwrap();
    let (first, second) = (pool.reserve(1).unwrap(), pool.reserve(1).unwrap());
    let mut task: Request = Box::pin(pool.reserve_async(1));
    assert!(poll(&mut task, Waker::noop()).is_pending());
    // The task has a slot, and is polled only after this thread has the other.
    drop((first, second));
    let blocking = pool.reserve(1).unwrap();
    assert!(matches!(
        pool.reserve(1),
        Err(LendError::NoSlot { lent: 2, .. })
    ));
    assert!(poll(&mut task, Waker::noop()).is_ready());
    drop(blocking);
}

#[test]
fn limits_and_states_that_cannot_be_served_are_refused_without_waiting() {
    let prepared = builder(1).prepare();
    #[cfg(feature = "wasmtime-runtime")]
    {
        let pool = wasm_prealloc_host::WasmtimePool::memory_pool(&prepared);
        let refused = block_on(pool.reserve_async(1)).unwrap_err();
        assert!(matches!(refused, LendError::NotSecuredYet), "{refused}");
    }
    let pool = prepared.secure().unwrap();
    let refused = block_on(pool.lend_async(0, Some(2))).unwrap_err();
    assert!(
        matches!(refused, LendError::Policy(PolicyError::SlotTooSmall { .. })),
        "{refused}"
    );
    let none = builder(0).secure().unwrap();
    let refused = block_on(none.lend_async(0, Some(1))).unwrap_err();
    assert!(
        matches!(refused, LendError::NoSlot { slots: 0, .. }),
        "{refused}"
    );
    let mut memory = block_on(pool.lend_async(1, Some(1))).unwrap();
    memory.bytes_mut()[0] = 1;
}

#[test]
fn a_task_that_waits_keeps_the_pool() {
    let pool = builder(1).secure().unwrap();
    let weak = pool.downgrade();
    let memory = pool.lend(1, Some(1)).unwrap();
    let waits = pool.lend_async(1, Some(1));
    drop(pool);
    let waiting = thread::spawn(|| block_on(waits).unwrap());
    while weak.upgrade().unwrap().statistics().waiting == 0 {
        thread::yield_now();
    }
    drop(memory);
    drop(waiting.join().unwrap());
    assert!(weak.upgrade().is_none());
}

#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_leaves_the_queue_alone() {
    let pool = builder(1).secure().unwrap();
    let held = pool.reserve(1).unwrap();
    let mut waits: Request = Box::pin(pool.reserve_async(1));
    let mut served: Request = Box::pin(pool.reserve_async(1));
    assert!(poll(&mut served, Waker::noop()).is_pending());
    assert!(poll(&mut waits, Waker::noop()).is_pending());
    drop(held);
    // SAFETY: the child only uses the pool, and ends without unwinding.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let forked = |request: &mut Request| {
            matches!(
                poll(request, Waker::noop()),
                Poll::Ready(Err(LendError::Forked))
            )
        };
        let refused = forked(&mut waits) && forked(&mut served);
        drop((waits, served, pool));
        // SAFETY: the child ends here.
        unsafe { libc::_exit(if refused { 0 } else { 1 }) }
    }
    let mut status = 0;
    // SAFETY: the status outlives the call.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    assert_eq!(pool.statistics().waiting, 1);
    drop(served);
    assert!(poll(&mut waits, Waker::noop()).is_ready());
}
