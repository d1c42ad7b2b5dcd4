//! The differential test: rewrites a module in several ways, and compares each result with a
//! reference module that must behave the same. The comparison itself is in `compare`.
//!
//! One difference is allowed: an access that is out of bounds in the reference. The comparison stops
//! there, and is counted. It also stops when a stack overflows, because a rewritten function may need
//! one more frame.

use anyhow::{Context as _, Result, bail, ensure};
use wasm_prealloc::{
    EmulateFrom, Error, Features, MemoryImportPolicy, Options, Report, Rewritten, WASM_PAGE_SIZE,
    Warning, rewrite, verify,
};
use wasmparser::{MemoryType, Validator, WasmFeatures};
use wasmtime::Module;

use crate::compare::{self, COMMIT, compare, counters};
use crate::declare::{Memories, MemoryFacts, declare};
use crate::generate::Generated;
use crate::metadata::{self, Places};
use crate::reference::{cap, limits, own_pages};
use crate::run::{Growth, Outcome, Running, World, compile};
use crate::stats::{End, Stats};
use crate::walrus_rewrite::walrus_rewrite;

/// Sequences of calls for each pair of modules. Each sequence uses new instances.
const SEQUENCES: u64 = 3;

/// Rewrites a module in the ways that `generated` chooses, and compares each result with its
/// reference.
///
/// # Errors
/// A difference, with its place and the text of the module.
pub fn check(generated: &Generated, stats: &mut Stats) -> Result<()> {
    stats.count("modules", 1);
    check_each(generated, stats).with_context(|| {
        let text = wasmprinter::print_bytes(&generated.wasm);
        let pages = generated.pages;
        format!("rewritten to {pages} pages:\n{}", text.unwrap_or_default())
    })
}

fn check_each(generated: &Generated, stats: &mut Stats) -> Result<()> {
    let Generated { wasm, pages, calls } = generated;
    Validator::new_with_features(WasmFeatures::all()).validate_all(wasm)?;
    let memories = Memories::read(wasm)?;
    let mut compiled = Compiled::default();
    let mut kinds = features(wasm);
    for options in option_sets(&memories, *pages, *calls) {
        check_one(wasm, *calls, &kinds, &options, &mut compiled, stats)
            .with_context(|| format!("{options:?}"))?;
    }
    if let Some((pinned, options)) = pinned(generated, &memories)? {
        kinds.push("pinned before");
        check_one(&pinned, *calls, &kinds, &options, &mut compiled, stats)
            .with_context(|| format!("pinned before, {options:?}"))?;
    }
    Ok(())
}

/// Compiled modules, by their bytes. Several rewrites of a module often have the same bytes.
#[derive(Default)]
struct Compiled(Vec<(Vec<u8>, Module)>);

impl Compiled {
    fn module(&mut self, wasm: &[u8]) -> Result<Module> {
        if let Some((_, module)) = self.0.iter().find(|(bytes, _)| bytes == wasm) {
            return Ok(module.clone());
        }
        let module = compile(wasm)?;
        self.0.push((wasm.to_vec(), module.clone()));
        Ok(module)
    }
}

/// Returns the features of WebAssembly without which the module is not valid.
fn features(wasm: &[u8]) -> Vec<&'static str> {
    const FEATURES: [(&str, WasmFeatures); 8] = [
        ("with several memories", WasmFeatures::MULTI_MEMORY),
        ("with 64-bit memories", WasmFeatures::MEMORY64),
        ("with custom page sizes", WasmFeatures::CUSTOM_PAGE_SIZES),
        ("with exceptions", WasmFeatures::EXCEPTIONS),
        ("with garbage-collected types", WasmFeatures::GC),
        ("with shared memories", WasmFeatures::THREADS),
        ("with tail calls", WasmFeatures::TAIL_CALL),
        ("with vectors", WasmFeatures::SIMD),
    ];
    let needed = FEATURES.iter().filter(|(_, feature)| {
        let mut validator = Validator::new_with_features(WasmFeatures::all() - *feature);
        validator.validate_all(wasm).is_err()
    });
    needed.map(|(kind, _)| *kind).collect()
}

/// Returns the module with its memory declared at the final size, as some linkers do, and options
/// that emulate growth from the start of the heap or from a number of pages.
fn pinned(generated: &Generated, memories: &Memories) -> Result<Option<(Vec<u8>, Options)>> {
    let Generated { wasm, pages, calls } = generated;
    let [memory] = &memories.all[..] else {
        return Ok(None);
    };
    let ty = &memory.ty;
    let target = own_pages(ty, *pages);
    // A 64-bit memory has a 64-bit heap base, which the generator does not make. A 32-bit memory
    // cannot have 2^32 pages.
    let declarable =
        memory.grows > 0 && !memory.imported && !ty.memory64 && target <= u32::MAX.into();
    if !(calls >> 20).is_multiple_of(2) || !declarable || ty.initial > target {
        return Ok(None);
    }
    let mut options = Options::default();
    options.features = Features::All;
    options.pages = *pages;
    options.emulate_from = match memories.heap_base {
        Some(_) => EmulateFrom::HeapBase,
        None => EmulateFrom::Pages(ty.initial),
    };
    let pinned = declare(wasm, |_, ty| MemoryType {
        initial: target,
        maximum: Some(target),
        ..ty
    })?;
    Ok(Some((pinned, options)))
}

/// Returns the options to rewrite with: the defaults, and one other set.
fn option_sets(memories: &Memories, pages: u64, calls: u64) -> Vec<Options> {
    use wasm_prealloc::Growth::{Emulate, Keep, Pregrown};
    let mut auto = Options::default();
    auto.features = Features::All;
    auto.pages = pages;
    // With `Refuse`, a module that grows an imported memory is refused.
    auto.memory_import = match (calls >> 4) % 8 {
        0 => MemoryImportPolicy::Refuse,
        1 | 2 => MemoryImportPolicy::Define,
        3 | 4 => MemoryImportPolicy::Keep,
        _ if memories.imported() => MemoryImportPolicy::Keep,
        _ => MemoryImportPolicy::Refuse,
    };
    let mut other = auto.clone();
    if memories.imported() && auto.memory_import == MemoryImportPolicy::Keep {
        let start = provided(memories, pages, calls);
        (auto.emulate_from, other.emulate_from) = (start, start);
    }
    // `Keep`, `Pregrown` and a commit touch the whole memory, so they use a small one.
    let small = pages < 1000;
    if small && (calls >> 16).is_multiple_of(2) && !memories.all.is_empty() {
        other.export_commit = Some(COMMIT.to_owned());
    }
    match calls % 4 {
        0 if small => other.growth = Keep,
        1 if small => other.growth = Pregrown,
        2 if let [memory] = &memories.all[..]
            && !memory.imported =>
        {
            // A start around the declared minimum, and not above the cap.
            let minimum = memory.ty.initial;
            let cap = cap(&memory.ty, pages, false);
            let from = match (calls >> 8) % 8 {
                0 => minimum.saturating_sub(1),
                1 => minimum,
                _ => minimum + (calls >> 11) % (cap.saturating_sub(minimum) + 1),
            };
            other.growth = Emulate;
            other.emulate_from = EmulateFrom::Pages(from);
        }
        _ => other.growth = Emulate,
    }
    vec![auto, other]
}

/// Returns the start of growth of an imported memory: the size that an embedder provides, which is
/// often more than the import's minimum.
fn provided(memories: &Memories, pages: u64, calls: u64) -> EmulateFrom {
    let ty = &memories.all[0].ty;
    let minimum = memories.all.iter().map(|memory| memory.ty.initial).max();
    let minimum = minimum.unwrap_or_default();
    match (calls >> 24) % 8 {
        0 => EmulateFrom::Auto,
        1 => EmulateFrom::Declared,
        more => EmulateFrom::Pages((minimum + more - 2).min(cap(ty, pages, true))),
    }
}

/// Returns the kinds of a rewrite, to count its cases by.
fn kinds_of(memories: &Memories, options: &Options) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    let mut add = |applies: bool, kind| kinds.extend(applies.then_some(kind));
    let any = |applies: fn(&MemoryFacts) -> bool| memories.all.iter().any(applies);
    let minimum = memories.all.first().map(|memory| memory.ty.initial);
    let define = options.memory_import == MemoryImportPolicy::Define;
    add(options.export_commit.is_some(), "committed");
    add(
        any(|m| !m.imported && m.exports.is_empty()),
        "with a private memory",
    );
    add(any(|m| m.imported), "with an imported memory");
    add(
        any(|m| m.imported && m.ty.shared),
        "with an imported shared memory",
    );
    add(
        any(|m| m.imported) && define,
        "with an imported memory that is defined",
    );
    add(
        any(|m| m.data_end > 0 && m.data_end == m.bytes(m.ty.initial)),
        "with data that ends at the minimum",
    );
    add(
        any(|m| m.data_unknown),
        "with data at an address from a global",
    );
    add(memories.passive_data, "with passive data");
    if let EmulateFrom::Pages(from) = options.emulate_from {
        let imported = any(|m| m.imported) && !define;
        add(
            imported && Some(from) > minimum,
            "with an import that gets more than its minimum",
        );
        add(
            !imported && Some(from) > minimum,
            "with a start above the minimum",
        );
        add(
            !imported && Some(from) == minimum,
            "with a start at the minimum",
        );
    }
    kinds
}

/// Checks that a refusal has the reason that it names.
fn refused(error: Error, memories: &Memories, options: &Options, stats: &mut Stats) -> Result<()> {
    let any = |applies: &dyn Fn(&MemoryFacts) -> bool| memories.all.iter().any(applies);
    let imported = any(&|m| m.imported && m.sizes + m.grows > 0);
    let policy = options.memory_import;
    let justified = match error.kind() {
        "imported-memory-grows" => imported && policy == MemoryImportPolicy::Refuse,
        "imported-start-unknown" => {
            imported
                && policy == MemoryImportPolicy::Keep
                && options.emulate_from == EmulateFrom::Auto
        }
        "data-above-minimum" => any(&|m| m.data_end > m.bytes(m.ty.initial)),
        "start-below-data" => any(&|m| m.data_end > 0),
        "start-below-minimum" => match options.emulate_from {
            EmulateFrom::Pages(from) => any(&|m| from < m.ty.initial),
            EmulateFrom::HeapBase => true,
            _ => false,
        },
        "start-above-cap" => matches!(options.emulate_from, EmulateFrom::Pages(_)),
        "no-room-for-counter" => any(&|m| cap(&m.ty, options.pages, true) < m.ty.initial),
        "no-natural-minimum" => any(&|m| m.ty.maximum == Some(m.ty.initial)),
        "pages-out-of-range" => any(&|m| m.ty.page_size_log2.is_some()),
        // An imported memory of threads cannot be defined.
        "unsupported" => policy == MemoryImportPolicy::Define && any(&|m| m.ty.shared),
        _ => false,
    };
    let kind = error.kind();
    if !justified {
        return Err(error).context("not a documented refusal");
    }
    stats.count(&format!("refused: {kind}"), 1);
    Ok(())
}

/// Rewrites and compares a module. `calls` is the seed of the calls, and `kinds` are the properties
/// to count the cases by.
fn check_one(
    wasm: &[u8],
    calls: u64,
    kinds: &[&str],
    options: &Options,
    compiled: &mut Compiled,
    stats: &mut Stats,
) -> Result<()> {
    let memories = Memories::read(wasm)?;
    let rewritten = match rewrite(wasm, options) {
        Ok(rewritten) => rewritten,
        Err(error) => return refused(error, &memories, options, stats),
    };
    metadata::check(wasm, &rewritten, stats)?;
    let Rewritten {
        wasm: ours,
        report,
        offset_map,
        ..
    } = rewritten;
    let ours = ours.into_owned();
    check_output(wasm, &ours, options, stats)?;
    check_data(wasm, &memories, &report, compiled).context("its data")?;
    let mut kinds = kinds.to_vec();
    kinds.extend(kinds_of(&memories, options));
    let mut rewritten = compare::Rewritten {
        world: World::of(compiled.module(&ours)?),
        counters: counters(&report.memories, &memories, 0),
        places: None,
    };
    let mut compare_with = |reference: &[u8], places: Option<Places>, stats: &mut Stats| {
        rewritten.places = places;
        let reference = World::of(compiled.module(reference)?);
        let growth = Growth::UpTo(options.pages * WASM_PAGE_SIZE);
        let mut to_the_end = true;
        for sequence in 0..SEQUENCES {
            let seed = calls.wrapping_add(sequence);
            let end = compare(&reference, growth, &rewritten, seed, stats)
                .with_context(|| format!("sequence {sequence}"))?;
            stats.count_case(end, &kinds);
            to_the_end &= end == End::Agreed;
        }
        anyhow::Ok(to_the_end)
    };
    let limits: Option<Vec<MemoryType>> = memories
        .all
        .iter()
        .map(|memory| limits(memory, memories.heap_base, options))
        .collect();
    // If the reference stopped early, the rewrite on walrus is not compared: it cannot show which
    // access is out of bounds in the original.
    let mut may_run = true;
    if let Some(limits) = limits {
        let reference = declare(wasm, |index, _| limits[index])?;
        let places = Places::new(&reference, wasm, &offset_map)?;
        may_run =
            compare_with(&reference, Some(places), stats).context("compared with the original")?;
    }
    let natural = matches!(
        options.emulate_from,
        EmulateFrom::Auto | EmulateFrom::Declared
    );
    if natural
        && may_run
        && options.pages < 1000
        && counters(&report.memories, &memories, 0).is_empty()
        && let Ok(theirs) = walrus_rewrite(wasm, options.pages, options.growth)
    {
        stats.count("cases compared with walrus", SEQUENCES);
        compare_with(&theirs, None, stats).context("compared with walrus")?;
    }
    Ok(())
}

/// Checks the properties of an output that need no run.
fn check_output(wasm: &[u8], ours: &[u8], options: &Options, stats: &mut Stats) -> Result<()> {
    if !Memories::read(wasm)?.all.is_empty() {
        verify(ours, options.pages).context("the result does not verify")?;
    }
    // The export is there already, and its name cannot be used again.
    let mut second = options.clone();
    second.export_commit = None;
    let again = rewrite(ours, &second).context("the result cannot be rewritten")?;
    ensure!(again.wasm == ours, "a second rewrite changes something");
    let memories = Memories::read(wasm)?;
    if is_same_in_component(&memories, options) {
        in_component(wasm, ours, options).context("in a component")?;
        stats.count("cases rewritten in a component too", SEQUENCES);
    }
    Ok(())
}

/// Returns true if a module is rewritten to the same bytes in a component: nothing outside of the
/// module can reach its memories.
fn is_same_in_component(memories: &Memories, options: &Options) -> bool {
    let private = |m: &MemoryFacts| !m.imported && (m.exports.is_empty() || m.grows > 0);
    options.memory_import == MemoryImportPolicy::Refuse
        && options.export_commit.is_none()
        && memories.all.iter().all(private)
}

/// A module whose data does not fit into its memory is refused. If the address of the data is not
/// constant, the report warns of it.
fn check_data(
    wasm: &[u8],
    memories: &Memories,
    report: &Report,
    compiled: &mut Compiled,
) -> Result<()> {
    let defined = |m: &&MemoryFacts| !m.imported && m.ty.maximum != Some(m.ty.initial);
    let beyond = |m: &MemoryFacts| m.data_end > m.bytes(m.ty.initial);
    if memories.all.iter().filter(defined).any(beyond) {
        bail!("a segment lies above the minimum, and is not refused");
    }
    if !memories.all.iter().filter(defined).any(|m| m.data_unknown) {
        return Ok(());
    }
    let warns = |warning: &Warning| matches!(warning, Warning::DataAddressUnknown { .. });
    if report.warnings.iter().any(warns) {
        return Ok(());
    }
    let started = Running::start(&World::of(compiled.module(wasm)?), Growth::Refused)?;
    let out_of_bounds = Outcome::Trapped(wasmtime::Trap::MemoryOutOfBounds);
    ensure!(
        started.err() != Some(out_of_bounds),
        "a segment lies above the minimum, and the report does not warn of it"
    );
    Ok(())
}

/// Checks that the module is rewritten to the same bytes in a component, and that nothing else in the
/// component changes.
fn in_component(wasm: &[u8], rewritten: &[u8], options: &Options) -> Result<()> {
    let around = |module: &[u8]| {
        const CORE_MODULE: u8 = 1;
        let custom = |name: &'static str| wasm_encoder::CustomSection {
            name: name.into(),
            data: b"copied as it is"[..].into(),
        };
        let module = wasm_encoder::RawSection {
            id: CORE_MODULE,
            data: module,
        };
        let mut component = wasm_encoder::Component::new();
        component.section(&custom("before"));
        component.section(&module);
        component.section(&custom("after"));
        component.finish()
    };
    let component = around(wasm);
    ensure!(
        rewrite(&component, options)?.wasm == around(rewritten),
        "the bytes differ from a rewrite outside of a component"
    );
    Ok(())
}
