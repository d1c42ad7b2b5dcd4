//! Runs a module in wasmtime and observes it: results, traps, globals, tables and memories.

use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow};
use wasmtime::{
    Config, Engine, Extern, ExternType, GcHeapOutOfMemory, Instance, Memory, Module, OptLevel,
    ResourceLimiter, Store, ThrownException, Trap, Val, ValType,
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

/// An instance, and the memories that it imports.
pub(crate) struct Running {
    pub(crate) store: Store<Growth>,
    instance: Instance,
    imported: Vec<(String, Memory)>,
}

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let mut config = Config::new();
        // Compile time matters more than run time: there are thousands of small modules.
        config.cranelift_opt_level(OptLevel::None);
        config.cranelift_nan_canonicalization(true);
        config.memory_init_cow(false);
        config.wasm_backtrace_max_frames(None);
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
    /// Instantiates a module with new memories for its imports. The inner error is the outcome of a
    /// start function that failed.
    pub(crate) fn start(module: &Module, growth: Growth) -> Result<Result<Self, Outcome>> {
        let mut store = Store::new(module.engine(), growth);
        store.limiter(|growth| growth);
        let mut imports = Vec::new();
        let mut imported = Vec::new();
        for import in module.imports() {
            let ExternType::Memory(ty) = import.ty() else {
                anyhow::bail!("an import that is not a memory");
            };
            let memory = Memory::new(&mut store, ty).map_err(|error| anyhow!("{error:?}"))?;
            imports.push(Extern::Memory(memory));
            imported.push((format!("{}.{}", import.module(), import.name()), memory));
        }
        match Instance::new(&mut store, module, &imports) {
            Ok(instance) => Ok(Ok(Self {
                store,
                instance,
                imported,
            })),
            Err(error) => Ok(Err(failure(&mut store, &error).context("instantiating")?)),
        }
    }

    /// Returns the names and the items of all exports.
    fn exports(&mut self) -> Vec<(String, Extern)> {
        let exports = self.instance.exports(&mut self.store);
        exports
            .map(|export| (export.name().to_owned(), export.into_extern()))
            .collect()
    }

    /// Returns every exported function with the types of its parameters.
    pub(crate) fn functions(&mut self) -> Vec<(String, Vec<ValType>)> {
        let exports = self.exports().into_iter();
        let functions = exports.filter_map(|(name, item)| Some((name, item.into_func()?)));
        functions
            .map(|(name, function)| (name, function.ty(&self.store).params().collect()))
            .collect()
    }

    pub(crate) fn call(&mut self, name: &str, params: &[Val]) -> Result<Outcome> {
        let function = self
            .instance
            .get_func(&mut self.store, name)
            .with_context(|| format!("no function `{name}` is exported"))?;
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        Ok(match function.call(&mut self.store, params, &mut results) {
            Ok(()) => Outcome::Values(results.iter().map(Observed::of).collect()),
            Err(error) => failure(&mut self.store, &error)?,
        })
    }

    /// Returns the exported and the imported memories, with their names.
    pub(crate) fn memories(&mut self) -> Vec<(String, Memory)> {
        let exports = self.exports().into_iter();
        let exported = exports.filter_map(|(name, item)| Some((name, item.into_memory()?)));
        let imported = self.imported.iter().cloned();
        exported.chain(imported).collect()
    }

    /// Returns the values of all exported globals and the sizes of all exported tables.
    pub(crate) fn globals_and_tables(&mut self) -> Vec<(String, Observed)> {
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
}
