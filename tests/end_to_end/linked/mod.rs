//! Random components whose core modules grow, measure, read and write memories that they share. A plain
//! evaluation of the component links the core modules in an engine, before and after the rewrite of the
//! component. Both give the same results.

mod generate;

use std::collections::BTreeMap;
use std::rc::Rc;

use wasm_prealloc::{Error, GrowthHandling, Options, rewrite};
use wasmparser::{Parser, Payload};
use wasmtime::{Config, Engine, Extern, Instance, Module, OptLevel, Store};

use generate::{Component, CoreModule, Generator, Kind, Term};

/// The size that memories get, in pages. All counters are below its last page.
const PAGES: u64 = 256;

/// A value of a name.
#[derive(Clone)]
enum Value {
    Module(CoreModule),
    Component(Rc<Component>, Names),
    /// An instance, by the core module that it exports.
    Instance(CoreModule),
    /// A core instance whose exported memory this is, by position.
    Core(usize),
}

type Names = BTreeMap<String, Value>;

/// The core instances in the order of instantiation: the module, and the instance whose memory it
/// imports.
type Links = Vec<(CoreModule, Option<usize>)>;

/// Evaluates a component. Returns the core module that it exports, or `None` if there are too many
/// instances.
fn evaluate(component: &Component, mut names: Names, links: &mut Links) -> Option<CoreModule> {
    for term in &component.terms {
        if links.len() > 40 {
            return None;
        }
        let (name, value) = match term {
            Term::Module(name, module) => (name, Value::Module(module.clone())),
            Term::Component(name, component) => {
                (name, Value::Component(component.clone(), names.clone()))
            }
            Term::Outer { name, of } => (name, names[of].clone()),
            Term::Instance { name, of } => {
                let Value::Component(component, around) = &names[of] else {
                    panic!("`{of}` is no component")
                };
                let module = evaluate(component, around.clone(), links)?;
                (name, Value::Instance(module))
            }
            Term::Alias { name, instance } => match &names[instance] {
                Value::Instance(module) => (name, Value::Module(module.clone())),
                _ => panic!("`{instance}` is no instance"),
            },
            Term::CoreInstance { name, of, memory } => {
                let module = module(&names, of);
                assert_eq!(module.imports, memory.is_some());
                let memory = memory.as_ref().map(|memory| core(&names, memory));
                links.push((module, memory));
                (name, Value::Core(links.len() - 1))
            }
            Term::CoreExports { name, memory } => (name, Value::Core(core(&names, memory))),
        };
        names.insert(name.clone(), value);
    }
    Some(module(&names, &component.export))
}

fn module(names: &Names, name: &str) -> CoreModule {
    match &names[name] {
        Value::Module(module) => module.clone(),
        _ => panic!("`{name}` is no core module"),
    }
}

fn core(names: &Names, name: &str) -> usize {
    match &names[name] {
        Value::Core(instance) => *instance,
        _ => panic!("`{name}` is no core instance"),
    }
}

/// The core instances of a component, in an engine.
struct Running {
    store: Store<()>,
    instances: Vec<Instance>,
}

impl Running {
    fn new(engine: &Engine, component: &[u8], links: &Links) -> Self {
        let modules: Vec<_> = Parser::new(0)
            .parse_all(component)
            .filter_map(|payload| match payload.unwrap() {
                Payload::ModuleSection {
                    unchecked_range, ..
                } => Some(&component[unchecked_range.start as usize..unchecked_range.end as usize]),
                _ => None,
            })
            .map(|module| Module::new(engine, module).unwrap())
            .collect();
        let mut store = Store::new(engine, ());
        let mut instances: Vec<Instance> = Vec::new();
        for (module, memory) in links {
            let memory = memory.map(|instance| {
                let memory = instances[instance].get_memory(&mut store, "memory");
                Extern::Memory(memory.unwrap())
            });
            let imports: Vec<_> = memory.into_iter().collect();
            let module = &modules[module.position];
            instances.push(Instance::new(&mut store, module, &imports).unwrap());
        }
        Self { store, instances }
    }

    fn call(&mut self, instance: usize, function: &str, kind: Kind, argument: i32) -> Option<i32> {
        let instance = self.instances[instance];
        let store = &mut self.store;
        match kind {
            Kind::Size => {
                let function = instance
                    .get_typed_func::<(), i32>(&mut *store, function)
                    .unwrap();
                function.call(store, ()).ok()
            }
            Kind::Grow | Kind::Load => {
                let function = instance
                    .get_typed_func::<i32, i32>(&mut *store, function)
                    .unwrap();
                function.call(store, argument).ok()
            }
            Kind::Store => {
                let function = instance
                    .get_typed_func::<i32, ()>(&mut *store, function)
                    .unwrap();
                function.call(store, argument).ok().map(|()| 0)
            }
        }
    }
}

#[test]
fn components_give_the_same_results_as_their_originals() {
    const PAGE: i32 = 65_536;
    let mut config = Config::new();
    config.cranelift_opt_level(OptLevel::None);
    let engine = Engine::new(&config).unwrap();
    let mut options = Options::default();
    options.pages = PAGES;

    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut count = |what, by| *counts.entry(what).or_default() += by;
    for seed in 0..250 {
        let mut generator = Generator::new(seed);
        let component = generator.component("root", 25);
        let mut links = Links::new();
        if evaluate(&component, Names::new(), &mut links).is_none() {
            count("too large", 1);
            continue;
        }
        let original = wat::parse_str(&generator.text).unwrap();
        let rewritten = match rewrite(&original, &options) {
            Ok(rewritten) => rewritten,
            Err(error @ Error::Unsupported { .. }) => {
                assert!(
                    error.to_string().contains("different limits"),
                    "seed {seed}: {error}"
                );
                count("refused", 1);
                continue;
            }
            Err(error) => panic!("seed {seed}: {error}"),
        };
        for memory in &rewritten.report.memories {
            count(
                match memory.growth {
                    GrowthHandling::Emulated {
                        address: Some(_), ..
                    } => "counters in memory",
                    GrowthHandling::Emulated { .. } => "counters in globals",
                    GrowthHandling::Fixed { .. } => "fixed sizes",
                    _ => "memories without either",
                },
                1,
            );
        }
        let mut before = Running::new(&engine, &original, &links);
        let mut after = Running::new(&engine, &rewritten.wasm, &links);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..60 {
            let instance = random.usize(0..links.len());
            let Some((function, kind)) = random.choice(&links[instance].0.functions) else {
                continue;
            };
            let argument = match kind {
                Kind::Grow => random.i32(0..3),
                // Within the smallest minimum.
                _ => random.i32(0..PAGE / 8) * 4,
            };
            let expected = before.call(instance, function, *kind, argument);
            let found = after.call(instance, function, *kind, argument);
            assert_eq!(
                found, expected,
                "seed {seed}: {function} of core instance {instance}\n{}",
                generator.text
            );
            count("calls", 1);
        }
        count("components", 1);
    }
    eprintln!("linked components: {counts:?}");
    let least = |what, least| assert!(counts[what] >= least, "too few {what}: {counts:?}");
    least("components", 200);
    least("calls", 10_000);
    least("counters in memory", 500);
    least("counters in globals", 500);
    least("fixed sizes", 100);
}
