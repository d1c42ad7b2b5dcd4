//! The usual host of an indexer: memory is reserved at its largest size, the instance for the next
//! block is made before the last one is dropped, and views run beside the blocks. `docs/migration.md`
//! turns it into `after.rs`.

#[path = "abi.rs"]
mod abi;

use std::path::Path;

use wasmtime::{Config, Engine, Instance, Linker, Module, Result, Store};

use crate::abi::State;

fn config() -> Config {
    let mut config = Config::new();
    config.memory_reservation(4 << 30);
    config.memory_init_cow(false);
    config.cranelift_nan_canonicalization(true);
    config
}

struct Indexer {
    engine: Engine,
    linker: Linker<State>,
    module: Module,
    running: Option<(Store<State>, Instance)>,
}

impl Indexer {
    fn load(guest: &Path) -> Result<Indexer> {
        let engine = Engine::new(&config())?;
        let linker = abi::linker(&engine)?;
        let module = Module::from_file(&engine, guest)?;
        Ok(Indexer {
            engine,
            linker,
            module,
            running: None,
        })
    }

    /// Makes the instance for the next block, and drops the last one.
    async fn refresh_memory(&mut self, input: &[u8]) -> Result<()> {
        let mut store = Store::new(&self.engine, State::new(input));
        let instance = self
            .linker
            .instantiate_async(&mut store, &self.module)
            .await?;
        self.running = Some((store, instance));
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
        let mut store = Store::new(&self.engine, State::new(input));
        let instance = self
            .linker
            .instantiate_async(&mut store, &self.module)
            .await?;
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
