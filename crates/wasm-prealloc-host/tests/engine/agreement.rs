//! The answer of `verify` and that of `instantiate`, for random shapes of modules.

use fastrand::Rng;
use wasm_prealloc_host::{InstantiateError, MemoryPool, Policy, StoreLimiter, WasmtimePool};
use wasmtime::{Config, Engine, Extern, Func, Global, Linker, Module, Store, Val};

use crate::module;
use crate::support::one_at_a_time;

const PAGES: u64 = 16;
const SLOTS: usize = 2;
const TABLE_ELEMENTS: u64 = 64;
const MODULES: u64 = 200;

/// A module, and the parts of it that no pool can see before it is instantiated.
#[derive(Debug, Default)]
struct Shape {
    text: String,
    memories: usize,
    tables: usize,
    /// A memory is not exported.
    hidden: bool,
    /// Such a memory is of a kind that no pool serves.
    hidden_kind: bool,
    /// An import has no stand-in, so the module cannot be probed.
    unprobed: bool,
    /// The module needs the engine's own heap.
    heap: bool,
}

impl Shape {
    fn new(random: &mut Rng) -> Shape {
        let mut shape = Shape {
            memories: random.usize(0..=3),
            tables: random.usize(0..=2),
            unprobed: random.u8(0..4) == 0,
            heap: random.u8(0..6) == 0,
            ..Shape::default()
        };
        if shape.unprobed {
            shape.add(r#"(import "env" "f" (global (ref func)))"#);
        }
        if random.bool() {
            shape.add(r#"(import "env" "g" (func))"#);
        }
        for index in 0..shape.memories {
            let exported = random.u8(0..4) > 0;
            let declared = memory(random);
            shape.hidden |= !exported;
            let of_a_kind = declared.contains("shared") || declared.contains("pagesize");
            shape.hidden_kind |= !exported && of_a_kind;
            shape.item("memory", index, exported, &declared);
        }
        for index in 0..shape.tables {
            let minimum = [0, 1, TABLE_ELEMENTS / 2, TABLE_ELEMENTS + 1][random.usize(0..4)];
            let maximum = ["", "64", "65", "4294967295"][random.usize(0..4)];
            let maximum = match maximum.parse() {
                Ok(least @ 0..) if least < minimum => "4294967295",
                _ => maximum,
            };
            let declared = format!("{minimum} {maximum} funcref");
            shape.item("table", index, random.bool(), &declared);
        }
        if shape.heap {
            shape.add("(type $s (struct (field i32)))");
            shape.add("(global (ref null $s) (struct.new $s (i32.const 7)))");
        }
        shape
    }

    fn add(&mut self, item: &str) {
        self.text += item;
        self.text.push('\n');
    }

    fn item(&mut self, kind: &str, index: usize, exported: bool, declared: &str) {
        let export = match exported {
            true => format!(r#"(export "{kind}{index}")"#),
            false => String::new(),
        };
        self.add(&format!("({kind} {export} {declared})"));
    }
}

/// Returns the type of a memory. Most suit one of the policies.
fn memory(random: &mut Rng) -> String {
    const SIZES: [u64; 7] = [0, 1, PAGES - 1, PAGES, PAGES, PAGES + 1, 65_536];
    let index = ["", "", "", "i64"][random.usize(0..4)];
    let minimum = SIZES[random.usize(..SIZES.len())];
    let maximum = SIZES[random.usize(..SIZES.len())].max(minimum);
    match random.u8(0..16) {
        0..3 => format!("{index} {minimum}"),
        3 => format!("{index} {minimum} {maximum} shared"),
        4 => format!("{index} {minimum} {maximum} (pagesize 1)"),
        // 2^64 bytes.
        5 => "i64 281474976710656".to_owned(),
        6..11 => format!("{index} {PAGES} {PAGES}"),
        _ => format!("{index} {minimum} {maximum}"),
    }
}

/// A pool, and an engine that it made, or one that was made elsewhere with its configuration.
struct Host {
    pool: MemoryPool,
    engine: Engine,
}

impl Host {
    fn new(policy: Policy, known: bool) -> Host {
        let builder = MemoryPool::builder().slots(SLOTS).pages(PAGES);
        let builder = builder.policy(policy).table_elements(TABLE_ELEMENTS);
        let pool = builder.secure().unwrap();
        let mut config = Config::new();
        config.wasm_multi_memory(true).wasm_memory64(true);
        config.wasm_custom_page_sizes(true).wasm_gc(true);
        config.wasm_function_references(true).wasm_threads(true);
        config.shared_memory(true);
        let engine = match known {
            true => pool.engine(&mut config),
            false => {
                pool.configure(&mut config);
                Engine::new(&config)
            }
        };
        let engine = engine.unwrap();
        Host { pool, engine }
    }

    /// Instantiates a module in a new store, with or without the pool's limiter.
    fn instantiate(&self, module: &Module, limited: bool) -> Result<(), InstantiateError> {
        let mut store: Store<StoreLimiter> = Store::new(&self.engine, self.pool.limiter());
        if limited {
            store.limiter(|limiter| limiter);
        }
        let mut linker = Linker::new(&self.engine);
        for import in module.imports() {
            let function = Func::wrap(&mut store, || {});
            let value: Extern = match import.ty().global() {
                Some(ty) => {
                    let value = Val::FuncRef(Some(function));
                    Global::new(&mut store, ty.clone(), value).unwrap().into()
                }
                None => function.into(),
            };
            let (module, name) = (import.module(), import.name());
            linker.define(&store, module, name, value).unwrap();
        }
        let instance = self.pool.instantiate(&linker, &mut store, module);
        instance.map(drop)
    }
}

/// Checks both answers for a module, and returns true if it was instantiated.
fn check(host: &Host, shape: &Shape, seed: u64) -> bool {
    let module = module(&host.engine, &format!("(module {})", shape.text));
    let policy = host.pool.policy();
    let mut instantiated = false;
    for limited in [false, true] {
        let verified = match limited {
            true => host.pool.verify_limited(&module),
            false => host.pool.verify(&module),
        };
        let answer = host.instantiate(&module, limited);
        let text = format!("{seed} {policy}: {verified:?}, then {answer:?}\n{shape:#?}");
        instantiated |= answer.is_ok();
        // The parts that a module does not show, if it cannot be probed.
        let unknown_type = shape.unprobed
            && match policy {
                Policy::Cap { .. } => shape.hidden_kind,
                _ => shape.hidden,
            };
        let unseen = shape.memories == 0 && shape.tables == 0 || shape.unprobed;
        match (verified, answer) {
            (Ok(()), Ok(())) => {}
            (Ok(()), Err(InstantiateError::Memory(_)))
                if unknown_type || (shape.heap && unseen) => {}
            (Err(_), Err(InstantiateError::Memory(_))) => {}
            _ => panic!("{text}"),
        }
    }
    instantiated
}

#[test]
fn verify_and_instantiate_give_the_same_answer() {
    let _turn = one_at_a_time();
    let policies = [
        Policy::Declared,
        Policy::CommitMaximum,
        Policy::Cap { pages: PAGES },
    ];
    for policy in policies {
        for known in [true, false] {
            let host = Host::new(policy, known);
            let mut instantiated = 0;
            for seed in 0..MODULES {
                let shape = Shape::new(&mut Rng::with_seed(seed));
                instantiated += u64::from(check(&host, &shape, seed));
                assert_eq!(host.pool.statistics().lent, 0, "{shape:#?}");
            }
            println!("{policy}, known: {known}: {instantiated} of {MODULES} instantiated");
            assert!(instantiated > MODULES / 20, "{instantiated}");
        }
    }
}
