//! Runs a module in wasmtime and observes it: results, traps, globals, tables and memories.

use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow};
use wasmtime::{
    Config, Engine, Extern, ExternType, Func, GcHeapOutOfMemory, Instance, Memory, Module,
    OptLevel, ResourceLimiter, Store, ThrownException, Trap, Val, ValType,
};

/// Whether memories may grow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Growth {
    /// Up to so many bytes.
    UpTo(u64),
    /// Never, as where all memory has been committed.
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
            // A memory that begins is one that grows from nothing.
            Self::Refused => current == 0,
        })
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }
}

/// What a call, or the instantiation, came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Values(Vec<Seen>),
    Trapped(Trap),
    /// An exception that nothing caught.
    Threw,
    /// The collector's heap, which is no linear memory, was full.
    HeapFull,
}

/// A value, as far as two instances can agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A number's type and bits.
    Bits(&'static str, u128),
    Reference {
        null: bool,
    },
}

impl Seen {
    fn of(value: &Val) -> Self {
        match value {
            Val::I32(n) => Self::Bits("i32", u128::from(n.cast_unsigned())),
            Val::I64(n) => Self::Bits("i64", u128::from(n.cast_unsigned())),
            Val::F32(bits) => Self::Bits("f32", u128::from(*bits)),
            Val::F64(bits) => Self::Bits("f64", u128::from(*bits)),
            Val::V128(bits) => Self::Bits("v128", bits.as_u128()),
            Val::FuncRef(f) => Self::Reference { null: f.is_none() },
            Val::ExternRef(r) => Self::Reference { null: r.is_none() },
            Val::AnyRef(r) => Self::Reference { null: r.is_none() },
            Val::ExnRef(r) => Self::Reference { null: r.is_none() },
            _ => Self::Reference { null: false },
        }
    }
}

/// An instance, and the memory that it imports, where it does.
pub(crate) struct Running {
    pub(crate) store: Store<Growth>,
    instance: Instance,
    imported: Vec<(String, String, Memory)>,
}

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let mut config = Config::new();
        // Thousands of modules, each run for a moment.
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
        // Where linear memories may not grow, this heap may not either, so it begins with enough.
        config.gc_heap_initial_size(1 << 20);
        Engine::new(&config).expect("this configuration is a valid one")
    })
}

/// Compiles a module, which can then be run many times.
pub(crate) fn compile(wasm: &[u8]) -> Result<Module> {
    Module::new(engine(), wasm).map_err(|error| anyhow!("{error:?}"))
}

/// Separates what can be observed from what must not happen.
fn failure(store: &mut Store<Growth>, error: &wasmtime::Error) -> Result<Outcome> {
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return Ok(Outcome::Trapped(*trap));
    }
    if error.is::<ThrownException>() {
        // The next call must not find it pending.
        let _ = store.take_pending_exception();
        return Ok(Outcome::Threw);
    }
    if error.is::<GcHeapOutOfMemory<()>>() {
        return Ok(Outcome::HeapFull);
    }
    Err(anyhow!("{error:?}"))
}

impl Running {
    /// Instantiates a module, giving it memories of the types that it imports; the inner error is
    /// what its start came to.
    pub(crate) fn start(module: &Module, growth: Growth) -> Result<Result<Self, Outcome>> {
        let mut store = Store::new(module.engine(), growth);
        store.limiter(|growth| growth);
        let mut imports = Vec::new();
        let mut imported = Vec::new();
        for import in module.imports() {
            let ExternType::Memory(ty) = import.ty() else {
                anyhow::bail!("an import other than a memory");
            };
            let memory = Memory::new(&mut store, ty).map_err(|error| anyhow!("{error:?}"))?;
            imports.push(Extern::Memory(memory));
            imported.push((import.module().into(), import.name().into(), memory));
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

    /// Every exported function, with its parameters' types.
    pub(crate) fn functions(&mut self) -> Vec<(String, Vec<ValType>)> {
        let exports = self.instance.exports(&mut self.store);
        let functions: Vec<(String, Func)> = exports
            .filter_map(|export| Some((export.name().to_owned(), export.into_func()?)))
            .collect();
        functions
            .into_iter()
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
            Ok(()) => Outcome::Values(results.iter().map(Seen::of).collect()),
            Err(error) => failure(&mut self.store, &error)?,
        })
    }

    /// The memories that can be seen from outside, by the name they are seen under.
    pub(crate) fn memories(&mut self) -> Vec<(String, Memory)> {
        let exports = self.instance.exports(&mut self.store);
        let mut memories: Vec<(String, Memory)> = exports
            .filter_map(|export| Some((export.name().to_owned(), export.into_memory()?)))
            .collect();
        for (module, name, memory) in &self.imported {
            memories.push((format!("{module}.{name}"), *memory));
        }
        memories
    }

    /// The values of all exported globals, and the sizes of all exported tables.
    pub(crate) fn globals_and_tables(&mut self) -> Vec<(String, Seen)> {
        let exports = self.instance.exports(&mut self.store);
        let externs: Vec<(String, Extern)> = exports
            .map(|export| (export.name().to_owned(), export.into_extern()))
            .collect();
        let mut seen = Vec::new();
        for (name, item) in externs {
            match item {
                Extern::Global(global) => {
                    let value = global.get(&mut self.store);
                    seen.push((name, Seen::of(&value)));
                }
                Extern::Table(table) => {
                    let size = u128::from(table.size(&self.store));
                    seen.push((name, Seen::Bits("elements", size)));
                }
                _ => {}
            }
        }
        seen
    }
}
