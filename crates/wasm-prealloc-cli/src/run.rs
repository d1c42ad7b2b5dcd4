//! `wasm-prealloc run`: runs a module in memory that is committed before any of it runs.

use anyhow::{Context, Result, bail, ensure};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use wasm_prealloc::{MAX_PAGES, Memory, VerifyError, inspect, verify};
use wasm_prealloc_host::{InstantiateError, MemoryPool, Policy, WasmtimePool};
use wasmtime::{Config, Engine, ExternType, Instance, Linker, Module, Store, Val, ValType};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p1::{WasiP1Ctx, add_to_linker_sync};

use crate::io::{Input, print_json};
use crate::json::SecuredReport;
use crate::{exit, json, memory};

const EXAMPLES: &[&str] = &[
    "wasm-prealloc run program.wasm one two",
    "wasm-prealloc run --invoke add sum.wasm 1 2",
    "wasm-prealloc run --policy commit-maximum untouched.wasm",
];

/// The function that a program starts with.
const START: &str = "_start";
/// The function that a library wants to be called first.
const INITIALIZE: &str = "_initialize";

const NOT_PINNED: &str = "not-pinned";
const NOT_SECURED: &str = "not-secured";
const TRAPPED: &str = "trapped";

/// Run a module in memory that is committed before any of it runs
///
/// The module imports nothing, or WASI preview 1. It gets stdin, stdout, stderr and its arguments,
/// and neither environment variables nor folders.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help_with(EXAMPLES))]
pub(crate) struct Opts {
    /// The module, text or binary; `-` is stdin
    #[arg(value_name = "MODULE", value_parser = Input::parse)]
    module: Input,

    /// Call this export instead of `_start`; ARGS are its numbers, and what it gives is printed
    #[arg(long, value_name = "NAME")]
    invoke: Option<String>,

    /// The size of each slot of committed memory, in 64 KiB pages. Under `declared` it is what
    /// every memory must have, by default 65536; under `commit-maximum` the default is the largest
    /// maximum of the module's memories
    #[arg(long, value_name = "N")]
    pages: Option<u64>,

    /// What the module has to declare, and what it sees
    #[arg(long, value_name = "POLICY", default_value_t, value_parser = policies())]
    policy: Policy,

    /// How many memories are committed [default: as many as the module has]
    #[arg(long, value_name = "N")]
    slots: Option<usize>,

    /// Do not say what was secured
    #[arg(short, long)]
    quiet: bool,

    /// Print the outcome as JSON, behind what the module itself prints
    #[arg(long)]
    json: bool,

    /// Arguments for the module
    #[arg(
        value_name = "ARGS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    args: Vec<String>,
}

/// Parses the policies of the pool by name, and describes them in the help.
fn policies() -> impl TypedValueParser<Value = Policy> {
    let policies = [
        (
            Policy::Declared,
            "Its minimum and its maximum are equal, and all of that is accessible",
        ),
        (
            Policy::CommitMaximum,
            "It is as it came: its maximum is committed, and it sees its current size",
        ),
    ];
    let values = policies.map(|(policy, help)| PossibleValue::new(policy.as_str()).help(help));
    PossibleValuesParser::new(values).try_map(|name| name.parse())
}

/// How a run ended, as `--json` tells it.
#[derive(Debug, Serialize)]
struct Outcome {
    schema: u32,
    command: &'static str,
    exit: u8,
    module: String,
    policy: String,
    secured: Option<SecuredReport>,
    results: Vec<String>,
    error: Option<json::Failure>,
}

/// Why there is no result, by whose fault it is.
enum Failure {
    /// The memory was not verified or not secured, or the module trapped: which of them `--json`
    /// says by this name.
    No(&'static str, anyhow::Error),
    /// The module cannot be run at all, or not that way.
    Question(anyhow::Error),
}

pub(crate) fn run(opts: &Opts) -> Result<u8> {
    let mut secured = None;
    let ran = execute(opts, &mut secured);
    let mut outcome = Outcome {
        schema: json::SCHEMA,
        command: "run",
        exit: exit::DONE,
        module: opts.module.name(),
        policy: opts.policy.to_string(),
        secured,
        results: Vec::new(),
        error: None,
    };
    let (code, failure) = match ran {
        Ok(results) => {
            outcome.results = results;
            (exit::DONE, None)
        }
        Err(Failure::No(kind, error)) => {
            let error = error.context(opts.module.name());
            let failure = json::Failure::of_kind(kind, format!("{error:#}"));
            (exit::NO, Some(failure))
        }
        Err(Failure::Question(error)) => {
            let failure = json::Failure::new(&error.context(opts.module.name()));
            (exit::BAD_QUESTION, Some(failure))
        }
    };
    outcome.exit = code;
    if let Some(failure) = &failure {
        failure.print();
    }
    outcome.error = failure;
    if opts.json {
        print_json(&outcome)?;
    } else {
        use std::io::Write as _;
        for result in &outcome.results {
            writeln!(std::io::stdout(), "{result}")?;
        }
    }
    Ok(code)
}

/// Runs the module, and gives what the function that was called gives. What was secured for it is
/// known even where that is an error.
fn execute(opts: &Opts, secured: &mut Option<SecuredReport>) -> Result<Vec<String>, Failure> {
    let wasm = opts.module.read().map_err(Failure::Question)?.wasm;
    let policy = opts.policy;
    let pages = opts.pages.unwrap_or(MAX_PAGES);
    if policy == Policy::Declared {
        verify(&wasm, pages).map_err(|error| match error {
            VerifyError::NotPinned(_) => Failure::No(NOT_PINNED, error.into()),
            // The cause itself, so that what it is called and where it is can be told.
            VerifyError::Unreadable(error) => Failure::Question(error.into()),
        })?;
    }
    let inspection = inspect(&wasm).map_err(|error| Failure::Question(error.into()))?;
    let memories: Vec<_> = inspection
        .memories()
        .map(|inspected| &inspected.memory)
        .collect();
    let pages = match (policy, opts.pages) {
        (Policy::CommitMaximum, None) => memories
            .iter()
            .map(|memory| maximum_pages(memory))
            .max()
            .unwrap_or(1),
        _ => pages,
    };
    let mut builder = MemoryPool::builder()
        .slots(opts.slots.unwrap_or(memories.len()))
        .pages(pages)
        .policy(policy);
    if !opts.quiet {
        builder = memory::shown(builder);
    }
    let prepared = builder.prepare();
    let mut config = Config::new();
    prepared.configure(&mut config);
    let question = |error: wasmtime::Error| Failure::Question(from_engine(error));
    let engine = Engine::new(&config).map_err(question)?;
    let module = Module::new(&engine, &wasm).map_err(question)?;
    prepared
        .verify(&module)
        .map_err(|error| Failure::No(NOT_PINNED, error.into()))?;
    let mut linker: Linker<WasiP1Ctx> = Linker::new(&engine);
    add_to_linker_sync(&mut linker, |wasi| wasi).map_err(question)?;
    // What can be found wrong with the question is found before 4 GiB are committed for it.
    linker
        .instantiate_pre(&module)
        .map_err(from_engine)
        .context("only WASI preview 1 is provided")
        .map_err(Failure::Question)?;
    let called = Call::read(opts, &module).map_err(Failure::Question)?;

    let pool = prepared
        .secure()
        .map_err(|error| Failure::No(NOT_SECURED, error.into()))?;
    *secured = SecuredReport::new(&pool);
    if let (false, Some(report)) = (opts.quiet, &*secured) {
        eprintln!("secured: {}", report.message);
    }
    let mut wasi = WasiCtxBuilder::new();
    wasi.inherit_stdio()
        .arg(opts.module.name())
        .args(&opts.args);
    let mut store = Store::new(&engine, wasi.build_p1());
    let instance = pool
        .instantiate(&linker, &mut store, &module)
        .map_err(|error| match error {
            InstantiateError::Engine(error) => Failure::No(TRAPPED, from_engine(error)),
            refusal => Failure::No(NOT_SECURED, refusal.into()),
        })?;
    called
        .make(&mut store, instance)
        .map_err(|error| Failure::No(TRAPPED, error))
}

/// How large a memory can become, in 64 KiB pages. Not less than a slot can be.
fn maximum_pages(memory: &Memory) -> u64 {
    memory.maximum.unwrap_or(MAX_PAGES).max(1)
}

/// The call that the command line asks for.
struct Call<'a> {
    function: &'a str,
    args: Vec<Val>,
    results: usize,
    /// Whether the module is a library that wants to be initialized first.
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
            bail!(
                "it exports no function `{function}`: choose one with `--invoke` (it exports {})",
                match known.is_empty() {
                    true => "none".to_owned(),
                    false => known.join(", "),
                }
            );
        };
        // A program gets its arguments from WASI.
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

    /// Makes the call. Nothing that was found in the module can be missing in its instance.
    fn make(&self, store: &mut Store<WasiP1Ctx>, instance: Instance) -> Result<Vec<String>> {
        let mut results = vec![Val::I32(0); self.results];
        let mut call = |name: &str, args: &[Val], results: &mut [Val]| {
            let function = instance.get_func(&mut *store, name);
            let function = function.with_context(|| format!("no function `{name}`"))?;
            match function.call(&mut *store, args, results) {
                Ok(()) => Ok(()),
                Err(error) => match error.downcast_ref() {
                    Some(I32Exit(0)) => Ok(()),
                    Some(I32Exit(status)) => bail!("it exited with status {status}"),
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

/// Reads the arguments of a function from text.
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
                // Both ways of reading an integer's bits are common.
                ValType::I32 => Val::I32(match text.parse::<u32>() {
                    Ok(unsigned) => unsigned.cast_signed(),
                    Err(_) => text.parse()?,
                }),
                ValType::I64 => Val::I64(match text.parse::<u64>() {
                    Ok(unsigned) => unsigned.cast_signed(),
                    Err(_) => text.parse()?,
                }),
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
