//! `wasm-prealloc run`: runs a module in memory that is committed before the module starts.

use std::io::Write as _;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;
use wasm_prealloc::{Analysis, Format, MAX_PAGES, Memory, VerifyError};
use wasm_prealloc_host::{
    DEFAULT_TABLE_ELEMENTS, InstantiateError, MemoryPool, Policy, StoreLimiter, WasmtimePool,
};
use wasmtime::{Config, Engine, ExternType, Instance, Linker, Module, Store, Trap, Val, ValType};
use wasmtime_wasi::p1::{WasiP1Ctx, add_to_linker_sync};
use wasmtime_wasi::{I32Exit, WasiCtxBuilder};

use crate::input::{Input, Limit};
use crate::io::print_json;
use crate::json::SecuredReport;
use crate::pages::Pages;
use crate::{exit, flags, json, memory};

const EXAMPLES: &[&str] = &[
    "wasm-prealloc run program.wasm one two",
    "wasm-prealloc run --invoke add sum.wasm 1 2",
    "wasm-prealloc run --policy commit-maximum untouched.wasm",
];

/// The function that starts a program.
const START: &str = "_start";
/// The function that must be called first in a library.
const INITIALIZE: &str = "_initialize";

/// 16 MiB: about 700,000 exceptions with a few values each. The engine's collector frees none of
/// them before the end.
const DEFAULT_ENGINE_HEAP_BYTES: u64 = 16 << 20;

const NOT_PINNED: &str = "not-pinned";
const NOT_SECURED: &str = "not-secured";
const TRAPPED: &str = "trapped";

/// Run a module in memory that is committed before the module starts
///
/// The module may import WASI preview 1, and nothing else. It gets stdin, stdout, stderr and its
/// arguments, but no environment variables and no folders.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help_with(EXAMPLES))]
pub(crate) struct Opts {
    /// The module: binary, text or gzip; `-` is stdin
    #[arg(value_name = "MODULE")]
    module: Input,

    /// Call this export instead of `_start` with the numbers ARGS, and print its results
    #[arg(long, value_name = "NAME")]
    invoke: Option<String>,

    /// The size of each slot of committed memory, in 64 KiB pages. With `declared`, every memory
    /// must have this size, and the default is 65536. With `commit-maximum`, the default is the
    /// largest maximum of the module's memories
    #[arg(long, value_name = "N")]
    pages: Option<u64>,

    /// The number of memories to commit [default: the number that the module has]
    #[arg(long, value_name = "N")]
    slots: Option<usize>,

    /// The size of the engine's own heap, in bytes. It is committed for a module that uses
    /// exceptions, `externref` or GC types, and not for others
    #[arg(long, value_name = "N", default_value_t = DEFAULT_ENGINE_HEAP_BYTES)]
    engine_heap_bytes: u64,

    /// The number of elements that the module's tables can have together. Growth beyond it returns
    /// -1
    #[arg(long, value_name = "N", default_value_t = DEFAULT_TABLE_ELEMENTS)]
    table_elements: u64,

    /// Do not print what was secured
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    memory: memory::MemoryOpts,

    #[command(flatten)]
    limit: Limit,

    /// Arguments for the module
    #[arg(
        value_name = "ARGS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    args: Vec<String>,
}

/// The outcome, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Outcome {
    schema: u32,
    command: &'static str,
    exit: u8,
    module: String,
    module_bytes: Option<String>,
    policy: String,
    secured: Option<SecuredReport>,
    results: Vec<String>,
    error: Option<json::Failure>,
}

/// The reason why there is no result.
enum Failure {
    /// The memory was not verified or not secured, or the module trapped. `--json` prints the name
    /// as `kind`.
    No(&'static str, anyhow::Error),
    /// The module cannot be read, or cannot be run with these arguments.
    Usage(anyhow::Error),
}

impl Failure {
    fn context(self, name: &str) -> Self {
        match self {
            Self::No(kind, error) => Self::No(kind, error.context(name.to_owned())),
            Self::Usage(error) => Self::Usage(error.context(name.to_owned())),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Usage(error.into())
    }
}

pub(crate) fn run(opts: &Opts, json: bool) -> Result<u8> {
    let mut secured = None;
    let name = opts.module.name();
    // The message of an unreadable module has the name already.
    let module = opts.module.read(opts.limit).map_err(Failure::Usage);
    let executed = module.and_then(|module| {
        let executed = execute(opts, &module.wasm, &mut secured);
        executed.map_err(|failure| failure.context(&name))
    });
    let (exit, results, error) = match executed {
        Ok(results) => (exit::DONE, results, None),
        Err(Failure::No(kind, error)) => {
            let failure = json::Failure::of_kind(kind, format!("{error:#}"));
            (exit::NO, Vec::new(), Some(failure))
        }
        Err(Failure::Usage(error)) => (exit::USAGE, Vec::new(), Some(json::Failure::new(&error))),
    };
    if let Some(failure) = &error {
        failure.print();
    }
    let outcome = Outcome {
        schema: json::SCHEMA,
        command: "run",
        exit,
        module: name,
        module_bytes: opts.module.name_bytes(),
        policy: opts.memory.policy.to_string(),
        secured,
        results,
        error,
    };
    let mut results = outcome.results.iter();
    exit::ignore_broken_pipe(match json {
        true => print_json(&outcome),
        false => results.try_for_each(|result| writeln!(std::io::stdout(), "{result}")),
    })?;
    Ok(exit)
}

/// Runs the module, and returns the results of the function that is called. `secured` is set as soon
/// as the memory is secured, so that a later error does not hide it.
fn execute(
    opts: &Opts,
    wasm: &[u8],
    secured: &mut Option<SecuredReport>,
) -> Result<Vec<String>, Failure> {
    if Format::detect(wasm) == Format::Component {
        return Err(anyhow!("it is a component: give a core module").into());
    }
    let memories = memories(opts, wasm)?;
    if let Some(slots) = opts.slots.filter(|slots| *slots < memories.len()) {
        let count = memories.len();
        return Err(anyhow!("it has {count} memories: leave out `--slots {slots}`").into());
    }
    let pages = match opts.memory.policy {
        Policy::CommitMaximum => memories.iter().map(maximum_pages).max().unwrap_or(1),
        _ => MAX_PAGES,
    };
    let builder = MemoryPool::builder()
        .slots(opts.slots.unwrap_or(memories.len()))
        .pages(opts.pages.unwrap_or(pages));
    let builder = match opts.quiet {
        true => opts.memory.apply(builder),
        false => opts.memory.apply_with_progress(builder),
    };
    let mut prepared = builder
        .engine_heap_bytes(opts.engine_heap_bytes)
        .table_elements(opts.table_elements)
        .prepare();
    let engine = prepared.engine(&mut Config::new()).map_err(from_engine)?;
    let module = compile(&engine, wasm)?;
    let not_verified = |error| Failure::No(NOT_PINNED, memory::with_flags(error));
    // The store below has the pool's limiter.
    prepared.verify_limited(&module).map_err(not_verified)?;
    if !prepared.needs_engine_heap(&module).map_err(not_verified)? {
        prepared = prepared.without_engine_heap();
    }
    let mut linker: Linker<State> = Linker::new(&engine);
    add_to_linker_sync(&mut linker, |state: &mut State| &mut state.wasi).map_err(from_engine)?;
    // Imports and arguments are checked before 4 GiB are committed.
    linker
        .instantiate_pre(&module)
        .map_err(from_engine)
        .context("only WASI preview 1 is provided")?;
    let call = Call::read(opts, &module)?;

    let pool = prepared
        .secure()
        .map_err(|error| Failure::No(NOT_SECURED, memory::with_flags(error)))?;
    *secured = SecuredReport::new(&pool);
    if let (false, Some(report)) = (opts.quiet, &*secured) {
        eprintln!("secured: {}", report.message);
    }
    let mut wasi = WasiCtxBuilder::new();
    wasi.inherit_stdio()
        .arg(opts.module.name())
        .args(&opts.args);
    let state = State {
        wasi: wasi.build_p1(),
        limiter: pool.limiter(),
    };
    let mut store = Store::new(&engine, state);
    store.limiter(|state| &mut state.limiter);
    let instance = pool
        .instantiate(&linker, &mut store, &module)
        .map_err(|error| match error {
            InstantiateError::Engine(error) => Failure::No(TRAPPED, from_engine(error)),
            InstantiateError::Memory(error) => Failure::No(NOT_SECURED, memory::with_flags(error)),
        })?;
    call.run(&mut store, instance)
        .map_err(|error| Failure::No(TRAPPED, error))
}

fn compile(engine: &Engine, wasm: &[u8]) -> Result<Module> {
    let module = Module::new(engine, wasm).map_err(from_engine);
    module.map_err(
        |error| match format!("{error:#}").contains("legacy_exceptions") {
            true => error.context(
                "it uses legacy exceptions, which the engine does not run: compile it with `-mllvm \
             -wasm-use-legacy-eh=false`, or translate it with Binaryen's `wasm-opt \
             --translate-to-exnref`",
            ),
            false => error,
        },
    )
}

/// Returns the module's memories. With the policy `declared` they must be pinned.
fn memories(opts: &Opts, wasm: &[u8]) -> Result<Vec<Memory>, Failure> {
    let analysis = Analysis::new(wasm)?;
    if opts.memory.policy == Policy::Declared {
        analysis
            .verify(opts.pages.unwrap_or(MAX_PAGES))
            .map_err(|error| match error {
                VerifyError::NotPinned(violations) => {
                    let expected = Pages::of_all(opts.pages.unwrap_or(MAX_PAGES));
                    let line = |violation| flags::violation(violation, &expected);
                    let lines: Vec<_> = violations.iter().map(line).collect();
                    Failure::No(NOT_PINNED, anyhow!(lines.join("\n")))
                }
                // The cause itself has a kind and an offset.
                VerifyError::Unreadable(error) => error.into(),
            })?;
    }
    Ok(analysis.memories().cloned().collect())
}

/// Returns the size to which a memory can grow, in 64 KiB pages, and at least the smallest size of a
/// slot.
fn maximum_pages(memory: &Memory) -> u64 {
    memory.maximum.unwrap_or(MAX_PAGES).max(1)
}

/// The data of the module's store.
struct State {
    wasi: WasiP1Ctx,
    limiter: StoreLimiter,
}

/// The function call that the command line requests.
struct Call<'a> {
    function: &'a str,
    args: Vec<Val>,
    results: usize,
    /// The module is a library that must be initialized first.
    initialize: bool,
}

impl<'a> Call<'a> {
    fn read(opts: &'a Opts, module: &Module) -> Result<Self> {
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
                "it exports no function `{function}`: choose one with `--invoke` (it exports {})",
                known.join(", ")
            );
        };
        // The arguments of a program are passed by WASI.
        let given = match opts.invoke {
            Some(_) => opts.args.as_slice(),
            None => &[],
        };
        let args = arguments(given, ty.params()).with_context(|| format!("`{function}`"))?;
        let is_unit = |ty: ExternType| {
            ty.func()
                .is_some_and(|ty| ty.params().len() == 0 && ty.results().len() == 0)
        };
        Ok(Self {
            function,
            args,
            results: ty.results().len(),
            initialize: opts.invoke.is_some() && module.get_export(INITIALIZE).is_some_and(is_unit),
        })
    }

    /// Calls the function, and returns its results as text.
    fn run(&self, store: &mut Store<State>, instance: Instance) -> Result<Vec<String>> {
        let mut results = vec![Val::I32(0); self.results];
        let mut call = |name: &str, args: &[Val], results: &mut [Val]| {
            let function = instance.get_func(&mut *store, name);
            let function = function.with_context(|| format!("no function `{name}`"))?;
            match function.call(&mut *store, args, results) {
                Ok(()) => Ok(()),
                Err(error) => match error.downcast_ref() {
                    Some(I32Exit(0)) => Ok(()),
                    Some(I32Exit(status)) => bail!("it exited with status {status}"),
                    None if error.downcast_ref() == Some(&Trap::AllocationTooLarge) => {
                        let full = "the engine's own heap is full: raise `--engine-heap-bytes N`";
                        Err(from_engine(error).context(full))
                    }
                    None => Err(from_engine(error)),
                },
            }
        };
        if self.initialize {
            call(INITIALIZE, &[], &mut [])?;
        }
        call(self.function, &self.args, &mut results)?;
        Ok(results.iter().map(show).collect())
    }
}

fn arguments(given: &[String], types: impl ExactSizeIterator<Item = ValType>) -> Result<Vec<Val>> {
    ensure!(
        given.len() == types.len(),
        "takes {} arguments, and {} are given",
        types.len(),
        given.len()
    );
    let pairs = given.iter().zip(types);
    pairs
        .map(|(text, ty)| {
            Ok(match ty {
                // An integer may be written as signed or as unsigned.
                ValType::I32 => {
                    let unsigned = text.parse().map(u32::cast_signed);
                    Val::I32(unsigned.or_else(|_| text.parse())?)
                }
                ValType::I64 => {
                    let unsigned = text.parse().map(u64::cast_signed);
                    Val::I64(unsigned.or_else(|_| text.parse())?)
                }
                ValType::F32 => Val::F32(text.parse::<f32>()?.to_bits()),
                ValType::F64 => Val::F64(text.parse::<f64>()?.to_bits()),
                other => bail!("takes a {other}, which cannot be written on a command line"),
            })
        })
        .map(|read| read.context("cannot read its arguments"))
        .collect()
}

fn show(value: &Val) -> String {
    match value {
        Val::I32(value) => value.to_string(),
        Val::I64(value) => value.to_string(),
        Val::F32(bits) => f32::from_bits(*bits).to_string(),
        Val::F64(bits) => f64::from_bits(*bits).to_string(),
        other => format!("{other:?}"),
    }
}

fn from_engine(error: wasmtime::Error) -> anyhow::Error {
    anyhow::Error::from_boxed(error.into_boxed_dyn_error())
}
