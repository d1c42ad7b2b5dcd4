//! All memories of a module are taken at once, and errors are distinguished on every thread.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use wasm_prealloc_host::{
    Error, InstantiateError, LendError, MemoryPool, MemoryPoolBuilder, PolicyError, VerifyError,
    WasmtimePool, WhenExhausted,
};
use wasmtime::{Caller, Config, Engine, Instance, Linker, Module, Store};

use crate::module;

const TWO: &str = "(module (memory 16 16) (memory 16 16))";
const THREE: &str = "(module (memory 16 16) (memory 16 16) (memory 16 16))";

/// Longer than any test takes.
const LONG: WhenExhausted = WhenExhausted::Wait(Duration::from_secs(60));

fn slots(slots: usize) -> MemoryPoolBuilder {
    MemoryPool::builder().pages(16).slots(slots)
}

fn instantiate(
    pool: &MemoryPool,
    store: &mut Store<()>,
    module: &Module,
) -> Result<Instance, Error> {
    let linker = Linker::new(module.engine());
    match pool.instantiate(&linker, store, module) {
        Ok(instance) => Ok(instance),
        Err(InstantiateError::Memory(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_module_that_can_never_fit_is_refused_at_once() {
    let pool = slots(2).when_exhausted(LONG).secure().unwrap();
    let engine = pool.engine(&mut Config::new()).unwrap();
    let module = module(&engine, THREE);
    let start = Instant::now();
    for _ in 0..2 {
        match pool.verify(&module) {
            Err(VerifyError::TooManyMemories {
                memories: 3,
                slots: 2,
            }) => {}
            other => panic!("{other:?}"),
        }
        match instantiate(&pool, &mut Store::new(&engine, ()), &module) {
            Err(Error::Verify(VerifyError::TooManyMemories {
                memories: 3,
                slots: 2,
            })) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(pool.statistics().lent, 0);
}

#[test]
fn modules_of_two_memories_never_wait_for_each_other() {
    let pool = slots(3).when_exhausted(LONG).secure().unwrap();
    let engine = pool.engine(&mut Config::new()).unwrap();
    let module = module(&engine, TWO);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let mut store = Store::new(&engine, ());
                    instantiate(&pool, &mut store, &module).unwrap();
                }
            });
        }
    });
    assert!(start.elapsed() < Duration::from_secs(60));
    let statistics = pool.statistics();
    assert_eq!((statistics.loans, statistics.lent), (800, 0));
}

#[test]
fn an_embedder_with_an_instance_pre_reserves_the_memories() {
    let pool = slots(2).secure().unwrap();
    let engine = pool.engine(&mut Config::new()).unwrap();
    let pre = Linker::new(&engine)
        .instantiate_pre(&module(&engine, TWO))
        .unwrap();
    let memories = pool.reserve_for(pre.module()).unwrap();
    assert_eq!(pool.statistics().lent, 2);
    let mut store = Store::new(&engine, ());
    memories.with(|| pre.instantiate(&mut store)).unwrap();
    assert_eq!(pool.statistics().lent, 2);
    match pool.reserve_for(pre.module()).map(|_| ()) {
        Err(Error::Lend(LendError::NoSlot { slots: 2, .. })) => {}
        other => panic!("{other:?}"),
    }
    drop(store);
    // What is not used goes back.
    drop(pool.reserve_for(pre.module()).unwrap());
    pool.reserve_for(pre.module()).unwrap().with(|| ());
    assert_eq!(pool.statistics().lent, 0);
}

#[test]
fn a_module_that_a_start_function_instantiates_takes_memories_of_its_own() {
    let pool = slots(4).secure().unwrap();
    let engine = pool.engine(&mut Config::new()).unwrap();
    let inner = module(&engine, TWO);
    let mut linker = Linker::new(&engine);
    let nested = pool.clone();
    let again = move |mut caller: Caller<'_, ()>| {
        let linker = Linker::new(caller.engine());
        nested.instantiate(&linker, &mut caller, &inner).unwrap();
        // wasmtime's own function takes from the pool, not from a reservation of the outer module.
        let refused = Instance::new(&mut caller, &inner, &[]).map_err(InstantiateError::from);
        assert!(matches!(
            refused,
            Err(InstantiateError::Memory(Error::Lend(
                LendError::NoSlot { .. }
            )))
        ));
    };
    linker.func_wrap("env", "again", again).unwrap();
    let text = r#"(module
        (import "env" "again" (func $again))
        (memory 16 16)
        (memory 16 16)
        (start $again))"#;
    let outer = module(&engine, text);
    for _ in 0..3 {
        let mut store = Store::new(&engine, ());
        pool.instantiate(&linker, &mut store, &outer).unwrap();
        assert_eq!(pool.statistics().lent, 4);
    }
    assert_eq!(pool.statistics().lent, 0);
}

#[test]
fn errors_and_panics_in_the_middle_give_everything_back() {
    let pool = slots(3).secure().unwrap();
    let engine = pool.engine(&mut Config::new()).unwrap();
    let three = module(&engine, THREE);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let memories = pool.reserve_for(&three).unwrap();
        memories.with(|| panic!("in the middle"));
    }));
    assert!(panicked.is_err());
    assert_eq!(pool.statistics().lent, 0);

    let mut linker = Linker::new(&engine);
    linker
        .func_wrap("env", "panics", || -> () { panic!("in a start function") })
        .unwrap();
    let text = r#"(module
        (import "env" "panics" (func $panics))
        (memory 16 16)
        (memory 16 16)
        (start $panics))"#;
    let starts = module(&engine, text);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut store = Store::new(&engine, ());
        pool.instantiate(&linker, &mut store, &starts).map(|_| ())
    }));
    assert!(panicked.is_err());
    assert_eq!(pool.statistics().lent, 0);

    let trap = module(
        &engine,
        "(module (memory 16 16) (func $f unreachable) (start $f))",
    );
    let mut store = Store::new(&engine, ());
    let refused = pool.instantiate(&Linker::new(&engine), &mut store, &trap);
    assert!(matches!(refused, Err(InstantiateError::Engine(_))));
    drop(store);
    assert_eq!(pool.statistics().lent, 0);

    // Nothing of a reservation is left on this thread.
    instantiate(&pool, &mut Store::new(&engine, ()), &three).unwrap();
}

/// Finishes a future, with each poll on another thread.
fn finish_on_many_threads<F: Future + Send>(future: F) -> (F::Output, usize)
where
    F::Output: Send,
{
    let mut future: Pin<Box<dyn Future<Output = F::Output> + Send + '_>> = Box::pin(future);
    for polls in 1.. {
        let polled = std::thread::scope(|scope| {
            let poll = || {
                future
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()))
            };
            scope.spawn(poll).join().unwrap()
        });
        if let Poll::Ready(output) = polled {
            return (output, polls);
        }
    }
    unreachable!("the future ends")
}

/// A limiter that suspends each request once.
struct Suspends;

impl Suspends {
    async fn once() {
        let mut suspended = false;
        std::future::poll_fn(|_| match std::mem::replace(&mut suspended, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
}

impl wasmtime::ResourceLimiterAsync for Suspends {
    fn memory_growing<'a, 'async_trait>(
        &'a mut self,
        _: usize,
        _: usize,
        _: Option<usize>,
    ) -> Pin<Box<dyn Future<Output = wasmtime::Result<bool>> + Send + 'async_trait>>
    where
        'a: 'async_trait,
    {
        Box::pin(async {
            Suspends::once().await;
            Ok(true)
        })
    }

    fn table_growing<'a, 'async_trait>(
        &'a mut self,
        _: usize,
        _: usize,
        _: Option<usize>,
    ) -> Pin<Box<dyn Future<Output = wasmtime::Result<bool>> + Send + 'async_trait>>
    where
        'a: 'async_trait,
    {
        Box::pin(async { Ok(true) })
    }
}

#[test]
fn an_asynchronous_instantiation_takes_reserved_memories_on_every_thread() {
    let pool = slots(2).secure().unwrap();
    let engine = pool.engine(&mut Config::new()).unwrap();
    let two = module(&engine, TWO);
    let linker = Linker::new(&engine);
    // With the reservation no slot is free for anything else.
    let memories = pool.reserve_for(&two).unwrap();
    assert!(pool.lend(16, Some(16)).is_err());
    let mut store = Store::new(&engine, Suspends);
    store.limiter_async(|limiter| limiter);
    let instantiated = memories.during(linker.instantiate_async(&mut store, &two));
    let (instance, polls) = finish_on_many_threads(instantiated);
    instance.unwrap();
    assert_eq!(polls, 3);
    assert_eq!(pool.statistics().lent, 2);
    drop(store);

    // A future that is dropped in the middle gives everything back.
    let mut store = Store::new(&engine, Suspends);
    store.limiter_async(|limiter| limiter);
    let memories = pool.reserve_for(&two).unwrap();
    let mut instantiated = pin!(memories.during(linker.instantiate_async(&mut store, &two)));
    for _ in 0..2 {
        let polled = instantiated
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    }
    assert_eq!(pool.statistics().lent, 2);
    let dropped = || {
        let mut store = Store::new(&engine, Suspends);
        store.limiter_async(|limiter| limiter);
        let mut all = pin!(linker.instantiate_async(&mut store, &two));
        all.as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    };
    assert!(dropped());
}

#[test]
fn nothing_is_lent_when_a_future_was_dropped() {
    let pool = slots(2).secure().unwrap();
    let engine = pool.engine(&mut Config::new()).unwrap();
    let two = module(&engine, TWO);
    let linker = Linker::new(&engine);
    {
        let mut store = Store::new(&engine, Suspends);
        store.limiter_async(|limiter| limiter);
        let memories = pool.reserve_for(&two).unwrap();
        let mut future = pin!(memories.during(linker.instantiate_async(&mut store, &two)));
        for _ in 0..2 {
            let polled = future
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
        }
        assert_eq!(pool.statistics().lent, 2);
    }
    assert_eq!(pool.statistics().lent, 0);
}

#[test]
fn a_refusal_is_told_apart_on_another_thread() {
    let pool = slots(1).secure().unwrap();
    let engine: Engine = pool.engine(&mut Config::new()).unwrap();
    let growing = Linker::<()>::new(&engine)
        .instantiate_pre(&module(&engine, "(module (memory 1))"))
        .unwrap();
    let pinned = Linker::<()>::new(&engine)
        .instantiate_pre(&module(&engine, "(module (memory 16 16))"))
        .unwrap();
    let on_another_thread = |pre: &wasmtime::InstancePre<()>| {
        std::thread::scope(|scope| {
            let instantiate = || pre.instantiate(&mut Store::new(&engine, ())).unwrap_err();
            scope.spawn(instantiate).join().unwrap()
        })
    };
    let _lent = pool.lend(16, Some(16)).unwrap();
    // Both are converted here, in another order than they were refused.
    let errors = [on_another_thread(&growing), on_another_thread(&pinned)];
    let [first, second] = errors.map(InstantiateError::from);
    assert!(matches!(
        first,
        InstantiateError::Memory(Error::Verify(VerifyError::Policy(PolicyError::NotPinned {
            minimum: 1,
            ..
        })))
    ));
    assert!(matches!(
        second,
        InstantiateError::Memory(Error::Lend(LendError::NoSlot { .. }))
    ));
    // An error of the engine with another text stays one.
    let other = wasmtime::Error::msg("something else");
    assert!(matches!(
        InstantiateError::from(other),
        InstantiateError::Engine(_)
    ));
}
