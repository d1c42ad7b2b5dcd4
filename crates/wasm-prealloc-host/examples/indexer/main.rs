//! An indexer host: runs a guest once for each block, in a memory of a pool, and stores the values
//! that it flushes, a block whole or not at all. With `--unsecured` it behaves like a host without
//! this crate. With `--follow` it stays and indexes the blocks that are appended to a file.
//!
//! The functions that a guest can call are in `abi`, the database is in `store`, blocks are read in
//! `chain`, memory is in `memory`, and signals and systemd are in `service`.

mod abi;
mod chain;
mod memory;
mod service;
mod store;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Parser;
use wasm_prealloc_host::{InstantiateError, WasmtimePool};
use wasmtime::{Config, Engine, ExternType, Linker, Module, Store};

use crate::abi::Guest;
use crate::chain::{Follower, read_block, read_chain};
use crate::memory::{CheckedPool, MemoryOpts};
use crate::service::Service;
use crate::store::{Flushed, Index};

/// Every block was stored.
const EXIT_DONE: u8 = 0;
/// Memory was not secured, the module was not verified, or the guest trapped. Nothing of that
/// block was stored, nor of the blocks after it.
const EXIT_REFUSED: u8 = 1;
/// The command line is wrong, or an input cannot be read or is invalid. clap uses this status too.
const EXIT_USAGE: u8 = 2;

/// The interval at which a file of blocks is read.
const POLL: Duration = Duration::from_millis(100);

const AFTER_HELP: &str = "\
Exit status: 0 done; 1 memory not secured or taken away, module not verified, guest trapped, or
stopped by a signal with blocks left: nothing of that block is stored; 2 usage, or unreadable or
invalid input.

SIGTERM and SIGINT stop it before the next block; with --follow this is exit status 0.

Examples:
  indexer guest.wasm --block 3200000014000000 --db index.redb
  indexer guest.wasm --block block-7.bin --height 7 --db index.redb --log
  indexer guest.wasm --chain blocks.txt --db index.redb --policy commit-maximum
  indexer guest.wasm --chain blocks.txt --follow --db index.redb --ready-file /run/indexer/ready
  indexer --dump --db index.redb";

/// Index blocks with a wasm guest whose memory is secured before it runs.
#[derive(Parser)]
#[command(name = "indexer", after_help = AFTER_HELP)]
struct Opts {
    /// The guest, a binary wasm module that exports `_start`
    #[arg(required_unless_present = "dump")]
    module: Option<PathBuf>,
    /// A block: a file, or else its bytes in hexadecimal. Each runs in a new instance
    #[arg(
        long = "block",
        value_name = "HEX|FILE",
        required_unless_present_any = ["dump", "chain"]
    )]
    blocks: Vec<String>,
    /// A file of blocks in hexadecimal, one on each line; empty lines and comments after `#` are
    /// skipped
    #[arg(long, value_name = "FILE", conflicts_with = "blocks")]
    chain: Option<PathBuf>,
    /// Index the blocks that are appended to the chain's file until SIGTERM. Blocks whose height
    /// the database has are skipped
    #[arg(long, requires = "chain")]
    follow: bool,
    /// A file that exists while memory is secured and blocks can be indexed, for probes
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// The database, created when it is missing
    #[arg(long)]
    db: PathBuf,
    /// The height of the first block [default: one past the last that was indexed, or 0; with
    /// --follow 0]
    #[arg(long)]
    height: Option<u32>,
    /// Neither verify nor commit the guest's memory
    #[arg(long)]
    unsecured: bool,
    /// Print the guest's log on stderr
    #[arg(long)]
    log: bool,
    /// Print every stored key and value instead of indexing
    #[arg(long, conflicts_with_all = ["module", "blocks", "chain", "height", "unsecured", "log"])]
    dump: bool,
    #[command(flatten)]
    memory: MemoryOpts,
}

/// The cause of a failure, by exit status.
enum Failure {
    Refused(anyhow::Error),
    Input(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Input(error)
    }
}

fn main() -> ExitCode {
    let opts = Opts::parse();
    let result = match opts.dump {
        true => dump(&opts.db).map_err(Failure::from),
        false => index(&opts),
    };
    let (error, status) = match result {
        Ok(()) => return ExitCode::from(EXIT_DONE),
        Err(Failure::Refused(error)) => (error, EXIT_REFUSED),
        Err(Failure::Input(error)) => (error, EXIT_USAGE),
    };
    for (number, cause) in error.chain().enumerate() {
        let label = if number == 0 { "error" } else { "caused by" };
        eprintln!("{label}: {}", memory::in_flags(&cause.to_string()));
    }
    ExitCode::from(status)
}

fn index(opts: &Opts) -> Result<(), Failure> {
    let service = Service::start(opts.ready_file.clone())?;
    let given = match &opts.chain {
        Some(_) if opts.follow => vec![],
        Some(path) => read_chain(path)?,
        None => {
            let blocks = opts.blocks.iter().map(|block| read_block(block));
            blocks.collect::<Result<_, _>>()?
        }
    };
    let mut host = Host::new(opts)?;
    let index = Index::create(&opts.db)?;
    service.ready()?;
    let indexed = match &opts.chain {
        Some(path) if opts.follow => follow(opts, path, &mut host, &index, &service),
        _ => index_all(opts, &given, &mut host, &index, &service),
    };
    service.stop()?;
    host.report();
    indexed?;
    say(&format!("state root {}", index.state_root()?));
    Ok(())
}

/// Indexes the blocks that were given.
fn index_all(
    opts: &Opts,
    blocks: &[Vec<u8>],
    host: &mut Host,
    index: &Index,
    service: &Service,
) -> Result<(), Failure> {
    let mut height = match opts.height {
        Some(height) => height,
        None => index.next_height()?,
    };
    for (number, block) in blocks.iter().enumerate() {
        if number > 0 {
            height = after(height)?;
        }
        if service.is_stopped() {
            let stopped = anyhow!("stopped by a signal before block {height}");
            return Err(Failure::Refused(stopped));
        }
        index_block(opts, height, block, host, index)?;
    }
    Ok(())
}

/// Indexes the blocks of a file to which another process appends, until a signal stops it. A block
/// that an earlier process indexed is skipped.
fn follow(
    opts: &Opts,
    path: &Path,
    host: &mut Host,
    index: &Index,
    service: &Service,
) -> Result<(), Failure> {
    let next = index.next_height()?;
    let mut height = opts.height.unwrap_or(0);
    let mut blocks = Follower::new(path);
    let mut is_idle = false;
    while !service.is_stopped() {
        let Some(block) = blocks.next_block()? else {
            if !is_idle {
                service::set_status(&format!("waiting for block {height}"));
                is_idle = true;
            }
            host.check_if_due()?;
            thread::sleep(POLL);
            continue;
        };
        if height >= next {
            is_idle = false;
            index_block(opts, height, &block, host, index)?;
        }
        height = after(height)?;
    }
    Ok(())
}

fn after(height: u32) -> anyhow::Result<u32> {
    let next = height.checked_add(1);
    next.with_context(|| format!("no height after {height}"))
}

fn index_block(
    opts: &Opts,
    height: u32,
    block: &[u8],
    host: &mut Host,
    index: &Index,
) -> Result<(), Failure> {
    host.check_if_due()?;
    let guest = Guest::new(height, block, index.snapshot()?, opts.log);
    let flushed = host
        .run(guest)
        .with_context(|| format!("block {height} was not indexed"))
        .map_err(Failure::Refused)?;
    index
        .store_block(height, &flushed)
        .with_context(|| format!("block {height} was not stored"))?;
    say(&format!("block {height}: {} values stored", flushed.len()));
    Ok(())
}

/// A compiled guest, ready to be instantiated for each block.
struct Host {
    engine: Engine,
    linker: Linker<Guest>,
    module: Module,
    /// The memories of the guest, one for each block.
    pool: Option<CheckedPool>,
}

impl Host {
    fn new(opts: &Opts) -> Result<Host, Failure> {
        let mut config = Config::new();
        let prepared = (!opts.unsecured).then(|| opts.memory.builder().prepare());
        let engine = match &prepared {
            Some(prepared) => {
                wasm_prealloc_host::deterministic(&mut config);
                prepared.engine(&mut config)
            }
            None => Engine::new(&config),
        }
        .map_err(from_engine)?;
        let path = opts.module.as_deref().unwrap_or(Path::new(""));
        let module = load(&engine, path)?;
        if let Some(prepared) = &prepared {
            // The stores below have the pool's limiter.
            let verified = prepared.verify_limited(&module);
            verified
                .with_context(|| format!("{} is not verified", path.display()))
                .map_err(Failure::Refused)?;
        }
        let linker = abi::linker(&engine)
            .and_then(|linker| {
                // Reports missing imports before the first block.
                linker.instantiate_pre(&module)?;
                Ok(linker)
            })
            .map_err(from_engine)
            .with_context(|| format!("{} does not fit this host", path.display()))?;
        let pool = prepared.map(|prepared| prepared.secure().context("no block was begun"));
        let pool = pool.transpose().map_err(Failure::Refused)?;
        let interval = opts.memory.check_interval();
        let pool = pool.map(|pool| CheckedPool::new(pool, interval));
        if let Some(pool) = &pool {
            pool.report_secured();
        }
        Ok(Host {
            engine,
            linker,
            module,
            pool,
        })
    }

    /// Checks at intervals that all of the memory is still there.
    fn check_if_due(&mut self) -> Result<(), Failure> {
        let Some(pool) = &mut self.pool else {
            return Ok(());
        };
        let checked = pool.check_if_due();
        checked
            .context("secured memory was taken away, so no further block is begun")
            .map_err(Failure::Refused)
    }

    /// Prints the statistics of the pool.
    fn report(&self) {
        if let Some(pool) = &self.pool {
            eprintln!("{pool}");
        }
    }

    /// Runs one block in a new instance, and returns the values that it flushed. The instance's
    /// memory goes back to the pool with the store.
    fn run(&self, mut guest: Guest) -> anyhow::Result<Flushed> {
        if let Some(CheckedPool { pool, .. }) = &self.pool {
            guest.limiter = Box::new(pool.limiter());
        }
        let mut store = Store::new(&self.engine, guest);
        store.limiter(|guest| &mut *guest.limiter);
        let instance = match &self.pool {
            Some(CheckedPool { pool, .. }) => pool
                .instantiate(&self.linker, &mut store, &self.module)
                .map_err(|error| match error {
                    InstantiateError::Engine(error) => from_engine(error),
                    refusal => refusal.into(),
                })?,
            None => self
                .linker
                .instantiate(&mut store, &self.module)
                .map_err(from_engine)?,
        };
        instance
            .get_typed_func::<(), ()>(&mut store, "_start")
            .and_then(|start| start.call(&mut store, ()))
            .map_err(from_engine)?;
        Ok(store.into_data().into_flushed())
    }
}

fn load(engine: &Engine, path: &Path) -> anyhow::Result<Module> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let module = Module::new(engine, bytes)
        .map_err(from_engine)
        .with_context(|| format!("{} is not a valid module", path.display()))?;
    match module.get_export("_start") {
        Some(ExternType::Func(ty)) if ty.params().len() == 0 && ty.results().len() == 0 => {
            Ok(module)
        }
        _ => Err(anyhow!(
            "{} does not export a function `_start` without parameters and results",
            path.display()
        )),
    }
}

fn dump(path: &Path) -> anyhow::Result<()> {
    for (key, value) in Index::open(path)?.all()? {
        say(&format!("{} = {}", as_text(&key), as_text(&value)));
    }
    Ok(())
}

/// Formats printable text unchanged, and everything else in hexadecimal.
fn as_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("0x{digits}")
        }
    }
}

/// Prints a line. A closed pipe is not an error.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn from_engine(error: wasmtime::Error) -> anyhow::Error {
    anyhow::Error::from_boxed(error.into_boxed_dyn_error())
}
