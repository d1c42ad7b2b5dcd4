//! Runs a module in wasmtime and observes it: results, traps, globals, tables and memories.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow};
use wasmtime::{
    Config, Engine, Extern, ExternType, FrameInfo, GcHeapOutOfMemory, Instance, Memory, MemoryType,
    Module, OptLevel, ResourceLimiter, SharedMemory, Store, ThrownException, Trap, Val, ValType,
    WasmBacktrace,
};

/// A limit for the growth of memories.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Growth {
    /// Memories may grow up to this size in bytes.
    UpTo(u64),
    /// Memories may not grow, as in a host that commits all memory in advance.
    Refused,
}

impl ResourceLimiter for Growth {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(match *self {
            Self::UpTo(bytes) => desired as u64 <= bytes,
            // Creating a memory counts as growth from 0.
            Self::Refused => current == 0,
        })
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }
}

/// The outcome of a call or of an instantiation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Values(Vec<Observed>),
    Trapped(Trap),
    /// An uncaught exception.
    Threw,
    /// The garbage-collected heap, which is not a linear memory, was full.
    HeapFull,
}

/// The part of a value that must be the same in two instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Observed {
    /// The type and the bits of a number.
    Bits(&'static str, u128),
    Reference {
        null: bool,
    },
}

impl Observed {
    fn of(value: &Val) -> Self {
        match value {
            Val::I32(n) => Self::Bits("i32", u128::from(n.cast_unsigned())),
            Val::I64(n) => Self::Bits("i64", u128::from(n.cast_unsigned())),
            Val::F32(bits) => Self::Bits("f32", u128::from(*bits)),
            Val::F64(bits) => Self::Bits("f64", u128::from(*bits)),
            Val::V128(bits) => Self::Bits("v128", bits.as_u128()),
            reference => Self::Reference {
                null: reference
                    .ref_()
                    .is_some_and(|reference| reference.is_null()),
            },
        }
    }
}

/// The origin of the memory that an instance imports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The embedder creates it. All instances with this origin share one memory.
    Embedder,
    /// An earlier instance exports it.
    Instance(usize),
}

/// An instance of one of the modules of a [`World`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) module: usize,
    pub(crate) memory: Origin,
}

/// Modules, and the instances that a store has of them.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) modules: Vec<Module>,
    pub(crate) links: Vec<Link>,
}

impl World {
    /// A single instance. The embedder provides the memory that it imports, with the import's limits.
    pub(crate) fn of(module: Module) -> Self {
        let link = Link {
            module: 0,
            memory: Origin::Embedder,
        };
        Self {
            modules: vec![module],
            links: vec![link],
        }
    }
}

/// A memory of a world.
#[derive(Clone)]
pub(crate) enum AnyMemory {
    Own(Memory),
    Shared(SharedMemory),
}

impl AnyMemory {
    fn new(store: &mut Store<Growth>, ty: MemoryType) -> Result<Self> {
        let memory = match ty.is_shared() {
            true => SharedMemory::new(store.engine(), ty).map(Self::Shared),
            false => Memory::new(store, ty).map(Self::Own),
        };
        memory.map_err(|error| anyhow!("{error:?}"))
    }

    fn of(item: Extern) -> Option<Self> {
        match item {
            Extern::Memory(memory) => Some(Self::Own(memory)),
            Extern::SharedMemory(memory) => Some(Self::Shared(memory)),
            _ => None,
        }
    }

    fn into_extern(self) -> Extern {
        match self {
            Self::Own(memory) => memory.into(),
            Self::Shared(memory) => memory.into(),
        }
    }

    /// Returns the size in pages of the memory.
    pub(crate) fn size(&self, store: &Store<Growth>) -> u64 {
        match self {
            Self::Own(memory) => memory.size(store),
            Self::Shared(memory) => memory.size(),
        }
    }

    pub(crate) fn ty(&self, store: &Store<Growth>) -> MemoryType {
        match self {
            Self::Own(memory) => memory.ty(store),
            Self::Shared(memory) => memory.ty(),
        }
    }

    /// Returns true if the embedder's growth by one page succeeds.
    pub(crate) fn grows(&self, store: &mut Store<Growth>) -> bool {
        match self {
            Self::Own(memory) => memory.grow(store, 1).is_ok(),
            Self::Shared(memory) => memory.grow(1).is_ok(),
        }
    }
}

/// The instances of a world, and the memory that the embedder provides.
pub(crate) struct Running {
    pub(crate) store: Store<Growth>,
    instances: Vec<Instance>,
    provided: Option<(String, AnyMemory)>,
    /// The offset of each frame of the last trap, within its module.
    pub(crate) backtrace: Vec<u64>,
}

/// The most frames of a backtrace.
pub(crate) const MAX_FRAMES: usize = 20;

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let mut config = Config::new();
        // Compile time matters more than run time: there are thousands of small modules.
        config.cranelift_opt_level(OptLevel::None);
        config.cranelift_nan_canonicalization(true);
        config.memory_init_cow(false);
        config.wasm_backtrace_max_frames(NonZeroUsize::new(MAX_FRAMES));
        config.shared_memory(true);
        // With signals, wasmtime 48 panics at an access out of the bounds of a memory that two of its
        // own instances import.
        config.signals_based_traps(false);
        config.wasm_threads(true);
        config.wasm_memory64(true);
        config.wasm_multi_memory(true);
        config.wasm_custom_page_sizes(true);
        config.wasm_exceptions(true);
        config.wasm_function_references(true);
        config.wasm_gc(true);
        // The limiter that refuses growth applies to this heap too, so its initial size must suffice.
        config.gc_heap_initial_size(1 << 20);
        Engine::new(&config).expect("this configuration is a valid one")
    })
}

/// Compiles a module.
pub(crate) fn compile(wasm: &[u8]) -> Result<Module> {
    Module::new(engine(), wasm).map_err(|error| anyhow!("{error:?}"))
}

/// Returns the outcome of a failed call, or an error if it is not one that a module can cause.
fn failure(store: &mut Store<Growth>, error: &wasmtime::Error) -> Result<Outcome> {
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return Ok(Outcome::Trapped(*trap));
    }
    if error.is::<ThrownException>() {
        // Otherwise the next call finds the exception pending.
        let _ = store.take_pending_exception();
        return Ok(Outcome::Threw);
    }
    if error.is::<GcHeapOutOfMemory<()>>() {
        return Ok(Outcome::HeapFull);
    }
    Err(anyhow!("{error:?}"))
}

impl Running {
    /// Instantiates the modules of a world. The inner error is the outcome of an instantiation that
    /// failed.
    pub(crate) fn start(world: &World, growth: Growth) -> Result<Result<Self, Outcome>> {
        let mut running = Self {
            store: Store::new(engine(), growth),
            instances: Vec::new(),
            provided: None,
            backtrace: Vec::new(),
        };
        running.store.limiter(|growth| growth);
        for link in &world.links {
            let module = &world.modules[link.module];
            let imports = running.imports(module, link.memory)?;
            match Instance::new(&mut running.store, module, &imports) {
                Ok(instance) => running.instances.push(instance),
                Err(error) => {
                    let outcome = failure(&mut running.store, &error);
                    return Ok(Err(outcome.context("instantiating")?));
                }
            }
        }
        Ok(Ok(running))
    }

    fn imports(&mut self, module: &Module, origin: Origin) -> Result<Vec<Extern>> {
        let mut imports = Vec::new();
        for import in module.imports() {
            let ExternType::Memory(ty) = import.ty() else {
                anyhow::bail!("an import that is not a memory");
            };
            let memory = match origin {
                Origin::Instance(index) => {
                    let exports = self.exports_of(index).into_iter();
                    let mut named = exports.filter(|(name, _)| name == import.name());
                    let item = named.next().map(|(_, item)| item);
                    item.and_then(AnyMemory::of)
                        .context("no memory to import")?
                }
                Origin::Embedder => match &self.provided {
                    Some((_, memory)) => memory.clone(),
                    None => {
                        let memory = AnyMemory::new(&mut self.store, ty)?;
                        let name = format!("{}.{}", import.module(), import.name());
                        self.provided = Some((name, memory.clone()));
                        memory
                    }
                },
            };
            imports.push(memory.into_extern());
        }
        Ok(imports)
    }

    fn exports_of(&mut self, instance: usize) -> Vec<(String, Extern)> {
        let exports = self.instances[instance].exports(&mut self.store);
        exports
            .map(|export| (export.name().to_owned(), export.into_extern()))
            .collect()
    }

    /// Returns the names and the items of all exports, with the index of their instance.
    fn exports(&mut self) -> Vec<((usize, String), Extern)> {
        let mut all = Vec::new();
        for instance in 0..self.instances.len() {
            let exports = self.exports_of(instance).into_iter();
            all.extend(exports.map(|(name, item)| ((instance, name), item)));
        }
        all
    }

    /// Returns every exported function with the types of its parameters.
    pub(crate) fn functions(&mut self) -> Vec<((usize, String), Vec<ValType>)> {
        let exports = self.exports().into_iter();
        let functions = exports.filter_map(|(name, item)| Some((name, item.into_func()?)));
        functions
            .map(|(name, function)| (name, function.ty(&self.store).params().collect()))
            .collect()
    }

    pub(crate) fn call(
        &mut self,
        (instance, name): &(usize, String),
        params: &[Val],
    ) -> Result<Outcome> {
        let function = self.instances[*instance]
            .get_func(&mut self.store, name)
            .with_context(|| format!("no function `{name}` is exported"))?;
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        Ok(match function.call(&mut self.store, params, &mut results) {
            Ok(()) => Outcome::Values(results.iter().map(Observed::of).collect()),
            Err(error) => {
                let backtrace = error.downcast_ref::<WasmBacktrace>();
                let frames = backtrace.map_or(&[][..], WasmBacktrace::frames);
                let offsets = frames.iter().filter_map(FrameInfo::module_offset);
                self.backtrace = offsets.map(|offset| offset as u64).collect();
                failure(&mut self.store, &error)?
            }
        })
    }

    /// Returns the exported and the provided memories, with their names.
    pub(crate) fn memories(&mut self) -> Vec<(String, AnyMemory)> {
        let exports = self.exports().into_iter();
        let exported = exports.filter_map(|((instance, name), item)| {
            Some((format!("{instance}.{name}"), AnyMemory::of(item)?))
        });
        exported.chain(self.provided.iter().cloned()).collect()
    }

    /// Returns the values of all exported globals and the sizes of all exported tables.
    pub(crate) fn globals_and_tables(&mut self) -> Vec<((usize, String), Observed)> {
        let exports = self.exports().into_iter();
        let observed = exports.filter_map(|(name, item)| {
            let observed = match item {
                Extern::Global(global) => Observed::of(&global.get(&mut self.store)),
                Extern::Table(table) => Observed::Bits("elements", table.size(&self.store).into()),
                _ => return None,
            };
            Some((name, observed))
        });
        observed.collect()
    }

    /// Returns a hash of a range of a shared memory, and whether the range is all zeros. Only wasm
    /// can read a shared memory without unsafe code.
    pub(crate) fn hash(
        &mut self,
        memory: &SharedMemory,
        range: Range<usize>,
    ) -> Result<(i64, bool)> {
        static READERS: OnceLock<[Module; 2]> = OnceLock::new();
        let readers = READERS.get_or_init(|| READERS_TEXT.map(reader));
        let reader = &readers[usize::from(memory.ty().is_64())];
        let memory = Extern::SharedMemory(memory.clone());
        let read = || {
            let instance = Instance::new(&mut self.store, reader, &[memory])?;
            let hash =
                instance.get_typed_func::<(i64, i64), (i64, i64)>(&mut self.store, "hash")?;
            hash.call(&mut self.store, (range.start as i64, range.len() as i64))
        };
        let (hash, ones) = { read }().map_err(|error: wasmtime::Error| anyhow!("{error:?}"))?;
        Ok((hash, ones == 0))
    }
}

/// The factor of the hash.
pub(crate) const FNV_PRIME: u64 = 0x100_0000_01b3;

/// The limits of the memories that can be read, and the conversion of an address.
const READERS_TEXT: [(&str, &str); 2] =
    [("0 65536", "i32.wrap_i64"), ("i64 0 281474976710656", "")];

/// Compiles a module that hashes a range of bytes whose length is a multiple of 8, and combines their
/// bits with `or`.
fn reader((limits, address): (&str, &str)) -> Module {
    let text = format!(
        r#"(module
        (import "" "" (memory {limits} shared))
        (func (export "hash") (param $at i64) (param $length i64) (result i64 i64)
            (local $hash i64) (local $ones i64) (local $word i64)
            loop $next
                local.get $length i64.eqz
                if local.get $hash local.get $ones return end
                local.get $at {address} i64.load local.set $word
                (local.set $ones (i64.or (local.get $ones) (local.get $word)))
                (local.set $hash (i64.mul (i64.const {FNV_PRIME})
                    (i64.xor (i64.rotl (local.get $hash) (i64.const 5)) (local.get $word))))
                (local.set $at (i64.add (local.get $at) (i64.const 8)))
                (local.set $length (i64.sub (local.get $length) (i64.const 8)))
                br $next
            end
            unreachable))"#
    );
    let wasm = wat::parse_str(text).expect("this text is a valid one");
    Module::new(engine(), wasm).expect("this module is a valid one")
}
