//! (b) A block on a wasmtime host: instantiate a module, let it write some MiB, drop the instance.

use anyhow::{Result, bail};
use wasm_prealloc_host::{InstantiateError, MemoryPool, Policy, WasmtimePool};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, InstancePre, Linker, Module,
    PoolingAllocationConfig, Store, TypedFunc,
};

use super::{GIB, Row};
use crate::cost::Cost;

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

struct Contender {
    config: Config,
    limits: &'static str,
    step: u32,
    pool: Option<MemoryPool>,
    /// True if memory is secured for each block.
    anew: bool,
}

impl Contender {
    fn new(name: &str) -> Result<Contender> {
        let mut contender = Contender {
            config: Config::new(),
            limits: NATURAL,
            step: 16,
            pool: None,
            anew: false,
        };
        match name {
            "on-demand" => {}
            "pooling" => contender.pooling(PoolingAllocationConfig::default()),
            "pooling-tuned" | "pooling-tuned-scan" => {
                let mut pooling = PoolingAllocationConfig::default();
                pooling.linear_memory_keep_resident(4 * GIB);
                if name.ends_with("scan") {
                    pooling.pagemap_scan(Enabled::Yes);
                }
                contender.pooling(pooling);
            }
            "declared" => contender.secured(Policy::Declared, PINNED)?,
            "commit-maximum" => contender.secured(Policy::CommitMaximum, NATURAL)?,
            "commit-maximum-by-page" => {
                contender.step = 1;
                contender.secured(Policy::CommitMaximum, NATURAL)?;
            }
            "anew" => {
                contender.anew = true;
                contender.limits = PINNED;
            }
            other => bail!("no contender {other:?}"),
        }
        Ok(contender)
    }

    fn pooling(&mut self, mut pooling: PoolingAllocationConfig) {
        pooling.total_memories(1).max_memory_size(4 * GIB);
        let strategy = InstanceAllocationStrategy::Pooling(pooling);
        self.config.allocation_strategy(strategy);
    }

    fn secured(&mut self, policy: Policy, limits: &'static str) -> Result<()> {
        let pool = MemoryPool::builder().policy(policy).secure()?;
        pool.configure(&mut self.config);
        self.pool = Some(pool);
        self.limits = limits;
        Ok(())
    }

    fn guest(&self) -> String {
        GUEST
            .replace("LIMITS", self.limits)
            .replace("STEP", &self.step.to_string())
    }
}

pub(super) fn measure(name: &str) -> Result<Vec<Row>> {
    let contender = Contender::new(name)?;
    let guest = wat::parse_str(contender.guest())?;
    if contender.anew {
        return anew(&guest);
    }
    let host = Host::new(&contender.config, &guest)?;
    if let Some(pool) = &contender.pool {
        pool.verify(&host.module)?;
    }
    let mut rows = Vec::new();
    for (mib, rounds) in SIZES {
        let (mut costs, mut guest_costs) = (Vec::new(), Vec::new());
        // The first blocks of a size warm the pool.
        for round in 0..rounds + 4 {
            let mut in_guest = Cost::default();
            let cost = Cost::of(|| {
                in_guest = host.block(mib)?;
                Ok(())
            })?;
            if round >= 4 {
                costs.push(cost);
                guest_costs.push(in_guest);
            }
        }
        // Only faults that the guest takes count: a host can be killed at each of them.
        let faults = Cost::median(&guest_costs).faults;
        let cost = Cost::median(&costs);
        rows.push((mib, Cost { faults, ..cost }));
    }
    Ok(rows)
}

/// An engine, and the guest compiled and linked for it.
struct Host {
    engine: Engine,
    module: Module,
    linked: InstancePre<()>,
}

impl Host {
    fn new(config: &Config, guest: &[u8]) -> Result<Host, InstantiateError> {
        let engine = Engine::new(config)?;
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
        let mut costs = Vec::new();
        for _ in 0..3 {
            let pool = MemoryPool::builder().prepare();
            let mut config = Config::new();
            pool.configure(&mut config);
            let host = Host::new(&config, guest)?;
            costs.push(Cost::of(|| {
                let _pool = pool.secure()?;
                host.block(mib).map(|_| ())
            })?);
        }
        rows.push((mib, Cost::median(&costs)));
    }
    Ok(rows)
}
