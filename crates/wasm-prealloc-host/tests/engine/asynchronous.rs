//! Asynchronous stores: tasks share the slots, on executors and on threads that change at each poll.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinSet, yield_now};
use wasm_prealloc_host::{
    Error, InstantiateError, MemoryPool, MemoryPoolBuilder, Reset, StoreLimiter, VerifyError,
    WasmtimePool,
};
use wasmtime::{
    AsContextMut, Caller, Config, Engine, InstancePre, Linker, Module, ResourceLimiterAsync, Store,
    StoreContextMut,
};

use crate::module;

const TASKS: u32 = 64;
const SLOTS: usize = 4;

fn slots(slots: usize) -> MemoryPoolBuilder {
    let builder = MemoryPool::builder().pages(16).slots(slots);
    builder.reset(Reset::Background)
}

fn runtimes() -> [Runtime; 2] {
    let mut many = Builder::new_multi_thread();
    let mut one = Builder::new_current_thread();
    [
        many.worker_threads(4).enable_time().build().unwrap(),
        one.enable_time().build().unwrap(),
    ]
}

/// Adds the argument in each memory at each of 100 places, pauses in between, and returns the sum.
fn adder(memories: usize) -> String {
    let define: String = (0..memories)
        .map(|index| format!("(memory $m{index} 16 16)"))
        .collect();
    let add: String = (0..memories)
        .map(|index| {
            format!(
                "(i32.store $m{index} (local.get $at) (i32.add (local.get $x)
                    (i32.load $m{index} (local.get $at))))
                (local.set $sum (i32.add (local.get $sum)
                    (i32.load $m{index} (local.get $at))))"
            )
        })
        .collect();
    format!(
        r#"(module
            (import "env" "pause" (func $pause))
            {define}
            (func (export "run") (param $x i32) (result i32)
                (local $at i32) (local $sum i32)
                (loop $next
                    {add}
                    (if (i32.eqz (i32.and (local.get $at) (i32.const 65535))) (then (call $pause)))
                    (local.set $at (i32.add (local.get $at) (i32.const 8192)))
                    (br_if $next (i32.lt_u (local.get $at) (i32.const 819200))))
                (local.get $sum)))"#
    )
}

/// A host whose import suspends the task, and which records the most slots that were lent.
#[derive(Clone)]
struct Host {
    pool: MemoryPool,
    engine: Engine,
    /// Modules with one memory and with two, with their imports.
    adders: [InstancePre<()>; 2],
    most_lent: Arc<AtomicUsize>,
}

impl Host {
    fn new() -> Host {
        let pool = slots(SLOTS).secure().unwrap();
        let engine = pool.engine(Config::new().wasm_multi_memory(true)).unwrap();
        let most_lent = Arc::new(AtomicUsize::new(0));
        let (seen, seen_by) = (pool.clone(), most_lent.clone());
        let mut linker = Linker::new(&engine);
        let pause = linker.func_wrap_async("env", "pause", move |_: Caller<'_, ()>, (): ()| {
            seen_by.fetch_max(seen.statistics().lent, Ordering::Relaxed);
            Box::new(yield_now())
        });
        pause.unwrap();
        let adders = [1, 2].map(|memories| {
            let module = module(&engine, &adder(memories));
            linker.instantiate_pre(&module).unwrap()
        });
        Host {
            pool,
            engine,
            adders,
            most_lent,
        }
    }

    /// Runs one task, and returns the sum for one memory.
    async fn run(self, task: u32) -> u32 {
        let memories = 1 + task % 2;
        let pre = &self.adders[task as usize % 2];
        let mut store = Store::new(&self.engine, ());
        let instance = self.pool.instantiate_pre_async(pre, &mut store);
        let instance = instance.await.unwrap();
        let run = instance.get_typed_func::<u32, u32>(&mut store, "run");
        let sum = run.unwrap().call_async(&mut store, task).await.unwrap();
        sum / memories
    }

    /// Checks that every slot is back, and that no more were lent than there are.
    async fn check(&self) {
        drop(self.pool.reserve_async(SLOTS).await.unwrap());
        let now = self.pool.statistics();
        assert_eq!((now.lent, now.waiting, now.resetting), (0, 0, 0));
        let most = self.most_lent.load(Ordering::Relaxed);
        assert!((1..=SLOTS).contains(&most), "{most}");
    }
}

#[test]
fn sixty_four_tasks_share_four_slots() {
    for runtime in runtimes() {
        let host = Host::new();
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for task in 0..TASKS {
                let host = host.clone();
                tasks.spawn(async move { (task, host.run(task).await) });
            }
            while let Some(ended) = tasks.join_next().await {
                let (task, sum) = ended.unwrap();
                assert_eq!(sum, 100 * task);
            }
            host.check().await;
        });
        // Half of the tasks had two memories.
        assert_eq!(host.pool.statistics().loans, 96);
    }
}

#[test]
fn tasks_that_are_cancelled_leave_their_slots_to_others() {
    for runtime in runtimes() {
        let host = Host::new();
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            let mut aborts = Vec::new();
            for task in 0..TASKS {
                let host = host.clone();
                aborts.push(tasks.spawn(async move {
                    // A third ends by itself, and a third is aborted.
                    let steps = async {
                        match task % 3 {
                            0 => (0..task).for_each(drop),
                            _ => std::future::pending::<()>().await,
                        }
                        for _ in 0..task {
                            yield_now().await;
                        }
                    };
                    tokio::select! {
                        () = steps => None,
                        sum = host.run(task) => Some((task, sum)),
                    }
                }));
            }
            for (task, abort) in aborts.into_iter().enumerate() {
                if task % 3 == 1 {
                    yield_now().await;
                    abort.abort();
                }
            }
            let mut finished = 0;
            while let Some(ended) = tasks.join_next().await {
                if let Ok(Some((task, sum))) = ended {
                    assert_eq!(sum, 100 * task);
                    finished += 1;
                }
            }
            // The last third was left alone.
            assert!(finished >= TASKS / 3, "{finished}");
            host.check().await;
        });
    }
}

/// Finishes a future, with each poll on another thread.
fn finish_on_many_threads<F: Future + Send>(future: F) -> (F::Output, usize)
where
    F::Output: Send,
{
    let mut future = Box::pin(future);
    for polls in 1.. {
        let polled = std::thread::scope(|scope| {
            let poll = || {
                let mut context = Context::from_waker(Waker::noop());
                future.as_mut().poll(&mut context)
            };
            scope.spawn(poll).join().unwrap()
        });
        if let Poll::Ready(output) = polled {
            return (output, polls);
        }
    }
    unreachable!("the future ends")
}

/// A limiter that suspends before each request, and then asks the pool's.
struct Suspends(StoreLimiter);

type Allowed<'a> = Pin<Box<dyn Future<Output = wasmtime::Result<bool>> + Send + 'a>>;

impl ResourceLimiterAsync for Suspends {
    fn memory_growing<'a, 'async_trait>(
        &'a mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Allowed<'async_trait>
    where
        'a: 'async_trait,
    {
        Box::pin(async move {
            yield_now().await;
            ResourceLimiterAsync::memory_growing(&mut self.0, current, desired, maximum).await
        })
    }

    fn table_growing<'a, 'async_trait>(
        &'a mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Allowed<'async_trait>
    where
        'a: 'async_trait,
    {
        Box::pin(async move {
            yield_now().await;
            ResourceLimiterAsync::table_growing(&mut self.0, current, desired, maximum).await
        })
    }
}

#[test]
fn an_asynchronous_limiter_of_a_host_bounds_tables_through_the_pools() {
    let pool = slots(2).table_elements(10).secure().unwrap();
    let engine = pool.engine(&mut Config::new()).unwrap();
    let text = "(module (memory 16 16) (memory 16 16) (table 0 funcref))";
    let (linker, module) = (Linker::new(&engine), module(&engine, text));
    let limiter = Suspends(pool.limiter());
    let mut store = Store::new(&engine, limiter);
    let outcome = pool.instantiate_async(&linker, &mut store, &module);
    let (refused, _) = finish_on_many_threads(outcome);
    assert!(matches!(
        refused,
        Err(InstantiateError::Memory(Error::Verify(
            VerifyError::UnboundedTables { .. }
        )))
    ));
    store.limiter_async(|limiter| limiter);
    let outcome = pool.instantiate_async(&linker, &mut store, &module);
    let (instance, polls) = finish_on_many_threads(outcome);
    instance.unwrap();
    // The check of the limiter, two memories and a table each suspend once.
    assert_eq!((polls, pool.statistics().lent), (5, 2));
}

/// Instantiates a module as a start function does, and suspends before and after it.
async fn nested(pool: &MemoryPool, inner: &Module, mut context: StoreContextMut<'_, Suspends>) {
    yield_now().await;
    let linker = Linker::new(inner.engine());
    let instance = pool.instantiate_async(&linker, &mut context, inner);
    instance.await.unwrap();
    yield_now().await;
}

#[test]
fn an_instantiation_within_another_takes_memories_of_its_own() {
    let pool = slots(4).secure().unwrap();
    let engine = pool.engine(&mut Config::new()).unwrap();
    let inner = module(&engine, "(module (memory 16 16) (memory 16 16))");
    let text = r#"(module
        (import "env" "nested" (func $nested))
        (memory 16 16)
        (memory 16 16)
        (start $nested))"#;
    let outer = module(&engine, text);
    let mut linker = Linker::new(&engine);
    let both = Arc::new((pool.clone(), inner));
    let host = linker.func_wrap_async("env", "nested", move |mut caller: Caller<'_, _>, (): ()| {
        let both = both.clone();
        Box::new(async move { nested(&both.0, &both.1, caller.as_context_mut()).await })
    });
    host.unwrap();
    for _ in 0..3 {
        let mut store = Store::new(&engine, Suspends(pool.limiter()));
        store.limiter_async(|limiter| limiter);
        let outcome = pool.instantiate_async(&linker, &mut store, &outer);
        let (instance, polls) = finish_on_many_threads(outcome);
        instance.unwrap();
        // Four memories and two pauses suspend, and later rounds wait for resets too.
        assert!(polls >= 7);
        assert_eq!(pool.statistics().lent, 4);
    }
}

#[cfg(feature = "component-model")]
#[test]
fn a_component_keeps_its_memories_while_a_start_function_instantiates_a_module() {
    use wasmtime::component;

    let pool = slots(3).secure().unwrap();
    let engine = pool.engine(&mut Config::new()).unwrap();
    let inner = module(&engine, "(module (memory 16 16))");
    let text = r#"(component
        (import "nested" (func $host))
        (core func $nested (canon lower (func $host)))
        (core module $m
            (import "env" "nested" (func $nested))
            (memory 16 16)
            (start $nested))
        (core module $n (memory 16 16))
        (core instance $i (instantiate $m (with "env" (instance (export "nested" (func $nested))))))
        (core instance $j (instantiate $n)))"#;
    let outer = component::Component::new(&engine, wat::parse_str(text).unwrap()).unwrap();
    let mut linker = component::Linker::new(&engine);
    let both = Arc::new((pool.clone(), inner));
    let mut root = linker.root();
    let host = root.func_wrap_async("nested", move |context: StoreContextMut<'_, _>, (): ()| {
        let both = both.clone();
        Box::new(async move {
            nested(&both.0, &both.1, context).await;
            Ok(())
        })
    });
    host.unwrap();
    let pre = linker.instantiate_pre(&outer).unwrap();
    for round in 0..3 {
        let mut store = Store::new(&engine, Suspends(pool.limiter()));
        store.limiter_async(|limiter| limiter);
        if round == 0 {
            let outcome = pool.instantiate_component_async(&linker, &mut store, &outer);
            finish_on_many_threads(outcome).0.unwrap();
        } else {
            let outcome = pool.instantiate_component_pre_async(&pre, &mut store);
            finish_on_many_threads(outcome).0.unwrap();
        }
        assert_eq!(pool.statistics().lent, 3);
    }
}
