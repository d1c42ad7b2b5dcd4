//! Random modules that share memories: core modules that an embedder links, and components. One module
//! defines the memory, or the embedder does, and the others import it. A module may be instantiated
//! several times.
//!
//! The rewritten modules are instantiated as the originals are, also those of a component: the
//! generator has made the component, so it knows how its modules are linked.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use arbitrary::Unstructured;
use wasm_encoder::{Encode as _, ExportKind, SectionId};
use wasm_prealloc::{
    EmulateFrom, Error, Features, MemoryImportPolicy, MemoryReport, Options, WASM_PAGE_SIZE,
    rewrite, verify,
};
use wasmparser::{MemoryType, Parser, Payload, Validator, WasmFeatures};
use wasmtime::Module;

use crate::compare::{Counter, Rewritten, compare, counters};
use crate::component::{Nesting, encode};
use crate::declare::{IMPORT, Memories, declare, import_memory};
use crate::generate::{module, shared};
use crate::reference::{cap, limits};
use crate::run::{Growth, Link, Origin, World, compile};
use crate::sections::{append, join, split, usize_range};
use crate::stats::Stats;

/// The most pages that a generated memory has at the start.
const MOST_PAGES: u64 = 6;

/// Modules that share memories, and the parameters of their test.
#[derive(Clone, Debug)]
pub struct Linked {
    modules: Vec<Vec<u8>>,
    links: Vec<Link>,
    wiring: Wiring,
    /// True if the embedder provides the memory, so that no module defines it.
    by_embedder: bool,
    /// True if threads can share the memory.
    is_shared: bool,
    /// The size at which the shared memory starts.
    start: u64,
    pages: u64,
    calls: u64,
}

/// The ways to link modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wiring {
    /// An embedder links core modules.
    Core,
    /// A component links them.
    Component(Nesting),
}

impl Linked {
    /// Generates modules and their links from random bytes.
    ///
    /// # Errors
    /// There are too few bytes, or a module does not fit the limits.
    pub fn new(u: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        use Nesting::{Arguments, Flat, Nested, Outer};
        use Wiring::{Component, Core};
        let wiring = match u.int_in_range(0..=7)? {
            0..3 => Core,
            3..5 => Component(Flat),
            5 => Component(Nested),
            6 => Component(Outer),
            _ => Component(Arguments),
        };
        let pages = *u.choose(&[96, 128, 65_536])?;
        let by_embedder = wiring == Core && u.ratio(1, 3)?;
        let modules = modules(u, pages)?;
        let mut linked = Self {
            links: links(u, modules.len(), by_embedder)?,
            modules,
            wiring,
            by_embedder,
            is_shared: u.ratio(1, 5)?,
            start: 0,
            pages,
            calls: u.arbitrary()?,
        };
        linked.share(u)?;
        Ok(linked)
    }

    /// Declares the limits of the memory in each module. The first module defines it, or the embedder.
    fn share(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let unfit = |_| arbitrary::Error::IncorrectFormat;
        let mut types = Vec::new();
        for module in &self.modules {
            types.push(Memories::read(module).map_err(unfit)?.all[0].ty);
        }
        let page_log2 = types[0].page_size_log2;
        let bytes = |ty: &MemoryType| ty.initial << ty.page_size_log2.unwrap_or(16);
        let bytes = types.iter().map(bytes).max().unwrap_or_default();
        let start = (bytes >> page_log2.unwrap_or(16)) + u.int_in_range(0..=2)?;
        let maximum = match self.is_shared || u.ratio(2, 3)? {
            true => Some(start + u.int_in_range(0..=60)?),
            false => None,
        };
        // The imports of a component declare the same limits, because an instance that imports the
        // memory can pass it on. The limits of the definition apply, and not theirs. An embedder's
        // imports have the maximum of the definition, because the rewriter sees no other.
        let passed_on = match u.ratio(1, 2)? && !self.is_shared {
            true => (u.int_in_range(0..=start)?, None),
            false => (u.int_in_range(0..=start)?, maximum.map(|pages| pages + 5)),
        };
        for (index, wasm) in self.modules.iter_mut().enumerate() {
            let imports = index > 0 || self.by_embedder;
            let (initial, maximum) = match (imports, self.wiring) {
                (false, _) => (start, maximum),
                (true, Wiring::Core) => (u.int_in_range(0..=start)?, maximum),
                (true, Wiring::Component(_)) => passed_on,
            };
            let ty = |ty| MemoryType {
                initial,
                maximum,
                page_size_log2: page_log2,
                ..ty
            };
            *wasm = declare(wasm, |index, other| match index {
                0 if self.is_shared => shared(ty(other), self.pages),
                0 => ty(other),
                _ => other,
            })
            .map_err(unfit)?;
            if imports {
                *wasm = import_memory(wasm).map_err(unfit)?;
            }
            *wasm = export_memory(wasm).map_err(unfit)?;
        }
        self.start = start;
        Ok(())
    }
}

/// Generates two or three modules. Each has a memory, all with addresses of the same type.
fn modules(u: &mut Unstructured<'_>, pages: u64) -> arbitrary::Result<Vec<Vec<u8>>> {
    let mut modules = Vec::new();
    let mut first = None;
    for _ in 0..u.int_in_range(2..=3)? {
        let wasm = module(u, pages, MOST_PAGES)?;
        let memories = Memories::read(&wasm).map_err(|_| arbitrary::Error::IncorrectFormat)?;
        let memory = memories.all.first().map(|memory| memory.ty.memory64);
        let memory = memory.ok_or(arbitrary::Error::IncorrectFormat)?;
        if *first.get_or_insert(memory) != memory {
            return Err(arbitrary::Error::IncorrectFormat);
        }
        modules.push(wasm);
    }
    Ok(modules)
}

/// Chooses the instances of modules, and the origin of the memory of each.
fn links(
    u: &mut Unstructured<'_>,
    modules: usize,
    by_embedder: bool,
) -> arbitrary::Result<Vec<Link>> {
    let mut links = Vec::new();
    for module in 0..modules {
        for _ in 0..u.int_in_range(1..=2)? {
            let memory = match by_embedder || module == 0 {
                true => Origin::Embedder,
                false => Origin::Instance(u.int_in_range(0..=links.len() - 1)?),
            };
            links.push(Link { module, memory });
        }
    }
    Ok(links)
}

/// Returns the module with an export of its first memory.
fn export_memory(wasm: &[u8]) -> Result<Vec<u8>> {
    let mut sections = split(wasm)?;
    let mut export = Vec::new();
    IMPORT.1.encode(&mut export);
    export.push(ExportKind::Memory as u8);
    0_u32.encode(&mut export);
    append(&mut sections, SectionId::Export, &export)?;
    Ok(join(&sections))
}

/// Rewrites the modules, one by one or as a component, and compares them with the originals, linked
/// in the same way.
///
/// # Errors
/// A difference, with its place and the text of the modules.
pub fn check(linked: &Linked, stats: &mut Stats) -> Result<()> {
    stats.count("modules", linked.modules.len() as u64);
    check_linked(linked, stats).with_context(|| {
        let mut text = format!("{:?}, {:?}\n", linked.wiring, linked.links);
        for module in &linked.modules {
            text += &wasmprinter::print_bytes(module).unwrap_or_default();
        }
        let (start, pages) = (linked.start, linked.pages);
        format!("growth starts at {start} pages, rewritten to {pages} pages:\n{text}")
    })
}

fn check_linked(linked: &Linked, stats: &mut Stats) -> Result<()> {
    for module in &linked.modules {
        Validator::new_with_features(WasmFeatures::all()).validate_all(module)?;
    }
    let rewritten = match linked.wiring {
        Wiring::Core => rewrite_each(linked, stats)?,
        Wiring::Component(nesting) => rewrite_component(linked, nesting, stats)?,
    };
    let Some((modules, reports)) = rewritten else {
        return Ok(());
    };
    let mut counted = BTreeMap::new();
    let mut ours = Vec::new();
    for wasm in &modules {
        ours.push(compile(wasm)?);
    }
    for (instance, link) in linked.links.iter().enumerate() {
        let memories = Memories::read(&linked.modules[link.module])?;
        counted.extend(counters(&reports[link.module], &memories, instance));
    }
    spread(linked, &mut counted)?;
    let ours = Rewritten {
        world: World {
            modules: ours,
            links: linked.links.clone(),
        },
        counters: counted,
        places: None,
    };
    let reference = World {
        modules: references(linked, !ours.counters.is_empty())?,
        links: linked.links.clone(),
    };
    let growth = Growth::UpTo(linked.pages * WASM_PAGE_SIZE);
    for sequence in 0..3 {
        let seed = linked.calls.wrapping_add(sequence);
        let end = compare(&reference, growth, &ours, seed, stats)
            .with_context(|| format!("sequence {sequence}"))?;
        stats.count_case(end, &kinds(linked));
    }
    Ok(())
}

/// Adds the counter of each shared memory under the names that other instances have for the memory:
/// a module that neither grows nor measures the memory has no report of a counter.
fn spread(linked: &Linked, counters: &mut BTreeMap<String, Counter>) -> Result<()> {
    let definition = |mut instance: usize| {
        while let Origin::Instance(from) = linked.links[instance].memory {
            instance = from;
        }
        if linked.by_embedder { 0 } else { instance }
    };
    let name = |instance: usize| format!("{instance}.{}", IMPORT.1);
    let mut found = BTreeMap::new();
    for instance in 0..linked.links.len() {
        if let Some(counter) = counters.get(&name(instance)) {
            found.insert(definition(instance), *counter);
        }
    }
    for (instance, link) in linked.links.iter().enumerate() {
        if let Some(counter) = found.get(&definition(instance)) {
            let memories = Memories::read(&linked.modules[link.module])?;
            let exports = memories.all[0].exports.iter();
            let names = exports.map(|name| format!("{instance}.{name}"));
            counters.extend(names.map(|name| (name, *counter)));
        }
    }
    Ok(())
}

/// The rewritten modules, and a report for each.
type Outputs = (Vec<Vec<u8>>, Vec<Vec<MemoryReport>>);

/// Rewrites core modules with the same answers. `None` if one of them is refused.
fn rewrite_each(linked: &Linked, stats: &mut Stats) -> Result<Option<Outputs>> {
    let mut options = Options::default();
    options.features = Features::All;
    options.pages = linked.pages;
    options.memory_import = MemoryImportPolicy::Keep;
    options.emulate_from = EmulateFrom::Pages(linked.start);
    let (mut modules, mut reports) = (Vec::new(), Vec::new());
    for wasm in &linked.modules {
        match rewrite(wasm, &options) {
            Ok(rewritten) => {
                verify(&rewritten.wasm, linked.pages).context("the result does not verify")?;
                modules.push(rewritten.wasm.into_owned());
                reports.push(rewritten.report.memories);
            }
            Err(error) => {
                refused(&error, linked, stats)?;
                return Ok(None);
            }
        }
    }
    Ok(Some((modules, reports)))
}

/// Rewrites a component that consists of the modules. `None` if it is refused.
fn rewrite_component(
    linked: &Linked,
    nesting: Nesting,
    stats: &mut Stats,
) -> Result<Option<Outputs>> {
    let component = encode(nesting, &linked.modules, &linked.links, linked.calls)?;
    Validator::new_with_features(WasmFeatures::all()).validate_all(&component)?;
    let mut options = Options::default();
    options.features = Features::All;
    options.pages = linked.pages;
    let rewritten = match rewrite(&component, &options) {
        Ok(rewritten) => rewritten,
        Err(error) => {
            refused(&error, linked, stats)?;
            return Ok(None);
        }
    };
    verify(&rewritten.wasm, linked.pages).context("the result does not verify")?;
    Validator::new_with_features(WasmFeatures::all())
        .validate_all(&rewritten.wasm)
        .context("the result is invalid")?;
    let again = rewrite(&rewritten.wasm, &options).context("the result cannot be rewritten")?;
    ensure!(
        again.wasm == rewritten.wasm,
        "a second rewrite changes something"
    );
    let mut modules = Vec::new();
    for payload in Parser::new(0).parse_all(&rewritten.wasm) {
        if let Payload::ModuleSection {
            unchecked_range, ..
        } = payload?
        {
            modules.push(rewritten.wasm[usize_range(&unchecked_range)].to_vec());
        }
    }
    let of_module = |index| {
        let memories = rewritten.report.memories.iter();
        let of_module = memories.filter(|memory| memory.before.id.module == Some(index));
        of_module.cloned().collect()
    };
    let reports = (0..modules.len() as u32).map(of_module).collect();
    Ok(Some((modules, reports)))
}

/// Checks that a refusal has the reason that it names.
fn refused(error: &Error, linked: &Linked, stats: &mut Stats) -> Result<()> {
    let kind = error.kind();
    let mut memories = Vec::new();
    for module in &linked.modules {
        memories.extend(Memories::read(module)?.all);
    }
    let justified = match kind {
        // The memory is in a module that the other component imports.
        "unsupported" => linked.wiring == Wiring::Component(Nesting::Arguments),
        "data-above-minimum" | "start-below-data" => {
            memories.iter().any(|m| m.data_end > m.bytes(m.ty.initial))
        }
        // A memory that is not linked, with another minimum.
        "start-below-minimum" => memories.iter().any(|m| m.ty.initial > linked.start),
        "start-above-cap" => memories
            .iter()
            .any(|m| cap(&m.ty, linked.pages, true) < linked.start),
        "no-room-for-counter" => memories
            .iter()
            .any(|m| cap(&m.ty, linked.pages, true) < m.ty.initial),
        "pages-out-of-range" => memories.iter().any(|m| m.ty.page_size_log2.is_some()),
        _ => false,
    };
    ensure!(justified, "not a documented refusal: {error}");
    let wiring = match linked.wiring {
        Wiring::Core => "linked",
        _ => "component",
    };
    stats.count(&format!("refused: {wiring}, {kind}"), 1);
    Ok(())
}

/// Returns the originals, with the limits that the rewritten modules must see.
fn references(linked: &Linked, in_memory: bool) -> Result<Vec<Module>> {
    let mut options = Options::default();
    options.features = Features::All;
    options.pages = linked.pages;
    options.memory_import = MemoryImportPolicy::Keep;
    options.emulate_from = EmulateFrom::Pages(linked.start);
    let mut references = Vec::new();
    // The maximum of the definition applies to all.
    let definition = Memories::read(&linked.modules[0])?.all[0].ty;
    let cap = cap(&definition, linked.pages, in_memory);
    for wasm in &linked.modules {
        let memories = Memories::read(wasm)?;
        let reference = declare(wasm, |index, ty| match (index, linked.wiring) {
            (0, _) => MemoryType {
                initial: linked.start,
                maximum: Some(cap),
                ..ty
            },
            (_, Wiring::Core) => {
                let limits = limits(&memories.all[index], memories.heap_base, &options);
                limits.expect("the limits are known where growth is not kept")
            }
            (_, _) => ty,
        })?;
        references.push(compile(&reference)?);
    }
    Ok(references)
}

/// Returns the kinds to count the cases by.
fn kinds(linked: &Linked) -> Vec<&'static str> {
    let mut kinds = vec![match linked.wiring {
        Wiring::Core => "of linked core modules",
        Wiring::Component(Nesting::Flat) => "of components",
        Wiring::Component(Nesting::Nested) => "of nested components",
        Wiring::Component(Nesting::Outer) => "of components that use outer modules",
        Wiring::Component(Nesting::Arguments) => "of components with modules as arguments",
    }];
    let mut add = |applies: bool, kind| kinds.extend(applies.then_some(kind));
    let links = &linked.links;
    let twice = |link: &Link| {
        let same = links
            .iter()
            .filter(|other| other.module == link.module && other.memory == link.memory);
        link.module > 0 && same.count() > 1
    };
    add(links.iter().any(twice), "of two instances on one memory");
    let definitions = links.iter().filter(|link| link.module == 0);
    add(
        !linked.by_embedder && definitions.count() > 1,
        "of two memories of one module",
    );
    add(
        linked.by_embedder,
        "of modules that share the embedder's memory",
    );
    add(
        linked.is_shared,
        "of modules that share a memory of threads",
    );
    kinds
}
