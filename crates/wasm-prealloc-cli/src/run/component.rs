//! A component as a program: it is linked to WASI 0.2, and its `wasi:cli/run` or one of its functions
//! is called.

use anyhow::{Context as _, Result, bail};
use wasm_prealloc_host::{InstantiateError, MemoryPool, WasmtimePool as _};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre, Linker, Val};
use wasmtime::{Engine, Store, format_err as engine_error};
use wasmtime_wasi::p2::add_to_linker_sync;
use wasmtime_wasi::p2::bindings::sync::CommandIndices;

use super::from_engine;
use super::opts::Opts;
use super::outcome::Ended;
use super::values::component::{arguments, show};
use super::wasi::State;

/// A component that can be run.
pub(super) struct ComponentProgram {
    pre: InstancePre<State>,
    call: Call,
}

/// The function call that the command line requests.
enum Call {
    Run(CommandIndices),
    Invoke {
        function: String,
        args: Vec<Val>,
        results: usize,
    },
}

impl ComponentProgram {
    /// Links a component, and checks its imports and its arguments.
    pub(super) fn new(opts: &Opts, args: &[String], component: &Component) -> Result<Self> {
        let mut linker: Linker<State> = Linker::new(component.engine());
        add_to_linker_sync(&mut linker).map_err(from_engine)?;
        let pre = linker
            .instantiate_pre(component)
            .map_err(from_engine)
            .context("only the interfaces of `wasi:cli/command` (WASI 0.2) are provided")?;
        let call = match &opts.invoke {
            Some(function) => invoke(function, args, component)?,
            None => Call::Run(CommandIndices::new(&pre).map_err(|_| not_a_command(component))?),
        };
        Ok(Self { pre, call })
    }

    /// Instantiates the component, and calls its function.
    pub(super) fn run(
        &self,
        pool: &MemoryPool,
        store: &mut Store<State>,
    ) -> Result<Ended, InstantiateError> {
        let instance = pool.instantiate_component_pre(&self.pre, &mut *store)?;
        match &self.call {
            Call::Run(command) => {
                let command = command.load(&mut *store, &instance)?;
                let outcome = command.wasi_cli_run().call_run(store)?;
                Ok(Ended::Exited(u8::from(outcome.is_err())))
            }
            Call::Invoke {
                function,
                args,
                results,
            } => {
                let mut results = vec![Val::Bool(false); *results];
                let found = instance.get_func(&mut *store, function.as_str());
                let found = found.ok_or_else(|| engine_error!("no function `{function}`"))?;
                found.call(store, args, &mut results)?;
                Ok(Ended::Returned(results.iter().map(show).collect()))
            }
        }
    }
}

/// Reads the arguments for a function that the component itself exports.
fn invoke(function: &str, args: &[String], component: &Component) -> Result<Call> {
    let Some((ComponentItem::ComponentFunc(ty), _)) = component.get_export(None, function) else {
        let known = functions(component);
        if known.is_empty() {
            bail!("it exports no function outside of its interfaces, so `--invoke` finds none");
        }
        let known = known.join(", ");
        bail!("it exports no function `{function}`: choose another one (it exports {known})");
    };
    let types = ty.params().map(|(_, ty)| ty);
    let args = arguments(args, types).with_context(|| format!("`{function}`"))?;
    Ok(Call::Invoke {
        function: function.to_owned(),
        args,
        results: ty.results().len(),
    })
}

fn not_a_command(component: &Component) -> anyhow::Error {
    let known = functions(component);
    let remedy = match known.is_empty() {
        true => String::new(),
        false => format!(
            ": choose a function with `--invoke NAME` (it exports {})",
            known.join(", ")
        ),
    };
    anyhow::anyhow!("it exports no `wasi:cli/run` of WASI 0.2{remedy}")
}

/// Returns the names of the functions that the component itself exports.
fn functions(component: &Component) -> Vec<String> {
    let (ty, engine): (_, &Engine) = (component.component_type(), component.engine());
    let names = ty.exports(engine).map(|(name, _)| name.to_owned());
    let is_function = |name: &String| {
        matches!(
            component.get_export(None, name.as_str()),
            Some((ComponentItem::ComponentFunc(_), _))
        )
    };
    names.filter(is_function).collect()
}
