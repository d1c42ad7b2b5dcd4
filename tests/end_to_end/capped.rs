//! Random modules, unchanged, under a cap in secured memory and in plain wasmtime with a limit of
//! the same size: the same results, traps, growth and memory. `SEED=17` repeats one case.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;
use wasm_prealloc_fuzzing::generate;
use wasm_prealloc_host::{
    InstantiateError, MemoryPool, StoreLimiter, VerifyError, WasmtimePool, deterministic,
};
use wasmtime::{
    Config, Engine, Extern, Instance, Linker, Module, ResourceLimiter, Store, Trap, Val, ValType,
};

use crate::differential::run_seeds;

/// The seeds of modules. A fifth of the modules import a memory, or have one that no pool serves.
const SEEDS: u64 = 250;
/// The caps, in wasm pages: most modules grow beyond them.
const CAPS: [u64; 2] = [24, 130];

fn config() -> Config {
    let mut config = Config::new();
    config.wasm_multi_memory(true).wasm_memory64(true);
    config.wasm_custom_page_sizes(true).wasm_threads(true);
    config.wasm_function_references(true).wasm_gc(true);
    config.wasm_exceptions(true);
    deterministic(&mut config);
    config
}

/// Returns values that can be compared. References can only be null or not.
fn observed(values: &[Val]) -> Vec<String> {
    let text = values.iter().map(|value| match value.ref_() {
        Some(reference) => format!("null: {}", reference.is_null()),
        None => format!("{value:?}"),
    });
    text.collect()
}

fn outcome(result: wasmtime::Result<()>, values: &[Val]) -> Vec<String> {
    match result {
        Ok(()) => observed(values),
        Err(error) => match error.downcast_ref::<Trap>() {
            Some(trap) => vec![format!("{trap:?}")],
            None => vec!["threw".to_owned()],
        },
    }
}

/// Calls the exported functions with random numbers, grows the memories from the host, and returns
/// all that can be observed.
fn observe(store: &mut Store<Limits>, instance: Instance, seed: u64) -> Vec<Vec<String>> {
    let mut random = Rng::with_seed(seed);
    let exports = instance.exports(&mut *store);
    let exports: Vec<(String, Extern)> = exports
        .map(|export| (export.name().to_owned(), export.into_extern()))
        .collect();
    let mut all = Vec::new();
    for _ in 0..2 {
        for (name, item) in &exports {
            let seen = match item {
                Extern::Func(function) => {
                    let ty = function.ty(&*store);
                    let arguments = ty.params().map(|ty| match ty {
                        ValType::I32 => Some(Val::I32(random.i32(-2..200))),
                        ValType::I64 => Some(Val::I64(random.i64(-2..200))),
                        other => other.default_value(),
                    });
                    let Some(arguments) = arguments.collect::<Option<Vec<Val>>>() else {
                        continue;
                    };
                    let mut results = vec![Val::I32(0); ty.results().len()];
                    let result = function.call(&mut *store, &arguments, &mut results);
                    outcome(result, &results)
                }
                Extern::Memory(memory) => {
                    let grown = memory.grow(&mut *store, random.u64(0..20));
                    let bytes = memory.data(&*store);
                    let sum = bytes.iter().zip(1_u64..).fold(0_u64, |sum, (byte, place)| {
                        sum.wrapping_add(u64::from(*byte).wrapping_mul(place))
                    });
                    vec![format!("{:?} {} {sum}", grown.ok(), bytes.len())]
                }
                Extern::Global(global) => observed(&[global.get(&mut *store)]),
                Extern::Table(table) => vec![table.size(&*store).to_string()],
                _ => continue,
            };
            all.push([vec![name.clone()], seen].concat());
        }
    }
    all
}

/// The limits of a store. Tables have the same in both.
struct Limits {
    /// The limit of memories, where no pool caps them.
    memory_bytes: Option<usize>,
    /// The pool's limiter, where there is a pool.
    pool: Option<StoreLimiter>,
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.memory_bytes.is_none_or(|bytes| desired <= bytes))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if let Some(limiter) = &mut self.pool {
            limiter.table_growing(current, desired, maximum)?;
        }
        Ok(desired <= 1000)
    }
}

/// One cap: a pool with its engine, and an engine without a pool.
struct Case {
    pages: u64,
    pool: MemoryPool,
    secured: Engine,
    plain: Engine,
}

impl Case {
    fn new(pages: u64) -> Case {
        let pool = MemoryPool::builder().slots(8).cap(pages).secure().unwrap();
        Case {
            pages,
            secured: pool.engine(&mut config()).unwrap(),
            plain: Engine::new(&config()).unwrap(),
            pool,
        }
    }

    /// Returns what a module does in secured memory, the refusal of an instantiation that trapped
    /// or whose minimum is above the cap, or `None` if no pool serves it.
    fn secured(&self, wasm: &[u8], seed: u64) -> Option<Result<Vec<Vec<String>>, String>> {
        let module = Module::new(&self.secured, wasm).unwrap();
        match self.pool.needs_engine_heap(&module) {
            Ok(false) | Err(VerifyError::Policy(_)) => {}
            _ => return None,
        }
        let limits = Limits {
            memory_bytes: None,
            pool: Some(self.pool.limiter()),
        };
        let mut store = Store::new(&self.secured, limits);
        store.limiter(|limits| limits);
        let linker = Linker::new(&self.secured);
        Some(match self.pool.instantiate(&linker, &mut store, &module) {
            Ok(instance) => Ok(observe(&mut store, instance, seed)),
            Err(InstantiateError::Engine(error)) => Err(cause(&error)),
            Err(InstantiateError::Memory(_)) => Err("refused".to_owned()),
        })
    }

    fn plain(&self, wasm: &[u8], seed: u64) -> Result<Vec<Vec<String>>, String> {
        let module = Module::new(&self.plain, wasm).unwrap();
        let limits = Limits {
            memory_bytes: Some(usize::try_from(self.pages << 16).unwrap()),
            pool: None,
        };
        let mut store = Store::new(&self.plain, limits);
        store.limiter(|limits| limits);
        match Instance::new(&mut store, &module, &[]) {
            Ok(instance) => Ok(observe(&mut store, instance, seed)),
            Err(error) => Err(cause(&error)),
        }
    }
}

fn cause(error: &wasmtime::Error) -> String {
    match error.downcast_ref::<Trap>() {
        Some(trap) => format!("{trap:?}"),
        None => "refused".to_owned(),
    }
}

#[test]
fn a_capped_module_behaves_as_under_a_limit_of_wasmtime() {
    let cases = CAPS.map(|pages| Mutex::new(Case::new(pages)));
    let [ran, refused] = [const { AtomicU64::new(0) }; 2];
    let all = run_seeds(SEEDS, |seed| {
        let Some(generated) = generate(seed) else {
            return;
        };
        let case = cases[usize::from(seed % 2 == 1)].lock().unwrap();
        let Some(secured) = case.secured(&generated.wasm, seed) else {
            return;
        };
        let plain = case.plain(&generated.wasm, seed);
        assert_eq!(secured, plain, "`SEED={seed}`");
        let count = if secured.is_ok() { &ran } else { &refused };
        count.fetch_add(1, Ordering::Relaxed);
    });
    let (ran, refused) = (ran.into_inner(), refused.into_inner());
    println!("{ran} modules ran, {refused} did not in either");
    assert!(!all || (ran > SEEDS / 4 && refused > 0));
}
