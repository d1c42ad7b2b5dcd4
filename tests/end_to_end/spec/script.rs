//! Runs one of the specification's scripts in wasmtime, its modules as they are or rewritten, and
//! says of every directive what came of it. Judges nothing beyond the directive itself.

use std::collections::HashMap;
use std::fmt;

use wasm_prealloc::{Error, Options, rewrite};
use wasmparser::{Validator, WasmFeatures};
use wasmtime::{Engine, Func, Instance, Linker, Module, Store, ThrownException, Trap, Val};
use wast::core::EncodeOptions;
use wast::{QuoteWat, Wast, WastDirective, WastExecute, WastInvoke, Wat};

use super::values;

/// What is made of a script's modules before they are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum World {
    Original,
    Rewritten,
}

/// What came of a directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It held: this was seen.
    Held(Seen),
    /// It did not hold: this was seen instead.
    Not(Seen),
    /// It could not be run because the rewriter refuses a module that it needs, or because what
    /// it asks is nothing that a rewriter or this engine answers.
    Skipped(String),
}

/// What was seen when a directive was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A call gave these values, in words.
    Values(String),
    Trapped(Trap),
    /// A module was instantiated.
    Instance,
    /// It was refused at linking, validation, or decoding, with these words.
    Refused(String),
    /// A module is not there, because of the directive in this line, for this reason.
    Absent {
        line: usize,
        why: String,
    },
    /// Something else happened.
    Other(String),
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Values(values) => write!(f, "gave ({values})"),
            Self::Trapped(trap) => write!(f, "{trap}"),
            Self::Instance => write!(f, "instantiated"),
            Self::Refused(words) | Self::Other(words) | Self::Absent { why: words, .. } => {
                write!(f, "{words}")
            }
        }
    }
}

/// A directive of a script, and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Directive {
    pub(super) line: usize,
    /// Whether it asserts something, rather than preparing the ground.
    pub(super) asserts: bool,
    pub(super) imports_memory: bool,
    pub(super) outcome: Outcome,
}

/// Why there is no instance under a name.
#[derive(Clone, Debug)]
enum Absent {
    /// The rewriter refuses the module, or one that it imports from, for this reason.
    Refused(String),
    /// It could not be instantiated, in this line, for this reason.
    Failed { line: usize, why: String },
}

impl Absent {
    fn outcome(self) -> Outcome {
        match self {
            Self::Refused(reason) => Outcome::Skipped(reason),
            Self::Failed { line, why } => Outcome::Not(Seen::Absent { line, why }),
        }
    }
}

type Slot = Result<Instance, Absent>;

/// What every script may import; the interpreter's `spectest` (specification, "test/core").
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

/// A script that is being run. It has a store of its own: a pinned memory takes 4 GiB of address
/// space and a few mappings, and no script makes more than a few hundred of them, so all can have
/// the size that is the default.
struct Script<'e> {
    world: World,
    engine: &'e Engine,
    store: Store<()>,
    linker: Linker<()>,
    /// By name; the one without a name is the last one made.
    instances: HashMap<Option<String>, Slot>,
    definitions: HashMap<Option<String>, Vec<u8>>,
    /// Names that modules are registered under and that nothing stands behind, or one export of
    /// such a name.
    unregistered: HashMap<String, Absent>,
    line: usize,
    imports_memory: bool,
}

/// Runs a script from its first directive to its last.
pub(super) fn run(engine: &Engine, world: World, wast: Wast<'_>, text: &str) -> Vec<Directive> {
    let mut linker = Linker::new(engine);
    linker.allow_shadowing(true);
    let mut script = Script {
        world,
        engine,
        store: Store::new(engine, ()),
        linker,
        instances: HashMap::new(),
        definitions: HashMap::new(),
        unregistered: HashMap::new(),
        line: 0,
        imports_memory: false,
    };
    for spectest in [SPECTEST, SPECTEST_SHARED] {
        let wasm = wat::parse_str(spectest).unwrap();
        match script.instantiate(&wasm).1 {
            Ok(instance) => script.register("spectest", Ok(instance)),
            Err(absent) => {
                let name = "spectest.shared_memory".to_owned();
                script.unregistered.insert(name, absent);
            }
        }
    }
    let mut directives = Vec::new();
    for directive in wast.directives {
        script.line = directive.span().linecol_in(text).0 + 1;
        script.imports_memory = false;
        let asserts = !matches!(
            directive,
            WastDirective::Module(_)
                | WastDirective::ModuleDefinition(_)
                | WastDirective::ModuleInstance { .. }
                | WastDirective::Register { .. }
                | WastDirective::Invoke(_)
        );
        let outcome = script.directive(directive);
        directives.push(Directive {
            line: script.line,
            asserts,
            imports_memory: script.imports_memory,
            outcome,
        });
    }
    directives
}

fn is_valid(wasm: &[u8]) -> bool {
    Validator::new_with_features(WasmFeatures::all())
        .validate_all(wasm)
        .is_ok()
}

/// The last cause in a chain, without what differs from place to place.
fn cause(error: &wasmtime::Error) -> String {
    let words = error.root_cause().to_string();
    let words = words.split(" (at offset").next().unwrap_or_default();
    words.lines().next().unwrap_or_default().to_owned()
}

fn failure(error: &wasmtime::Error) -> Seen {
    match error.downcast_ref::<Trap>() {
        Some(trap) => Seen::Trapped(*trap),
        None => Seen::Refused(cause(error)),
    }
}

fn held_if(holds: bool, seen: Seen) -> Outcome {
    match holds {
        true => Outcome::Held(seen),
        false => Outcome::Not(seen),
    }
}

impl Script<'_> {
    fn directive(&mut self, directive: WastDirective<'_>) -> Outcome {
        match directive {
            WastDirective::Module(mut module) => {
                let name = module.name().map(|id| id.name().to_owned());
                let (outcome, slot) = match module.encode() {
                    Ok(wasm) => self.instantiate(&wasm),
                    Err(error) => self.unreadable(&error),
                };
                self.install(name, slot);
                self.instantiated(outcome)
            }
            WastDirective::ModuleDefinition(mut module) => {
                let name = module.name().map(|id| id.name().to_owned());
                match module.encode() {
                    Ok(wasm) => {
                        self.definitions.insert(name, wasm.clone());
                        self.definitions.insert(None, wasm);
                        Outcome::Held(Seen::Instance)
                    }
                    Err(error) => self.instantiated(self.unreadable(&error).0),
                }
            }
            WastDirective::ModuleInstance {
                instance, module, ..
            } => {
                let module = module.map(|id| id.name().to_owned());
                let Some(wasm) = self.definitions.get(&module).cloned() else {
                    return Outcome::Not(Seen::Other("there is no such definition".to_owned()));
                };
                let (outcome, slot) = self.instantiate(&wasm);
                self.install(instance.map(|id| id.name().to_owned()), slot);
                self.instantiated(outcome)
            }
            WastDirective::Register { name, module, .. } => {
                let slot = self.slot(module.map(|id| id.name()));
                match slot.clone() {
                    Ok(_) => {
                        self.register(name, slot);
                        Outcome::Held(Seen::Instance)
                    }
                    Err(absent) => {
                        self.register(name, slot);
                        absent.outcome()
                    }
                }
            }
            WastDirective::Invoke(invoke) => match self.invoke(invoke) {
                Ok(Ok(values)) => Outcome::Held(Seen::Values(list(&values))),
                Ok(Err(error)) => Outcome::Not(failure(&error)),
                Err(outcome) => outcome,
            },

            WastDirective::AssertReturn { exec, results, .. } => match self.execute(exec) {
                Ok(Ok(values)) => {
                    let holds = values.len() == results.len()
                        && values
                            .iter()
                            .zip(&results)
                            .all(|(value, expected)| values::matches(&self.store, value, expected));
                    held_if(holds, Seen::Values(list(&values)))
                }
                Ok(Err(error)) => Outcome::Not(failure(&error)),
                Err(outcome) => outcome,
            },
            WastDirective::AssertTrap { exec, .. } => self.fails(exec, |error| error.is::<Trap>()),
            WastDirective::AssertExhaustion { call, .. } => self
                .fails(WastExecute::Invoke(call), |error| {
                    error.downcast_ref() == Some(&Trap::StackOverflow)
                }),
            WastDirective::AssertException { exec, .. } => {
                self.fails(exec, |error| error.is::<ThrownException>())
            }
            WastDirective::AssertUnlinkable { mut module, .. } => match module.encode() {
                Ok(wasm) => match self.instantiate(&wasm).0 {
                    Ok(()) => Outcome::Not(Seen::Instance),
                    Err(Outcome::Not(seen @ Seen::Refused(_))) => Outcome::Held(seen),
                    Err(outcome) => outcome,
                },
                Err(error) => self.unreadable(&error).0.unwrap_err(),
            },
            WastDirective::AssertMalformed { module, .. }
            | WastDirective::AssertInvalid { module, .. } => self.is_refused(module),

            WastDirective::AssertMalformedCustom { .. }
            | WastDirective::AssertInvalidCustom { .. } => {
                Outcome::Skipped("custom sections are copied, and not judged".to_owned())
            }
            WastDirective::AssertSuspension { .. }
            | WastDirective::Thread(_)
            | WastDirective::Wait { .. } => {
                Outcome::Skipped("this runner knows no threads and no suspension".to_owned())
            }
        }
    }

    /// A module that must be refused. The rewriter takes every proposal as given, so a module that
    /// is valid with all of them is none that it must refuse.
    fn is_refused(&self, mut module: QuoteWat<'_>) -> Outcome {
        let Ok(wasm) = module.encode() else {
            return Outcome::Skipped("refused as text, which is never rewritten".to_owned());
        };
        if is_valid(&wasm) {
            return Outcome::Skipped("valid with the proposals of today".to_owned());
        }
        if self.world == World::Original {
            return Outcome::Held(Seen::Refused(String::new()));
        }
        match rewrite(&wasm, &Options::default()) {
            Err(error) => Outcome::Held(Seen::Refused(error.to_string())),
            Ok(_) => Outcome::Not(Seen::Other("an invalid module was rewritten".to_owned())),
        }
    }

    fn unreadable(&self, error: &wast::Error) -> (Result<(), Outcome>, Slot) {
        self.failed(Seen::Refused(format!(
            "the text format: {}",
            error.message()
        )))
    }

    fn failed(&self, seen: Seen) -> (Result<(), Outcome>, Slot) {
        let absent = Absent::Failed {
            line: self.line,
            why: seen.to_string(),
        };
        (Err(Outcome::Not(seen)), Err(absent))
    }

    fn instantiated(&self, outcome: Result<(), Outcome>) -> Outcome {
        match outcome {
            Ok(()) => Outcome::Held(Seen::Instance),
            Err(outcome) => outcome,
        }
    }

    /// The bytes that are run; `Err` where the rewriter refuses.
    fn prepare(&self, wasm: &[u8]) -> Result<Vec<u8>, Outcome> {
        if self.world == World::Original {
            return Ok(wasm.to_vec());
        }
        rewrite(wasm, &Options::default())
            .map(|rewritten| rewritten.wasm.into_owned())
            .map_err(|error| match error {
                Error::Malformed { .. }
                | Error::Invalid { .. }
                | Error::NotWasm { .. }
                | Error::OutputInvalid { .. } => Outcome::Not(Seen::Other(error.to_string())),
                refusal => Outcome::Skipped(refused_because(&refusal)),
            })
    }

    fn instantiate(&mut self, wasm: &[u8]) -> (Result<(), Outcome>, Slot) {
        let wasm = match self.prepare(wasm) {
            Ok(wasm) => wasm,
            Err(Outcome::Skipped(reason)) => {
                let absent = Absent::Refused(reason.clone());
                return (Err(Outcome::Skipped(reason)), Err(absent));
            }
            Err(Outcome::Not(seen) | Outcome::Held(seen)) => return self.failed(seen),
        };
        let module = match Module::new(self.engine, &wasm) {
            Ok(module) => module,
            Err(error) => return self.failed(failure(&error)),
        };
        for import in module.imports() {
            self.imports_memory |= import.ty().memory().is_some();
            let full = format!("{}.{}", import.module(), import.name());
            let absent = self.unregistered.get(import.module());
            if let Some(absent) = absent.or_else(|| self.unregistered.get(&full)) {
                return (Err(absent.clone().outcome()), Err(absent.clone()));
            }
        }
        match self.linker.instantiate(&mut self.store, &module) {
            Ok(instance) => (Ok(()), Ok(instance)),
            Err(error) => self.failed(failure(&error)),
        }
    }

    fn install(&mut self, name: Option<String>, slot: Slot) {
        if name.is_some() {
            self.instances.insert(name, slot.clone());
        }
        self.instances.insert(None, slot);
    }

    fn register(&mut self, name: &str, slot: Slot) {
        let defined = match slot {
            Ok(instance) => self
                .linker
                .instance(&mut self.store, name, instance)
                .map(drop)
                .map_err(|error| Absent::Failed {
                    line: self.line,
                    why: cause(&error),
                }),
            Err(absent) => Err(absent),
        };
        match defined {
            Ok(()) => drop(self.unregistered.remove(name)),
            Err(absent) => drop(self.unregistered.insert(name.to_owned(), absent)),
        }
    }

    fn slot(&self, name: Option<&str>) -> Slot {
        let slot = self.instances.get(&name.map(str::to_owned));
        slot.cloned().unwrap_or_else(|| {
            Err(Absent::Failed {
                line: self.line,
                why: "there is no such module".to_owned(),
            })
        })
    }

    /// Runs what must fail in a certain way.
    fn fails(&mut self, exec: WastExecute<'_>, as_told: fn(&wasmtime::Error) -> bool) -> Outcome {
        let result = match exec {
            WastExecute::Wat(mut module) => return self.fails_to_start(&mut module),
            exec => self.execute(exec),
        };
        match result {
            Ok(Ok(values)) => Outcome::Not(Seen::Values(list(&values))),
            Ok(Err(error)) => {
                let seen = match error.is::<ThrownException>() {
                    true => {
                        // The next call must not find it pending.
                        let _ = self.store.take_pending_exception();
                        Seen::Other("an exception".to_owned())
                    }
                    false => failure(&error),
                };
                held_if(as_told(&error), seen)
            }
            Err(outcome) => outcome,
        }
    }

    fn fails_to_start(&mut self, module: &mut Wat<'_>) -> Outcome {
        let wasm = match EncodeOptions::default().encode_wat(module) {
            Ok(wasm) => wasm,
            Err(error) => return self.unreadable(&error).0.unwrap_err(),
        };
        match self.instantiate(&wasm).0 {
            Ok(()) => Outcome::Not(Seen::Instance),
            Err(Outcome::Not(seen @ Seen::Trapped(_))) => Outcome::Held(seen),
            Err(outcome) => outcome,
        }
    }

    fn execute(
        &mut self,
        exec: WastExecute<'_>,
    ) -> Result<Result<Vec<Val>, wasmtime::Error>, Outcome> {
        match exec {
            WastExecute::Invoke(invoke) => self.invoke(invoke),
            WastExecute::Get { module, global, .. } => {
                let slot = self.slot(module.map(|id| id.name()));
                let instance = slot.map_err(Absent::outcome)?;
                let found = instance.get_global(&mut self.store, global);
                let found = found.ok_or_else(|| missing(global))?;
                Ok(Ok(vec![found.get(&mut self.store)]))
            }
            WastExecute::Wat(_) => Err(Outcome::Not(Seen::Other("a module".to_owned()))),
        }
    }

    fn invoke(
        &mut self,
        invoke: WastInvoke<'_>,
    ) -> Result<Result<Vec<Val>, wasmtime::Error>, Outcome> {
        let slot = self.slot(invoke.module.map(|id| id.name()));
        let instance = slot.map_err(Absent::outcome)?;
        let function: Option<Func> = instance.get_func(&mut self.store, invoke.name);
        let function = function.ok_or_else(|| missing(invoke.name))?;
        let args: Option<Vec<Val>> = invoke
            .args
            .iter()
            .map(|arg| values::argument(&mut self.store, arg))
            .collect();
        let Some(args) = args else {
            return Err(Outcome::Skipped(
                "an argument that wasmtime has not".to_owned(),
            ));
        };
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        let called = function.call(&mut self.store, &args, &mut results);
        Ok(called.map(|()| results))
    }
}

fn missing(name: &str) -> Outcome {
    Outcome::Not(Seen::Other(format!("`{name}` is not exported")))
}

fn list(values: &[Val]) -> String {
    let words: Vec<String> = values.iter().map(values::in_words).collect();
    words.join(", ")
}

/// A refusal without the place it stands at, so that equal ones can be counted.
fn refused_because(error: &Error) -> String {
    let why = match error {
        Error::ImportedMemoryGrows { .. } => "growing a memory that is imported".to_owned(),
        Error::SharedMemoryGrows { .. } => "growing a memory that threads share".to_owned(),
        Error::MinimumExceedsTarget { .. } => "a minimum above 4 GiB".to_owned(),
        Error::PagesOutOfRange { .. } => "a size that its type does not have".to_owned(),
        Error::Unsupported { what, .. } => what.to_string(),
        other => other.to_string(),
    };
    format!("the rewriter refuses {why}")
}
