//! Probes: a module is instantiated in a store of its own, only until the last of its memories and
//! tables is requested. Nothing of the module runs, and no memory is lent.
//!
//! A probe shows that the engine takes its memories from a pool, and finds the limits of memories
//! and tables that the module does not export. wasmtime has no other way to read either.

use std::cell::RefCell;

use wasmtime::{AsContextMut, Extern, ExternType, Func, Instance, Module, ResourceLimiter, Store};
#[cfg(feature = "gc")]
use wasmtime::{Engine, ExternRef};

use crate::engine::wasmtime::known::Findings;
use crate::error::VerifyError;
use crate::pool::memory_pool::MemoryPool;

/// The kind of memory that an engine requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A linear memory of the module.
    Linear,
    /// The heap for exceptions, `externref` and GC types, one for each store that needs it.
    EngineHeap,
}

thread_local! {
    static PROBE: RefCell<Option<Requests>> = const { RefCell::new(None) };
}

/// The requests that reached a creator during a probe on this thread.
#[derive(Debug)]
struct Requests {
    pool: MemoryPool,
    linear: usize,
    engine_heap: bool,
    /// The creator ends the probe at this number of linear memories, in a module without tables.
    last: Option<usize>,
    outcome: Option<VerifyError>,
}

impl Requests {
    fn all(&self) -> usize {
        self.linear + usize::from(self.engine_heap)
    }
}

/// Answers a creator's request if a probe runs on this thread: `Ok` for a memory that is not used,
/// or the text to refuse with. `limits` checks the memory's limits.
pub(crate) fn answer(
    pool: Option<&MemoryPool>,
    kind: Kind,
    limits: impl FnOnce(&MemoryPool) -> Result<(), VerifyError>,
) -> Option<Result<(), String>> {
    PROBE.with_borrow_mut(|probe| {
        let requests = probe.as_mut()?;
        let checked = match pool.filter(|pool| pool.is_same(&requests.pool)) {
            Some(pool) => limits(pool),
            None => Err(VerifyError::Engine {
                what: "takes its memories from another pool",
            }),
        };
        if let Err(error) = checked {
            let text = error.to_string();
            requests.outcome = Some(error);
            return Some(Err(text));
        }
        match kind {
            Kind::Linear => requests.linear += 1,
            Kind::EngineHeap => requests.engine_heap = true,
        }
        match requests.last {
            Some(last) if last == requests.linear => Some(Err(ENDED.to_owned())),
            _ => Some(Ok(())),
        }
    })
}

const ENDED: &str = "the probe ended as intended";

/// Watches the requests of a probe's store.
struct Watch {
    /// True once the module's imports are defined.
    armed: bool,
    /// The number of requests for memory that the engine announced.
    announced: usize,
    tables: u32,
    last_table: u32,
    bound: u64,
    minimum: u64,
    maximum: u64,
    outcome: Option<End>,
}

enum End {
    AtLastTable,
    Refused(VerifyError),
}

impl Watch {
    /// Adds a table's limits. Above the bound, returns the refusal.
    fn add(&mut self, minimum: u64, maximum: Option<u64>) -> Result<(), VerifyError> {
        self.minimum = self.minimum.saturating_add(minimum);
        let maximum = maximum.unwrap_or(u64::MAX);
        self.maximum = self.maximum.saturating_add(maximum);
        match self.minimum > self.bound {
            true => Err(VerifyError::TablesTooLarge {
                elements: self.minimum,
                bound: self.bound,
            }),
            false => Ok(()),
        }
    }

    fn end(&mut self, outcome: End) -> wasmtime::Result<bool> {
        self.outcome = Some(outcome);
        Err(wasmtime::Error::msg(ENDED))
    }

    /// Checks that every announced request reached the pool's creator.
    fn reached(&self) -> bool {
        let reached = PROBE.with_borrow(|probe| probe.as_ref().map_or(0, Requests::all));
        reached >= self.announced
    }
}

const NOT_REACHED: VerifyError = VerifyError::Engine {
    what: "does not take its memories from this pool",
};

impl ResourceLimiter for Watch {
    fn memory_growing(
        &mut self,
        _current: usize,
        _desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if !self.armed {
            return Ok(true);
        }
        if !self.reached() {
            return self.end(End::Refused(NOT_REACHED));
        }
        self.announced += 1;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if !self.armed {
            return Ok(true);
        }
        if !self.reached() {
            return self.end(End::Refused(NOT_REACHED));
        }
        let added = self.add(desired as u64, maximum.map(|maximum| maximum as u64));
        if let Err(error) = added {
            return self.end(End::Refused(error));
        }
        self.tables += 1;
        match self.tables == self.last_table {
            true => self.end(End::AtLastTable),
            false => Ok(true),
        }
    }
}

/// Ends a probe's record on this thread, also after a panic.
struct Running;

impl Running {
    fn start(requests: Requests) -> Running {
        PROBE.set(Some(requests));
        Running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(PROBE.take());
    }
}

/// Returns true if the engine takes its memories from the pool, and false if that is unknown
/// because the engine has no heap of its own. The heap has the same creator as linear memories, and
/// a host object in it needs no module.
#[cfg(feature = "gc")]
pub(crate) fn reaches(pool: &MemoryPool, engine: &Engine) -> Result<bool, VerifyError> {
    let mut store = Store::new(engine, ());
    let _running = Running::start(Requests {
        pool: pool.clone(),
        linear: 0,
        engine_heap: false,
        last: Some(0),
        outcome: None,
    });
    let made = ExternRef::new(&mut store, ()).is_ok();
    match PROBE.take() {
        Some(Requests {
            outcome: Some(error),
            ..
        }) => Err(error),
        Some(requests) if requests.engine_heap => Ok(true),
        _ if made => Err(NOT_REACHED),
        _ => Ok(false),
    }
}

#[cfg(not(feature = "gc"))]
pub(crate) fn reaches(_: &MemoryPool, _: &wasmtime::Engine) -> Result<bool, VerifyError> {
    Ok(false)
}

/// Probes a module. `known` is true if the engine is known to take its memories from the pool.
pub(crate) fn run(
    pool: &MemoryPool,
    module: &Module,
    known: bool,
    bound: u64,
) -> Result<Findings, VerifyError> {
    let required = module.resources_required();
    let (memories, tables) = (required.num_memories as usize, required.num_tables);
    let mut store = Store::new(
        module.engine(),
        Watch {
            armed: false,
            announced: 0,
            tables: 0,
            last_table: tables,
            bound,
            minimum: 0,
            maximum: 0,
            outcome: None,
        },
    );
    store.limiter(|watch| watch);
    for import in module.imports() {
        if let ExternType::Table(table) = import.ty() {
            store.data_mut().add(table.minimum(), table.maximum())?;
        }
    }
    let imported_maximum = store.data().maximum;
    let unproven = |why| match known {
        // Tables that are not seen can have any size.
        true => Ok(Findings {
            memories,
            engine_heap: None,
            table_maximum: if tables == 0 {
                imported_maximum
            } else {
                u64::MAX
            },
        }),
        false => Err(VerifyError::EngineUnproven { why }),
    };
    // An engine that takes its memories from elsewhere would start the module after the last one.
    if tables == 0 && (memories == 0 || !known) {
        return unproven("the module defines no table, where a probe could stop");
    }
    let Some(imports) = stand_ins(&mut store, module) else {
        return unproven("the module has an import for which a probe has no stand-in");
    };
    let _running = Running::start(Requests {
        pool: pool.clone(),
        linear: 0,
        engine_heap: false,
        last: (tables == 0).then_some(memories),
        outcome: None,
    });
    store.data_mut().armed = true;
    let _ended = Instance::new(&mut store, module, &imports);
    let requests = PROBE.take();
    let Some(requests) = requests else {
        return unproven("the probe of the module did not finish");
    };
    if let Some(error) = requests.outcome {
        return Err(error);
    }
    let watch = store.data_mut();
    match watch.outcome.take() {
        Some(End::Refused(error)) => return Err(error),
        Some(End::AtLastTable) => {}
        None if requests.last == Some(requests.linear) => {}
        None => return unproven("the probe of the module did not finish"),
    }
    if requests.linear != memories {
        return Err(NOT_REACHED);
    }
    Ok(Findings {
        memories,
        engine_heap: Some(requests.engine_heap),
        table_maximum: watch.maximum,
    })
}

/// Makes an unused value for each import. Returns `None` for a reference that cannot
/// be null.
fn stand_ins(store: &mut Store<Watch>, module: &Module) -> Option<Vec<Extern>> {
    let imports = module.imports();
    imports
        .map(|import| match import.ty() {
            ExternType::Func(ty) => {
                let never = |_: wasmtime::Caller<'_, Watch>, _: &[_], _: &mut [_]| {
                    Err(wasmtime::Error::msg(ENDED))
                };
                let function = Func::new(store.as_context_mut(), ty, never);
                Some(Extern::Func(function))
            }
            other => other.default_value(store.as_context_mut()).ok(),
        })
        .collect()
}
