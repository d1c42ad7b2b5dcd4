//! Runs one of the specification's scripts in wasmtime, with its modules in one [`Variant`]. Returns
//! the outcome of every directive.

use std::collections::HashMap;

use wasm_prealloc::{Options, rewrite};
use wasmparser::{Validator, WasmFeatures};
use wasmtime::{Engine, Func, ThrownException, Trap, Val};
use wast::core::EncodeOptions;
use wast::{QuoteWat, Wast, WastDirective, WastExecute, WastInvoke, Wat};

use super::instances::{Instances, NoInstance, Slot, Variant};
use super::observed::{Directive, Observed, Outcome, Run, failure, held_if};
use super::values;

/// A running script.
struct Script<'e> {
    instances: Instances<'e>,
    definitions: HashMap<Option<String>, Vec<u8>>,
    line: usize,
    /// The number of the instantiation that the directive makes or uses.
    number: Option<usize>,
}

/// Runs all directives of a script.
pub(super) fn run(engine: &Engine, variant: Variant, wast: Wast<'_>, text: &str) -> Run {
    let mut script = Script {
        instances: Instances::new(engine, variant),
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
                // The engine refuses a module that cannot be encoded.
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
                        Outcome::Held(Observed::Instance)
                    }
                    Err(error) => unreadable(&error),
                }
            }
            WastDirective::ModuleInstance {
                instance, module, ..
            } => {
                let module = module.map(|id| id.name().to_owned());
                let Some(wasm) = self.definitions.get(&module).cloned() else {
                    return Outcome::Failed(Observed::Other(
                        "there is no such definition".to_owned(),
                    ));
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
                    Ok(_) => Outcome::Held(Observed::Instance),
                    Err(absent) => absent.outcome(),
                }
            }
            WastDirective::Invoke(invoke) => match self.invoke(invoke) {
                Ok(Ok(values)) => Outcome::Held(Observed::Values(list(&values))),
                Ok(Err(error)) => Outcome::Failed(failure(&error)),
                Err(outcome) => outcome,
            },

            WastDirective::AssertReturn { exec, results, .. } => match self.execute(exec) {
                Ok(Ok(values)) => {
                    let holds = values.len() == results.len()
                        && values.iter().zip(&results).all(|(value, expected)| {
                            values::matches(&self.instances.store, value, expected)
                        });
                    held_if(holds, Observed::Values(list(&values)))
                }
                Ok(Err(error)) => Outcome::Failed(failure(&error)),
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
                    Ok(()) => Outcome::Failed(Observed::Instance),
                    Err(Outcome::Failed(observed @ Observed::Refused(_))) => {
                        Outcome::Held(observed)
                    }
                    Err(outcome) => outcome,
                },
                Err(error) => unreadable(&error),
            },
            WastDirective::AssertMalformed { module, .. }
            | WastDirective::AssertInvalid { module, .. } => self.is_refused(module),

            WastDirective::AssertMalformedCustom { .. }
            | WastDirective::AssertInvalidCustom { .. } => {
                Outcome::Skipped("custom sections are copied without a check".to_owned())
            }
            WastDirective::AssertSuspension { .. }
            | WastDirective::Thread(_)
            | WastDirective::Wait { .. } => {
                Outcome::Skipped("this runner does not support threads and suspension".to_owned())
            }
        }
    }

    /// Runs a directive about a module that must be refused. The rewriter supports all proposals, so
    /// a module that is valid with all of them need not be refused.
    fn is_refused(&self, mut module: QuoteWat<'_>) -> Outcome {
        let Ok(wasm) = module.encode() else {
            return Outcome::Skipped("refused as text, before any rewrite".to_owned());
        };
        if is_valid(&wasm) {
            return Outcome::Skipped("valid with current proposals".to_owned());
        }
        if !matches!(self.instances.variant, Variant::Rewritten(_)) {
            return Outcome::Held(Observed::Refused(String::new()));
        }
        match rewrite(&wasm, &Options::default()) {
            Err(error) => Outcome::Held(Observed::Refused(error.to_string())),
            Ok(_) => Outcome::Failed(Observed::Other(
                "an invalid module was rewritten".to_owned(),
            )),
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
        slot.ok_or_else(|| Outcome::Failed(Observed::Other("there is no such module".to_owned())))
    }

    fn instance(&mut self, name: Option<&str>) -> Result<wasmtime::Instance, Outcome> {
        self.slot(name)?.1.map_err(NoInstance::outcome)
    }

    /// Runs an action that must fail with a certain error.
    fn fails(
        &mut self,
        exec: WastExecute<'_>,
        as_expected: fn(&wasmtime::Error) -> bool,
    ) -> Outcome {
        let result = match exec {
            WastExecute::Wat(mut module) => return self.fails_to_start(&mut module),
            exec => self.execute(exec),
        };
        match result {
            Ok(Ok(values)) => Outcome::Failed(Observed::Values(list(&values))),
            Ok(Err(error)) => {
                let observed = match error.is::<ThrownException>() {
                    true => {
                        // Otherwise the next call finds the exception pending.
                        let _ = self.instances.store.take_pending_exception();
                        Observed::Other("an exception".to_owned())
                    }
                    false => failure(&error),
                };
                held_if(as_expected(&error), observed)
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
            Ok(()) => Outcome::Failed(Observed::Instance),
            Err(Outcome::Failed(observed @ Observed::Trapped(_))) => Outcome::Held(observed),
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
            WastExecute::Wat(_) => Err(Outcome::Failed(Observed::Other("a module".to_owned()))),
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
                "an argument that wasmtime does not support".to_owned(),
            ));
        };
        let mut results = vec![Val::I32(0); function.ty(&self.instances.store).results().len()];
        let called = function.call(&mut self.instances.store, &args, &mut results);
        Ok(called.map(|()| results))
    }
}

fn unreadable(error: &wast::Error) -> Outcome {
    let words = format!("the text format: {}", error.message());
    Outcome::Failed(Observed::Refused(words))
}

fn instantiated(outcome: Result<(), Outcome>) -> Outcome {
    match outcome {
        Ok(()) => Outcome::Held(Observed::Instance),
        Err(outcome) => outcome,
    }
}

fn missing(name: &str) -> Outcome {
    Outcome::Failed(Observed::Other(format!("`{name}` is not exported")))
}

fn list(values: &[Val]) -> String {
    let words: Vec<String> = values.iter().map(values::in_words).collect();
    words.join(", ")
}
