//! (b) A block on a wasmtime host: instantiate a module, let it write some MiB, drop the instance.

use anyhow::{Result, bail};
use wasm_prealloc_host::{InstantiateError, MemoryPool, Policy, Reset, Tracking, WasmtimePool};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, InstancePre, Linker, Module,
    PoolingAllocationConfig, Store, TypedFunc,
};

use super::memory::GIB;
use crate::cost::{Cost, Row};

/// A guest with a small memory, as linkers make it. It grows the memory by `STEP` pages at a time
/// (16 pages are 1 MiB), as allocators do, and writes all of it.
const GUEST: &str = r#"(module
    (memory (export "memory") LIMITS)
    (data (i32.const 1024) "a data segment, as in every guest")
    (func (export "run") (param $mib i32)
        (local $pages i32)
        (local.set $pages (i32.add (i32.const 17) (i32.shl (local.get $mib) (i32.const 4))))
        (block $enough
            (loop $more
                (br_if $enough (i32.ge_u (memory.size) (local.get $pages)))
                (if (i32.eq (memory.grow (i32.const STEP)) (i32.const -1)) (then unreachable))
                (br $more)))
        (memory.fill
            (i32.const 65536) (i32.const 0xa5) (i32.shl (local.get $mib) (i32.const 20)))))"#;

const NATURAL: &str = "17";
const PINNED: &str = "65536 65536";

/// Sizes in MiB that the guest writes, each with its number of rounds.
const SIZES: [(usize, usize); 5] = [(0, 300), (1, 200), (10, 60), (100, 20), (1000, 5)];

fn guest(contender: &str) -> Result<Vec<u8>> {
    let (limits, step) = match contender {
        "declared" | "declared-background" | "denied" | "denied-background" | "anew" => {
            (PINNED, "16")
        }
        "commit-maximum-by-page" => (NATURAL, "1"),
        _ => (NATURAL, "16"),
    };
    let text = GUEST.replace("LIMITS", limits).replace("STEP", step);
    Ok(wat::parse_str(text)?)
}

/// Makes an engine for a contender. Also returns the pool if the contender uses one.
fn engine(contender: &str) -> Result<(Engine, Option<MemoryPool>)> {
    let mut config = Config::new();
    let policy = match contender {
        "declared" | "declared-background" | "denied" | "denied-background" => Policy::Declared,
        "commit-maximum" | "commit-maximum-by-page" | "commit-maximum-background" => {
            Policy::CommitMaximum
        }
        "on-demand" => return Ok((made(&config)?, None)),
        "pooling" | "pooling-tuned" | "pooling-tuned-scan" => {
            let mut pooling = PoolingAllocationConfig::default();
            pooling.total_memories(1).max_memory_size(4 * GIB);
            if contender != "pooling" {
                pooling.linear_memory_keep_resident(4 * GIB);
            }
            if contender.ends_with("scan") {
                pooling.pagemap_scan(Enabled::Yes);
            }
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling));
            return Ok((made(&config)?, None));
        }
        other => bail!("no contender {other:?}"),
    };
    let mut builder = MemoryPool::builder().policy(policy);
    if contender.starts_with("denied") {
        builder = builder.tracking(Tracking::Off);
    }
    if contender.ends_with("background") {
        builder = builder.slots(2).reset(Reset::Background);
    }
    let pool = builder.secure()?;
    let engine = pool.engine(&mut config).map_err(InstantiateError::from)?;
    Ok((engine, Some(pool)))
}

fn made(config: &Config) -> Result<Engine, InstantiateError> {
    Ok(Engine::new(config)?)
}

pub(super) fn measure(contender: &str) -> Result<Vec<Row>> {
    let guest = guest(contender)?;
    if contender == "anew" {
        return anew(&guest);
    }
    let (engine, pool) = engine(contender)?;
    let host = Host::new(engine, &guest)?;
    if let Some(pool) = &pool {
        pool.verify(&host.module)?;
    }
    // Zeroing everything takes the same time at each size, and much of it.
    let sizes = match contender.starts_with("denied") {
        true => [(0, 20), (1, 20)].as_slice(),
        false => SIZES.as_slice(),
    };
    let mut rows = Vec::new();
    for &(mib, rounds) in sizes {
        // The first blocks of a size warm the pool.
        let cost = Cost::repeated(4, rounds, || {
            let mut in_guest = Cost::default();
            wait_for_resets(pool.as_ref());
            let cost = Cost::of(|| {
                in_guest = host.block(mib)?;
                Ok(())
            })?;
            // Only faults that the guest takes count: a host can be killed at each of them.
            let faults = in_guest.faults;
            Ok(Cost { faults, ..cost })
        });
        rows.push((mib, cost?));
    }
    Ok(rows)
}

/// Waits until the pool's thread has nothing to reset, so that the time of a block is its own.
fn wait_for_resets(pool: Option<&MemoryPool>) {
    while pool.is_some_and(|pool| pool.statistics().resetting > 0) {
        std::thread::yield_now();
    }
}

/// An engine, and the guest compiled and linked for it.
struct Host {
    engine: Engine,
    module: Module,
    linked: InstancePre<()>,
}

impl Host {
    fn new(engine: Engine, guest: &[u8]) -> Result<Host, InstantiateError> {
        let module = Module::new(&engine, guest)?;
        Ok(Host {
            linked: Linker::new(&engine).instantiate_pre(&module)?,
            engine,
            module,
        })
    }

    /// Runs one block. Returns the cost of the guest's own run.
    fn block(&self, mib: usize) -> Result<Cost> {
        let mut store = Store::new(&self.engine, ());
        let run = self.instantiate(&mut store)?;
        Cost::of(|| {
            let ran = run.call(&mut store, mib as i32);
            Ok(ran.map_err(InstantiateError::from)?)
        })
    }

    fn instantiate(&self, store: &mut Store<()>) -> Result<TypedFunc<i32, ()>, InstantiateError> {
        let instance = self.linked.instantiate(&mut *store)?;
        Ok(instance.get_typed_func(store, "run")?)
    }
}

/// Secures memory for each block, and releases it with the block.
fn anew(guest: &[u8]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (mib, _) in SIZES {
        let cost = Cost::repeated(0, 3, || {
            let pool = MemoryPool::builder().prepare();
            let engine = pool.engine(&mut Config::new());
            let host = Host::new(engine.map_err(InstantiateError::from)?, guest)?;
            Cost::of(|| {
                let _pool = pool.secure()?;
                host.block(mib).map(drop)
            })
        });
        rows.push((mib, cost?));
    }
    Ok(rows)
}
