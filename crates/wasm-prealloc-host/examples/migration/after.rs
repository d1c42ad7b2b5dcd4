//! The host of `before.rs` with secured memory: it starts with the memory of the block and of all
//! views, or is refused, and no instance takes more. `docs/migration.md` explains each change.

#[path = "abi.rs"]
mod abi;

use std::path::Path;

use wasm_prealloc_host::{MemoryPool, PreparedPool, Reset, WasmtimePool};
use wasmtime::{Config, Instance, Linker, Module, Result, Store};

use crate::abi::State;

/// The memory that a block and a view can have at most, in pages of 64 KiB.
const BLOCK_PAGES: u64 = 65_536;
const VIEW_PAGES: u64 = 4_096;
/// Views that run at the same time. One more waits.
const VIEWS: usize = 4;

fn config() -> Config {
    let mut config = Config::new();
    wasm_prealloc_host::deterministic(&mut config);
    config
}

struct Indexer {
    blocks: Guests,
    views: Guests,
    running: Option<(Store<State>, Instance)>,
}

/// The guest, compiled for the memories of one pool.
struct Guests {
    linker: Linker<State>,
    module: Module,
    pool: PreparedPool,
}

impl Guests {
    fn load(guest: &Path, slots: usize, pages: u64) -> Result<Guests> {
        let pool = MemoryPool::builder()
            .slots(slots)
            .cap(pages)
            .reset(Reset::Background)
            .prepare();
        let engine = pool.engine(&mut config())?;
        let linker = abi::linker(&engine)?;
        let module = Module::from_file(&engine, guest)?;
        pool.verify(&module)?;
        Ok(Guests {
            linker,
            module,
            pool,
        })
    }

    async fn instantiate(&self, input: &[u8]) -> Result<(Store<State>, Instance)> {
        let mut store = Store::new(self.module.engine(), State::new(input));
        let instance = self
            .pool
            .instantiate_async(&self.linker, &mut store, &self.module)
            .await?;
        Ok((store, instance))
    }
}

impl Indexer {
    fn load(guest: &Path) -> Result<Indexer> {
        let blocks = Guests::load(guest, 1, BLOCK_PAGES)?;
        let views = Guests::load(guest, VIEWS, VIEW_PAGES)?;
        MemoryPool::secure_all([&blocks.pool, &views.pool])?;
        Ok(Indexer {
            blocks,
            views,
            running: None,
        })
    }

    /// Drops the last instance, and makes the one for the next block.
    async fn refresh_memory(&mut self, input: &[u8]) -> Result<()> {
        self.running = None;
        self.running = Some(self.blocks.instantiate(input).await?);
        Ok(())
    }

    /// Runs a block, and returns what the guest flushed.
    async fn block(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        self.refresh_memory(input).await?;
        let Some((store, instance)) = &mut self.running else {
            return Ok(Vec::new());
        };
        call(store, *instance).await
    }

    /// Runs a view or a preview of a block beside the blocks.
    async fn view(&self, input: &[u8]) -> Result<Vec<u8>> {
        let (mut store, instance) = self.views.instantiate(input).await?;
        call(&mut store, instance).await
    }
}

async fn call(store: &mut Store<State>, instance: Instance) -> Result<Vec<u8>> {
    let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
    start.call_async(&mut *store, ()).await?;
    Ok(std::mem::take(&mut store.data_mut().flushed))
}

/// Runs each input as a block, with a view of it before.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let guest = arguments.next().unwrap_or_default();
    let mut indexer = Indexer::load(Path::new(&guest))?;
    for (height, block) in (0_u32..).zip(arguments) {
        let input = abi::input(height, &block);
        let view = indexer.view(&input).await?;
        let flushed = indexer.block(&input).await?;
        println!(
            "block {height}: {} bytes, {}",
            flushed.len(),
            view == flushed
        );
    }
    Ok(())
}
