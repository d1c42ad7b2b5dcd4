//! Runs one of the specification's scripts in wasmtime, with its modules in one [`Variant`]. Returns
//! the outcome of every directive.

use std::collections::HashMap;

use wasm_prealloc::{Features, Options, rewrite};
use wasmparser::{Validator, WasmFeatures};
use wasmtime::{Engine, ThrownException, Trap, Val};
use wast::core::EncodeOptions;
use wast::{QuoteWat, Wast, WastDirective, WastExecute, WastInvoke, Wat};

use super::instances::{Instances, NoInstance, Slot, Variant};
use super::observed::{Directive, Observed, Outcome, Run, failure};
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
        let outcome = outcome.map_or_else(|outcome| outcome, Outcome::Held);
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
    /// Runs a directive. Returns what was observed if it holds.
    fn directive(&mut self, directive: WastDirective<'_>) -> Result<Observed, Outcome> {
        Ok(match directive {
            WastDirective::Module(mut module) => {
                let name = module.name().map(|id| id.name().to_owned());
                // The engine refuses a module that cannot be encoded.
                let wasm = module.encode();
                let (outcome, slot) = self.instantiate(wasm.as_deref().unwrap_or_default());
                self.instances.install(name, slot);
                wasm?;
                outcome?;
                Observed::Instance
            }
            WastDirective::ModuleDefinition(mut module) => {
                let wasm = module.encode()?;
                let name = module.name().map(|id| id.name().to_owned());
                self.definitions.insert(name, wasm.clone());
                self.definitions.insert(None, wasm);
                Observed::Instance
            }
            WastDirective::ModuleInstance {
                instance, module, ..
            } => {
                let module = module.map(|id| id.name().to_owned());
                let wasm = self.definitions.get(&module).cloned();
                let wasm = wasm.ok_or_else(|| other("there is no such definition"))?;
                let (outcome, slot) = self.instantiate(&wasm);
                self.instances
                    .install(instance.map(|id| id.name().to_owned()), slot);
                outcome?;
                Observed::Instance
            }
            WastDirective::Register { name, module, .. } => {
                let slot = self.slot(module.map(|id| id.name()))?;
                self.instances.register(name, slot.clone(), self.line);
                slot.1.map_err(NoInstance::outcome)?;
                Observed::Instance
            }
            WastDirective::Invoke(invoke) => {
                let values = self.invoke(invoke)?.map_err(|error| failure(&error))?;
                Observed::Values(list(&values))
            }
            WastDirective::AssertReturn { exec, results, .. } => {
                let values = self.execute(exec)?.map_err(|error| failure(&error))?;
                let mut pairs = values.iter().zip(&results);
                let store = &self.instances.store;
                let holds = values.len() == results.len()
                    && pairs.all(|(value, expected)| values::matches(store, value, expected));
                holds_if(holds, Observed::Values(list(&values)))?
            }
            WastDirective::AssertTrap { exec, .. } => {
                self.fails(exec, |error| error.is::<Trap>())?
            }
            WastDirective::AssertExhaustion { call, .. } => {
                let exec = WastExecute::Invoke(call);
                let overflow = Some(&Trap::StackOverflow);
                self.fails(exec, |error| error.downcast_ref() == overflow)?
            }
            WastDirective::AssertException { exec, .. } => {
                self.fails(exec, |error| error.is::<ThrownException>())?
            }
            WastDirective::AssertUnlinkable { mut module, .. } => {
                match self.instantiate(&module.encode()?).0 {
                    Err(Outcome::Failed(observed @ Observed::Refused(_))) => observed,
                    outcome => return outcome.and(Err(Observed::Instance.into())),
                }
            }
            WastDirective::AssertMalformed { module, .. }
            | WastDirective::AssertInvalid { module, .. } => self.is_refused(module)?,
            WastDirective::AssertMalformedCustom { .. }
            | WastDirective::AssertInvalidCustom { .. } => {
                return skip("custom sections are copied without a check");
            }
            WastDirective::AssertSuspension { .. }
            | WastDirective::Thread(_)
            | WastDirective::Wait { .. } => {
                return skip("this runner does not support threads and suspension");
            }
        })
    }

    /// Runs a directive about a module that must be refused. The rewriter supports all proposals, so
    /// a module that is valid with all of them need not be refused.
    fn is_refused(&self, mut module: QuoteWat<'_>) -> Result<Observed, Outcome> {
        let Ok(wasm) = module.encode() else {
            return skip("refused as text, before any rewrite");
        };
        if is_valid(&wasm) {
            return skip("valid with current proposals");
        }
        if !matches!(self.instances.variant, Variant::Rewritten(_)) {
            return Ok(Observed::Refused(String::new()));
        }
        let mut options = Options::default();
        options.features = Features::All;
        match rewrite(&wasm, &options) {
            Err(error) => Ok(Observed::Refused(error.to_string())),
            Ok(_) => Err(other("an invalid module was rewritten")),
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
        slot.ok_or_else(|| other("there is no such module"))
    }

    fn instance(&mut self, name: Option<&str>) -> Result<wasmtime::Instance, Outcome> {
        self.slot(name)?.1.map_err(NoInstance::outcome)
    }

    /// Runs an action that must fail with a certain error.
    fn fails(
        &mut self,
        exec: WastExecute<'_>,
        as_expected: impl FnOnce(&wasmtime::Error) -> bool,
    ) -> Result<Observed, Outcome> {
        if let WastExecute::Wat(mut module) = exec {
            return self.fails_to_start(&mut module);
        }
        match self.execute(exec)? {
            Ok(values) => Err(Observed::Values(list(&values)).into()),
            Err(error) if error.is::<ThrownException>() => {
                // Otherwise the next call finds the exception pending.
                let _ = self.instances.store.take_pending_exception();
                let observed = Observed::Other("an exception".to_owned());
                holds_if(as_expected(&error), observed)
            }
            Err(error) => holds_if(as_expected(&error), failure(&error)),
        }
    }

    fn fails_to_start(&mut self, module: &mut Wat<'_>) -> Result<Observed, Outcome> {
        let wasm = EncodeOptions::default().encode_wat(module)?;
        match self.instantiate(&wasm).0 {
            Err(Outcome::Failed(observed @ Observed::Trapped(_))) => Ok(observed),
            outcome => outcome.and(Err(Observed::Instance.into())),
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
            WastExecute::Wat(_) => Err(other("a module")),
        }
    }

    fn invoke(
        &mut self,
        invoke: WastInvoke<'_>,
    ) -> Result<Result<Vec<Val>, wasmtime::Error>, Outcome> {
        let instance = self.instance(invoke.module.map(|id| id.name()))?;
        let store = &mut self.instances.store;
        let function = instance.get_func(&mut *store, invoke.name);
        let function = function.ok_or_else(|| missing(invoke.name))?;
        let args = invoke.args.iter();
        let args: Option<Vec<Val>> = args.map(|arg| values::argument(store, arg)).collect();
        let Some(args) = args else {
            return skip("an argument that wasmtime does not support");
        };
        let mut results = vec![Val::I32(0); function.ty(&*store).results().len()];
        let called = function.call(store, &args, &mut results);
        Ok(called.map(|()| results))
    }
}

/// The encoder refuses a module in the text format.
impl From<wast::Error> for Outcome {
    fn from(error: wast::Error) -> Self {
        Observed::Refused(format!("the text format: {}", error.message())).into()
    }
}

fn holds_if(holds: bool, observed: Observed) -> Result<Observed, Outcome> {
    match holds {
        true => Ok(observed),
        false => Err(observed.into()),
    }
}

fn skip<T>(reason: &str) -> Result<T, Outcome> {
    Err(Outcome::Skipped(reason.to_owned()))
}

fn other(observed: &str) -> Outcome {
    Observed::Other(observed.to_owned()).into()
}

fn missing(name: &str) -> Outcome {
    other(&format!("`{name}` is not exported"))
}

fn list(values: &[Val]) -> String {
    let texts: Vec<String> = values.iter().map(values::in_words).collect();
    texts.join(", ")
}
