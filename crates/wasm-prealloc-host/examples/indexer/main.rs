//! An indexer host: runs a guest once for each block, in a memory of a pool, and stores the values
//! that it flushes, a block whole or not at all. With `--unsecured` it behaves like a host without
//! this crate.
//!
//! The functions that a guest can call are in `abi`, the database is in `store`.

mod abi;
mod store;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::Parser;
use wasm_prealloc_host::{DEFAULT_PAGES, InstantiateError, MemoryPool, Policy, WasmtimePool};
use wasmtime::{Config, Engine, ExternType, Linker, Module, Store};

use crate::abi::Guest;
use crate::store::{Flushed, Index};

/// Every block was stored.
const EXIT_DONE: u8 = 0;
/// Memory was not secured, the module was not verified, or the guest trapped. Nothing of that
/// block was stored, nor of the blocks after it.
const EXIT_REFUSED: u8 = 1;
/// The command line is wrong, or an input cannot be read or is invalid. clap uses this status too.
const EXIT_USAGE: u8 = 2;

const AFTER_HELP: &str = "\
Exit status: 0 done; 1 memory not secured, module not verified, or guest trapped: nothing of that
block is stored; 2 usage, or unreadable or invalid input.

Examples:
  indexer guest.wasm --block 3200000014000000 --db index.redb
  indexer guest.wasm --block block-7.bin --height 7 --db index.redb --log
  indexer guest.wasm --chain blocks.txt --db index.redb --policy commit-maximum
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
    /// The database, created when it is missing
    #[arg(long)]
    db: PathBuf,
    /// The height of the first block [default: one past the last that was indexed, or 0]
    #[arg(long)]
    height: Option<u32>,
    /// The size that the guest's memory must have, in wasm pages of 64 KiB
    #[arg(long, default_value_t = DEFAULT_PAGES)]
    pages: u64,
    /// `declared` if the guest declares that size as minimum and maximum, `commit-maximum` if it is
    /// unchanged
    #[arg(long, default_value_t = Policy::Declared, value_name = "declared|commit-maximum")]
    policy: Policy,
    /// Neither verify nor commit the guest's memory
    #[arg(long)]
    unsecured: bool,
    /// Print the guest's log on stderr
    #[arg(long)]
    log: bool,
    /// Print every stored key and value instead of indexing
    #[arg(long, conflicts_with_all = ["module", "blocks", "chain", "height", "unsecured", "log"])]
    dump: bool,
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
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("caused by: {cause}");
    }
    ExitCode::from(status)
}

fn index(opts: &Opts) -> Result<(), Failure> {
    let blocks = match &opts.chain {
        Some(path) => read_chain(path),
        None => opts.blocks.iter().map(|block| read_block(block)).collect(),
    }?;
    let host = Host::new(opts)?;
    let index = Index::create(&opts.db)?;
    let mut height = match opts.height {
        Some(height) => height,
        None => index.next_height()?,
    };
    for (number, block) in blocks.iter().enumerate() {
        if number > 0 {
            height = height
                .checked_add(1)
                .with_context(|| format!("no height after {height}"))?;
        }
        let guest = Guest::new(height, block, index.snapshot()?, opts.log);
        let flushed = host
            .run(guest)
            .with_context(|| format!("block {height} was not indexed"))
            .map_err(Failure::Refused)?;
        index
            .store_block(height, &flushed)
            .with_context(|| format!("block {height} was not stored"))?;
        say(&format!("block {height}: {} values stored", flushed.len()));
    }
    say(&format!("state root {}", index.state_root()?));
    Ok(())
}

/// A compiled guest, ready to be instantiated for each block.
struct Host {
    engine: Engine,
    linker: Linker<Guest>,
    module: Module,
    /// The memories of the guest, one for each block.
    pool: Option<MemoryPool>,
}

impl Host {
    fn new(opts: &Opts) -> Result<Host, Failure> {
        let mut config = Config::new();
        let prepared = (!opts.unsecured).then(|| {
            let builder = MemoryPool::builder().pages(opts.pages).policy(opts.policy);
            builder.prepare()
        });
        if let Some(prepared) = &prepared {
            wasm_prealloc_host::deterministic(&mut config);
            prepared.configure(&mut config);
        }
        let engine = Engine::new(&config).map_err(from_engine)?;
        let path = opts.module.as_deref().unwrap_or(Path::new(""));
        let module = load(&engine, path)?;
        if let Some(prepared) = &prepared {
            let verified = prepared.verify(&module);
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
        if let Some(done) = pool.as_ref().and_then(MemoryPool::secured) {
            eprintln!("secured: {done}");
        }
        Ok(Host {
            engine,
            linker,
            module,
            pool,
        })
    }

    /// Runs one block in a new instance, and returns the values that it flushed. The instance's
    /// memory goes back to the pool with the store.
    fn run(&self, guest: Guest) -> anyhow::Result<Flushed> {
        let mut store = Store::new(&self.engine, guest);
        let instance = match &self.pool {
            Some(pool) => pool
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

/// Reads a block: the file of that name if there is one, else bytes in hexadecimal.
fn read_block(block: &str) -> anyhow::Result<Vec<u8>> {
    if Path::new(block).is_file() {
        return std::fs::read(block).with_context(|| format!("cannot read {block}"));
    }
    from_hexadecimal(block)
        .ok_or_else(|| anyhow!("the block {block:?} is neither a file nor hexadecimal"))
}

/// Reads the blocks of a file, one on each line.
fn read_chain(path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut blocks = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let block = line.split('#').next().unwrap_or_default().trim();
        if !block.is_empty() {
            let bytes = from_hexadecimal(block);
            let at = || format!("{}:{number}: not hexadecimal", path.display());
            blocks.push(bytes.with_context(at)?);
        }
    }
    Ok(blocks)
}

fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_prefix("0x").unwrap_or(text);
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits?;
    let (pairs, rest) = digits.as_chunks();
    // Two hexadecimal digits fit into a byte.
    let bytes = pairs.iter().map(|[high, low]| (high * 16 + low) as u8);
    rest.is_empty().then(|| bytes.collect())
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
