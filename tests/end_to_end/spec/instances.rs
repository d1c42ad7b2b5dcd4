//! The modules of a script: their variant, their instances, and the links between the instances.

use std::collections::{BTreeSet, HashMap};

use wasm_prealloc::{
    EmulateFrom, Error, Features, GrowthHandling, MemoryImportPolicy, Options, Report, rewrite,
};
use wasm_prealloc_fuzzing::declare;
use wasmparser::MemoryType;
use wasmtime::{Engine, Instance, Linker, Module, Store};

use super::observed::{Facts, Observed, Outcome, cause, failure};

/// The variant of a script's modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// The original modules.
    Original,
    /// Modules with the limits that a rewrite declares, and otherwise unchanged.
    Declared,
    /// Rewritten modules, with this policy for imported memories.
    Rewritten(MemoryImportPolicy),
}

/// The reason why there is no instance for a name.
#[derive(Clone, Debug)]
pub(super) enum NoInstance {
    /// The rewriter refuses the module, or a module that it imports from.
    Refused(String),
    /// The instantiation in this line failed.
    Failed { line: usize, why: String },
}

impl NoInstance {
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Refused(reason) => Outcome::Skipped(reason),
            Self::Failed { line, why } => Outcome::Failed(Observed::NoInstance { line, why }),
        }
    }
}

/// The number of an instantiation, and the instance or the reason why there is none.
pub(super) type Slot = (usize, Result<Instance, NoInstance>);

/// The module that every script may import (specification, "test/core").
const SPECTEST: &str = r#"(module
    (global (export "global_i32") i32 (i32.const 666))
    (global (export "global_i64") i64 (i64.const 666))
    (global (export "global_f32") f32 (f32.const 666.6))
    (global (export "global_f64") f64 (f64.const 666.6))
    (table (export "table") 10 20 funcref)
    (table (export "table64") i64 10 20 funcref)
    (memory (export "memory") 1 2)
    (func (export "print"))
    (func (export "print_i32") (param i32))
    (func (export "print_i64") (param i64))
    (func (export "print_f32") (param f32))
    (func (export "print_f64") (param f64))
    (func (export "print_i32_f32") (param i32 f32))
    (func (export "print_f64_f64") (param f64 f64)))"#;

const SPECTEST_SHARED: &str = r#"(module (memory (export "shared_memory") 1 2 shared))"#;

/// The instances of a script, in their own store. A pinned memory takes 4 GiB of address space and a
/// few mappings. No script creates more than a few hundred memories, so all can have the default size.
pub(super) struct Instances<'e> {
    pub(super) variant: Variant,
    engine: &'e Engine,
    pub(super) store: Store<()>,
    linker: Linker<()>,
    /// Instances by name. The key `None` is the last instance.
    named: HashMap<Option<String>, Slot>,
    /// The numbers of instantiations by registered name.
    registered: HashMap<String, usize>,
    /// Registered names, and single exports, without an instance.
    unregistered: HashMap<String, NoInstance>,
    /// By the number of an instantiation: this one and all instances that are linked with it.
    linked: Vec<BTreeSet<usize>>,
    pub(super) modules: Vec<Facts>,
}

impl<'e> Instances<'e> {
    pub(super) fn new(engine: &'e Engine, variant: Variant) -> Self {
        let mut linker = Linker::new(engine);
        linker.allow_shadowing(true);
        let mut instances = Self {
            variant,
            engine,
            store: Store::new(engine, ()),
            linker,
            named: HashMap::new(),
            registered: HashMap::new(),
            unregistered: HashMap::new(),
            linked: Vec::new(),
            modules: Vec::new(),
        };
        for spectest in [SPECTEST_SHARED, SPECTEST] {
            let wasm = wat::parse_str(spectest).unwrap();
            match instances.instantiate(&wasm, 0).1 {
                (number, Ok(instance)) => instances.register("spectest", (number, Ok(instance)), 0),
                (_, Err(absent)) => {
                    let name = "spectest.shared_memory".to_owned();
                    instances.unregistered.insert(name, absent);
                }
            }
        }
        instances
    }

    /// Returns the bytes to run, and the facts about them. `Err` if the rewriter refuses the module.
    fn prepare(&self, wasm: &[u8]) -> Result<(Vec<u8>, Facts), Outcome> {
        let mut options = Options::default();
        options.features = Features::All;
        match self.variant {
            Variant::Original => return Ok((wasm.to_vec(), Facts::default())),
            Variant::Declared => {
                let declared = declare(wasm, |_, ty| fixed(ty, options.pages));
                // The engine refuses a module that cannot be read.
                let declared = declared.unwrap_or_else(|_| wasm.to_vec());
                return Ok((declared, Facts::default()));
            }
            Variant::Rewritten(memory_import) => options.memory_import = memory_import,
        }
        if options.memory_import == MemoryImportPolicy::Keep {
            options.emulate_from = EmulateFrom::Declared;
        }
        match rewrite(wasm, &options) {
            Ok(rewritten) => {
                let facts = facts(&rewritten.report, options.memory_import);
                Ok((rewritten.wasm.into_owned(), facts))
            }
            Err(
                error @ (Error::Malformed { .. }
                | Error::Invalid { .. }
                | Error::NotWasm { .. }
                | Error::OutputInvalid { .. }),
            ) => Err(Outcome::Failed(Observed::Other(error.to_string()))),
            Err(refusal) => Err(Outcome::Skipped(refused_because(&refusal))),
        }
    }

    /// Instantiates the module of a line.
    pub(super) fn instantiate(&mut self, wasm: &[u8], line: usize) -> (Result<(), Outcome>, Slot) {
        let number = self.linked.len();
        self.linked.push(BTreeSet::from([number]));
        self.modules.push(Facts::default());
        let failed = |observed: Observed| {
            let why = observed.to_string();
            let absent = NoInstance::Failed { line, why };
            (Err(Outcome::Failed(observed)), (number, Err(absent)))
        };
        let wasm = match self.prepare(wasm) {
            Ok((wasm, facts)) => {
                self.modules[number] = facts;
                wasm
            }
            Err(Outcome::Skipped(reason)) => {
                let absent = NoInstance::Refused(reason.clone());
                return (Err(Outcome::Skipped(reason)), (number, Err(absent)));
            }
            Err(Outcome::Failed(observed) | Outcome::Held(observed)) => return failed(observed),
        };
        let module = match Module::new(self.engine, &wasm) {
            Ok(module) => module,
            Err(error) => return failed(failure(&error)),
        };
        for import in module.imports() {
            let ty = import.ty();
            self.modules[number].imports_memory |= ty.memory().is_some();
            // The functions and globals of `spectest` have no shared state.
            let shares = ty.memory().is_some() || ty.table().is_some();
            if let Some(other) = self.registered.get(import.module())
                && (import.module() != "spectest" || shares)
            {
                self.link(number, *other);
            }
            let full = format!("{}.{}", import.module(), import.name());
            let absent = self.unregistered.get(import.module());
            if let Some(absent) = absent.or_else(|| self.unregistered.get(&full)) {
                let outcome = absent.clone().outcome();
                return (Err(outcome), (number, Err(absent.clone())));
            }
        }
        match self.linker.instantiate(&mut self.store, &module) {
            Ok(instance) => (Ok(()), (number, Ok(instance))),
            Err(error) => failed(failure(&error)),
        }
    }

    fn link(&mut self, one: usize, other: usize) {
        let all: BTreeSet<usize> = &self.linked[one] | &self.linked[other];
        for number in &all {
            self.linked[*number].clone_from(&all);
        }
    }

    /// Returns an instantiation and all that are linked with it so far.
    pub(super) fn reach(&self, number: usize) -> BTreeSet<usize> {
        self.linked.get(number).cloned().unwrap_or_default()
    }

    pub(super) fn install(&mut self, name: Option<String>, slot: Slot) {
        if name.is_some() {
            self.named.insert(name, slot.clone());
        }
        self.named.insert(None, slot);
    }

    pub(super) fn register(&mut self, name: &str, (number, slot): Slot, line: usize) {
        self.registered.insert(name.to_owned(), number);
        let defined = match slot {
            Ok(instance) => self
                .linker
                .instance(&mut self.store, name, instance)
                .map(drop)
                .map_err(|error| NoInstance::Failed {
                    line,
                    why: cause(&error),
                }),
            Err(absent) => Err(absent),
        };
        match defined {
            Ok(()) => drop(self.unregistered.remove(name)),
            Err(absent) => drop(self.unregistered.insert(name.to_owned(), absent)),
        }
    }

    /// Returns the instance with a name. `None` if the name was never used.
    pub(super) fn slot(&self, name: Option<&str>) -> Option<Slot> {
        self.named.get(&name.map(str::to_owned)).cloned()
    }
}

/// Returns a memory type with minimum and maximum of `pages` pages of 64 KiB.
fn fixed(ty: MemoryType, pages: u64) -> MemoryType {
    let pages = (pages << 16) >> ty.page_size_log2.unwrap_or(16);
    MemoryType {
        initial: pages,
        maximum: Some(pages),
        ..ty
    }
}

fn facts(report: &Report, memory_import: MemoryImportPolicy) -> Facts {
    let mut facts = Facts::default();
    for memory in &report.memories {
        let has_sites = memory.sites.size + memory.sites.grow > 0;
        facts.has_sites |= has_sites;
        let imported = memory.before.import.is_some();
        facts.imports_memory |= imported;
        facts.has_sites_in_import |=
            has_sites && imported && memory_import != MemoryImportPolicy::Define;
        match memory.growth {
            GrowthHandling::Pregrown { pages, .. } => facts.pregrown.push(pages),
            GrowthHandling::Emulated {
                from_pages,
                address: Some(_),
                ..
            } => facts.counted_from.push(from_pages),
            _ => {}
        }
    }
    facts
}

/// Describes a refusal without its place, so that equal refusals can be counted.
fn refused_because(error: &Error) -> String {
    let why = match error {
        Error::ImportedMemoryGrows { .. } => "growing a memory that is imported".to_owned(),
        Error::DataAboveMinimum { .. } => "data above the declared minimum".to_owned(),
        Error::MinimumExceedsTarget { .. } => "a minimum above 4 GiB".to_owned(),
        Error::PagesOutOfRange { .. } => "a size that its type does not have".to_owned(),
        Error::Unsupported { what, .. } => what.to_string(),
        other => other.to_string(),
    };
    format!("the rewriter refuses {why}")
}
