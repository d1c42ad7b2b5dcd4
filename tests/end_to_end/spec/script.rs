//! Runs one of the specification's scripts in wasmtime, its modules as a [`World`] makes them, and
//! says of every directive what came of it. Judges nothing beyond the directive itself.

use std::collections::HashMap;

use wasm_prealloc::{Options, rewrite};
use wasmparser::{Validator, WasmFeatures};
use wasmtime::{Engine, Func, ThrownException, Trap, Val};
use wast::core::EncodeOptions;
use wast::{QuoteWat, Wast, WastDirective, WastExecute, WastInvoke, Wat};

use super::seen::{Directive, Outcome, Run, Seen, failure, held_if};
use super::values;
use super::world::{Absent, Instances, Slot, World};

/// A script that is being run.
struct Script<'e> {
    instances: Instances<'e>,
    definitions: HashMap<Option<String>, Vec<u8>>,
    line: usize,
    /// The instantiation that the directive makes or uses.
    number: Option<usize>,
}

/// Runs a script from its first directive to its last.
pub(super) fn run(engine: &Engine, world: World, wast: Wast<'_>, text: &str) -> Run {
    let mut script = Script {
        instances: Instances::new(engine, world),
        definitions: HashMap::new(),
        line: 0,
        number: None,
    };
    let mut directives = Vec::new();
    for directive in wast.directives {
        script.line = directive.span().linecol_in(text).0 + 1;
        script.number = None;
        let asserts = !matches!(
            directive,
            WastDirective::Module(_)
                | WastDirective::ModuleDefinition(_)
                | WastDirective::ModuleInstance { .. }
                | WastDirective::Register { .. }
                | WastDirective::Invoke(_)
        );
        let outcome = script.directive(directive);
        let reach = script.number.map(|number| script.instances.reach(number));
        directives.push(Directive {
            line: script.line,
            asserts,
            number: script.number,
            reach: reach.unwrap_or_default(),
            outcome,
        });
    }
    Run {
        directives,
        modules: script.instances.modules,
    }
}

fn is_valid(wasm: &[u8]) -> bool {
    Validator::new_with_features(WasmFeatures::all())
        .validate_all(wasm)
        .is_ok()
}

impl Script<'_> {
    fn directive(&mut self, directive: WastDirective<'_>) -> Outcome {
        match directive {
            WastDirective::Module(mut module) => {
                let name = module.name().map(|id| id.name().to_owned());
                // What cannot be encoded is no module to the engine either.
                let wasm = module.encode();
                let (outcome, slot) = self.instantiate(wasm.as_deref().unwrap_or_default());
                self.instances.install(name, slot);
                wasm.map_or_else(|error| unreadable(&error), |_| instantiated(outcome))
            }
            WastDirective::ModuleDefinition(mut module) => {
                let name = module.name().map(|id| id.name().to_owned());
                match module.encode() {
                    Ok(wasm) => {
                        self.definitions.insert(name, wasm.clone());
                        self.definitions.insert(None, wasm);
                        Outcome::Held(Seen::Instance)
                    }
                    Err(error) => unreadable(&error),
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
                self.instances
                    .install(instance.map(|id| id.name().to_owned()), slot);
                instantiated(outcome)
            }
            WastDirective::Register { name, module, .. } => {
                let slot = match self.slot(module.map(|id| id.name())) {
                    Ok(slot) => slot,
                    Err(outcome) => return outcome,
                };
                self.instances.register(name, slot.clone(), self.line);
                match slot.1 {
                    Ok(_) => Outcome::Held(Seen::Instance),
                    Err(absent) => absent.outcome(),
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
                        && values.iter().zip(&results).all(|(value, expected)| {
                            values::matches(&self.instances.store, value, expected)
                        });
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
                Err(error) => unreadable(&error),
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
        if !matches!(self.instances.world, World::Rewritten(_)) {
            return Outcome::Held(Seen::Refused(String::new()));
        }
        match rewrite(&wasm, &Options::default()) {
            Err(error) => Outcome::Held(Seen::Refused(error.to_string())),
            Ok(_) => Outcome::Not(Seen::Other("an invalid module was rewritten".to_owned())),
        }
    }

    fn instantiate(&mut self, wasm: &[u8]) -> (Result<(), Outcome>, Slot) {
        let (outcome, slot) = self.instances.instantiate(wasm, self.line);
        self.number = Some(slot.0);
        (outcome, slot)
    }

    fn slot(&mut self, name: Option<&str>) -> Result<Slot, Outcome> {
        let slot = self.instances.slot(name);
        self.number = slot.as_ref().map(|(number, _)| *number);
        slot.ok_or_else(|| Outcome::Not(Seen::Other("there is no such module".to_owned())))
    }

    fn instance(&mut self, name: Option<&str>) -> Result<wasmtime::Instance, Outcome> {
        self.slot(name)?.1.map_err(Absent::outcome)
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
                        let _ = self.instances.store.take_pending_exception();
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
            Err(error) => return unreadable(&error),
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
                let instance = self.instance(module.map(|id| id.name()))?;
                let found = instance.get_global(&mut self.instances.store, global);
                let found = found.ok_or_else(|| missing(global))?;
                Ok(Ok(vec![found.get(&mut self.instances.store)]))
            }
            WastExecute::Wat(_) => Err(Outcome::Not(Seen::Other("a module".to_owned()))),
        }
    }

    fn invoke(
        &mut self,
        invoke: WastInvoke<'_>,
    ) -> Result<Result<Vec<Val>, wasmtime::Error>, Outcome> {
        let instance = self.instance(invoke.module.map(|id| id.name()))?;
        let function: Option<Func> = instance.get_func(&mut self.instances.store, invoke.name);
        let function = function.ok_or_else(|| missing(invoke.name))?;
        let args: Option<Vec<Val>> = invoke
            .args
            .iter()
            .map(|arg| values::argument(&mut self.instances.store, arg))
            .collect();
        let Some(args) = args else {
            return Err(Outcome::Skipped(
                "an argument that wasmtime has not".to_owned(),
            ));
        };
        let mut results = vec![Val::I32(0); function.ty(&self.instances.store).results().len()];
        let called = function.call(&mut self.instances.store, &args, &mut results);
        Ok(called.map(|()| results))
    }
}

fn unreadable(error: &wast::Error) -> Outcome {
    let words = format!("the text format: {}", error.message());
    Outcome::Not(Seen::Refused(words))
}

fn instantiated(outcome: Result<(), Outcome>) -> Outcome {
    match outcome {
        Ok(()) => Outcome::Held(Seen::Instance),
        Err(outcome) => outcome,
    }
}

fn missing(name: &str) -> Outcome {
    Outcome::Not(Seen::Other(format!("`{name}` is not exported")))
}

fn list(values: &[Val]) -> String {
    let words: Vec<String> = values.iter().map(values::in_words).collect();
    words.join(", ")
}
