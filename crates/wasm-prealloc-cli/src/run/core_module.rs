//! A core module as a program: it is compiled, linked to WASI preview 1, and called.

use anyhow::{Context as _, Result, bail};
use wasm_prealloc_host::{
    InstantiateError, MemoryPool, PreparedPool, VerifyError, WasmtimePool as _,
};
use wasmtime::{
    Config, Engine, ExternType, Instance, Linker, Module, Store, Val, format_err as engine_error,
};
use wasmtime_wasi::p1::add_to_linker_sync;

use super::from_engine;
use super::opts::Opts;
use super::outcome::Ended;
use super::values::core::{arguments, show};
use super::wasi::State;
use crate::exit;

/// The function that starts a program.
const START: &str = "_start";
/// The function that must be called first in a library.
const INITIALIZE: &str = "_initialize";

/// A core module that can be run.
pub(super) struct CoreProgram {
    module: Module,
    linker: Linker<State>,
    call: Call,
}

impl CoreProgram {
    /// Links a module, and checks its imports and its arguments.
    pub(super) fn new(opts: &Opts, args: &[String], module: Module) -> Result<Self> {
        let mut linker: Linker<State> = Linker::new(module.engine());
        add_to_linker_sync(&mut linker, |state: &mut State| &mut state.wasi)
            .map_err(from_engine)?;
        linker
            .instantiate_pre(&module)
            .map_err(from_engine)
            .context("only WASI preview 1 is provided")?;
        let call = Call::read(opts, args, &module)?;
        Ok(Self {
            module,
            linker,
            call,
        })
    }

    /// Instantiates the module, and calls its function.
    pub(super) fn run(
        &self,
        pool: &MemoryPool,
        store: &mut Store<State>,
    ) -> Result<Ended, InstantiateError> {
        let instance = pool.instantiate(&self.linker, &mut *store, &self.module)?;
        let results = self.call.run(store, instance)?;
        Ok(match self.call.is_program {
            true => Ended::Exited(exit::DONE),
            false => Ended::Returned(results),
        })
    }
}

pub(super) fn compile(engine: &Engine, wasm: &[u8]) -> Result<Module> {
    Module::new(engine, wasm).map_err(uncompiled)
}

/// Returns the error of a module or a component that the engine does not compile.
pub(super) fn uncompiled(error: wasmtime::Error) -> anyhow::Error {
    let error = from_engine(error);
    match format!("{error:#}").contains("legacy_exceptions") {
        true => error.context(
            "it uses legacy exceptions, which the engine does not run: compile it with `-mllvm \
             -wasm-use-legacy-eh=false`, or translate it with Binaryen's `wasm-opt \
             --translate-to-exnref`",
        ),
        false => error,
    }
}

/// Returns true if the module needs the engine's own heap, or if that cannot be found out.
pub(super) fn needs_engine_heap(
    prepared: &PreparedPool,
    module: &Module,
    wasm: &[u8],
) -> Result<bool, VerifyError> {
    // A pool does not find it out for a module without memories and tables.
    Ok(prepared.needs_engine_heap(module)? && !is_valid_without_heap(wasm))
}

/// Returns true if the module is valid without the proposals that need the engine's own heap.
fn is_valid_without_heap(wasm: &[u8]) -> bool {
    let engine = Engine::new(without_heap(&mut Config::new()));
    engine.is_ok_and(|engine| Module::validate(&engine, wasm).is_ok())
}

/// Turns the proposals off that need the engine's own heap.
pub(super) fn without_heap(config: &mut Config) -> &mut Config {
    config
        .wasm_gc(false)
        .wasm_function_references(false)
        .wasm_exceptions(false)
        .gc_support(false)
}

/// The function call that the command line requests.
struct Call {
    function: String,
    args: Vec<Val>,
    results: usize,
    /// The function is the start of a program, and not the choice of the command line.
    is_program: bool,
    /// The module is a library that must be initialized first.
    initialize: bool,
}

impl Call {
    fn read(opts: &Opts, args: &[String], module: &Module) -> Result<Self> {
        let function = opts.invoke.as_deref().unwrap_or(START);
        let Some(ExternType::Func(ty)) = module.get_export(function) else {
            let functions = module
                .exports()
                .filter(|export| export.ty().func().is_some());
            let known: Vec<&str> = functions.map(|export| export.name()).collect();
            if known.is_empty() {
                bail!("it exports no function, so there is nothing to run");
            }
            bail!(
                "it exports no function `{function}`: choose one with `--invoke NAME` \
                 (it exports {})",
                known.join(", ")
            );
        };
        // The arguments of a program are passed by WASI.
        let given = match opts.invoke {
            Some(_) => args,
            None => &[],
        };
        let args = arguments(given, ty.params()).with_context(|| format!("`{function}`"))?;
        let is_unit = |ty: ExternType| {
            ty.func()
                .is_some_and(|ty| ty.params().len() == 0 && ty.results().len() == 0)
        };
        Ok(Self {
            function: function.to_owned(),
            args,
            results: ty.results().len(),
            is_program: opts.invoke.is_none(),
            initialize: opts.invoke.is_some() && module.get_export(INITIALIZE).is_some_and(is_unit),
        })
    }

    /// Calls the function, and returns its results as text.
    fn run(&self, store: &mut Store<State>, instance: Instance) -> wasmtime::Result<Vec<String>> {
        let mut results = vec![Val::I32(0); self.results];
        let mut call = |name: &str, args: &[Val], results: &mut [Val]| {
            let function = instance.get_func(&mut *store, name);
            let function = function.ok_or_else(|| engine_error!("no function `{name}`"))?;
            function.call(&mut *store, args, results)
        };
        if self.initialize {
            call(INITIALIZE, &[], &mut [])?;
        }
        call(&self.function, &self.args, &mut results)?;
        Ok(results.iter().map(show).collect())
    }
}
