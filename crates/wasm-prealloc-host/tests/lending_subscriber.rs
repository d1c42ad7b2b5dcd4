//! A subscriber that borrows from the pool whose event it receives, also on the pool's own thread.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(target_os = "linux")]

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use tracing::span;
use wasm_prealloc_host::{LendError, LockOptions, MemoryPool, Policy, Reset, WhenExhausted};

static POOL: Mutex<Option<MemoryPool>> = Mutex::new(None);
/// The loans in events, by outcome: served, or refused.
static OUTCOMES: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

struct Borrower;

impl tracing::Subscriber for Borrower {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("wasm_prealloc_host::pool")
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        let pool = POOL.lock().unwrap().clone();
        let Some(pool) = pool.filter(|_| !INSIDE.replace(true)) else {
            return;
        };
        let index = match pool.lend(16, Some(16)) {
            Ok(mut memory) => {
                assert!(memory.bytes().iter().all(|&byte| byte == 0));
                memory.bytes_mut().fill(2);
                0
            }
            Err(error) => {
                assert!(matches!(error, LendError::NoSlot { .. }), "{error}");
                1
            }
        };
        OUTCOMES[index].fetch_add(1, Ordering::Relaxed);
        INSIDE.set(false);
    }
}

#[test]
fn a_subscriber_can_borrow_in_an_event_of_the_same_pool() {
    tracing::subscriber::set_global_default(Borrower).unwrap();
    let (done, ended) = mpsc::channel();
    let mut lock = LockOptions::default();
    lock.path = std::env::temp_dir();
    let blocks = std::thread::spawn(move || {
        for reset in [Reset::Inline, Reset::Background] {
            for (slots, when_exhausted) in [
                (1, WhenExhausted::Wait(Duration::from_millis(50))),
                (2, WhenExhausted::Fail),
                (3, WhenExhausted::Wait(Duration::from_secs(60))),
            ] {
                let builder = MemoryPool::builder().slots(slots).pages(16).reset(reset);
                let builder = builder.policy(Policy::CommitMaximum).lock(lock.clone());
                let pool = builder.when_exhausted(when_exhausted).secure().unwrap();
                *POOL.lock().unwrap() = Some(pool.clone());
                for _ in 0..200 {
                    let Ok(mut memory) = pool.lend(16, Some(16)) else {
                        continue;
                    };
                    assert!(memory.bytes().iter().all(|&byte| byte == 0));
                    memory.bytes_mut().fill(1);
                }
                // In the background the last handle can be dropped by the event's thread.
                *POOL.lock().unwrap() = None;
            }
        }
        done.send(()).unwrap();
    });
    let outcome = ended.recv_timeout(Duration::from_secs(120));
    assert_ne!(outcome, Err(mpsc::RecvTimeoutError::Timeout), "it hangs");
    blocks.join().unwrap();
    assert!(OUTCOMES[0].load(Ordering::Relaxed) > 100, "{OUTCOMES:?}");
}
