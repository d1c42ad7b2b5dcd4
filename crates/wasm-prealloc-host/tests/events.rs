//! Events of this crate are emitted without the pool's lock: a subscriber may call the pool.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use tracing::span;
use wasm_prealloc_host::{LendError, LockOptions, MemoryPool, Policy, Reset, Tracking};

/// The pools that exist so far.
static POOLS: Mutex<Vec<MemoryPool>> = Mutex::new(Vec::new());
static CALLS: AtomicUsize = AtomicUsize::new(0);

/// A subscriber that asks every pool for its statistics at each event and span.
struct Metrics;

impl Metrics {
    fn call(&self) {
        let pools = POOLS.lock().unwrap().clone();
        for pool in pools {
            assert!(pool.statistics().slots > 0);
            let _ = (pool.secured(), pool.tracking(), pool.check());
            CALLS.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl tracing::Subscriber for Metrics {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("wasm_prealloc_host")
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        self.call();
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.call();
    }
    fn enter(&self, _: &span::Id) {
        self.call();
    }
    fn exit(&self, _: &span::Id) {
        self.call();
    }
}

#[test]
fn a_subscriber_can_call_the_pool_at_each_event() {
    tracing::subscriber::set_global_default(Metrics).unwrap();
    let (done, ended) = mpsc::channel();
    // Other hosts on this machine hold the default lock for seconds.
    let mut lock = LockOptions::default();
    lock.path = std::env::temp_dir();
    let blocks = std::thread::spawn(move || {
        for (policy, tracking, reset) in [
            (Policy::Declared, Tracking::Auto, Reset::Inline),
            (Policy::Declared, Tracking::Off, Reset::Background),
            (Policy::CommitMaximum, Tracking::Off, Reset::Background),
            (Policy::Declared, Tracking::Auto, Reset::Background),
        ] {
            let builder = MemoryPool::builder().slots(2).pages(256).policy(policy);
            let builder = builder.tracking(tracking).reset(reset).lock(lock.clone());
            let pool = builder.secure().unwrap();
            POOLS.lock().unwrap().push(pool.clone());
            for block in 0..40 {
                let mut both = pool.reserve(2).unwrap();
                let mut memory = both.lend(256, Some(256)).unwrap();
                // Sizes that move the watermark.
                let end = if block < 4 { 12 << 20 } else { 1 };
                memory.bytes_mut()[..end].fill(1);
                let refused = pool.lend(256, Some(256)).unwrap_err();
                assert!(matches!(refused, LendError::NoSlot { lent: 2, .. }));
            }
            // A refusal has events too.
            let builder = MemoryPool::builder().slots(20_000).lock(lock.clone());
            assert!(builder.secure().is_err());
        }
        done.send(()).unwrap();
    });
    let outcome = ended.recv_timeout(Duration::from_secs(120));
    assert_ne!(outcome, Err(mpsc::RecvTimeoutError::Timeout), "it hangs");
    blocks.join().unwrap();
    assert!(CALLS.load(Ordering::Relaxed) > 4 * 40);
    // The pools wait for their threads, which may be in an event.
    let pools = std::mem::take(&mut *POOLS.lock().unwrap());
    drop(pools);
}
