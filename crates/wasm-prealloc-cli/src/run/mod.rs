//! `wasm-prealloc run`: runs a program in memory that is committed before the program starts.
//!
//! `opts` has the flags, `prepare` what happens before the commit, `program` the two kinds of programs,
//! `time_limit` their time, and `outcome` what is printed.

mod component;
mod core_module;
mod opts;
mod outcome;
mod prepare;
mod program;
mod time_limit;
mod values;
mod wasi;

use anyhow::Result;
use wasm_prealloc_host::{InstantiateError, WasmtimePool as _};
use wasmtime::Store;
use wasmtime_wasi::p1::WasiP1Ctx;

pub(crate) use opts::Opts;

use crate::json::PoolReport;
use outcome::{Ended, Failure, Report};
use prepare::Prepared;
use wasi::State;

pub(crate) fn run(opts: &Opts, json: bool) -> Result<u8> {
    let args = opts.args()?;
    let name = opts.module.name();
    let mut memory = PoolReport::default();
    // The message of an unreadable module has the name already.
    let module = opts.module.read(opts.limit).map_err(Failure::Invalid);
    let ended = module.and_then(|module| {
        let prepared = || {
            let wasi = wasi::context(opts, &name, &args, json)?;
            Ok((Prepared::new(opts, &args, &module.wasm)?, wasi))
        };
        let ended =
            prepared().and_then(|(prepared, wasi)| execute(opts, prepared, wasi, &mut memory));
        ended.map_err(|failure| failure.context(&name))
    });
    Report::new(opts, &opts.module, memory, ended).print(json)
}

/// Secures the memory, and runs the program. `memory` is set as soon as the memory is secured, so
/// that a later error does not hide it.
fn execute(
    opts: &Opts,
    prepared: Prepared,
    wasi: WasiP1Ctx,
    memory: &mut PoolReport,
) -> Result<Ended, Failure> {
    let Prepared {
        pool,
        engine,
        program,
    } = prepared;
    let pool = pool.secure().map_err(Failure::not_secured)?;
    opts.memory.warn_if_unsecured(&pool);
    *memory = PoolReport::new(&pool);
    if let (false, Some(report)) = (opts.quiet, &memory.secured) {
        eprintln!("secured: {}", report.message);
    }
    let limiter = pool.limiter();
    let mut store = Store::new(&engine, State { wasi, limiter });
    store.limiter(|state| &mut state.limiter);
    if let Some(fuel) = opts.fuel {
        store.set_fuel(fuel).map_err(from_engine)?;
    }
    if opts.timeout.is_some() {
        // The first increment of the epoch is the end of the time.
        store.set_epoch_deadline(1);
    }
    let run = move || program.run(&pool, &mut store);
    match time_limit::run_within(opts.timeout, &engine, run)? {
        Some(Ok(ended)) => Ok(ended),
        Some(Err(InstantiateError::Memory(error))) => Err(Failure::not_secured(error)),
        Some(Err(InstantiateError::Engine(error))) => outcome::ended(opts, error),
        None => Err(Failure::timed_out(
            opts,
            anyhow::anyhow!("it waits in a call of the system"),
        )),
    }
}

fn from_engine(error: wasmtime::Error) -> anyhow::Error {
    anyhow::Error::from_boxed(error.into_boxed_dyn_error())
}
