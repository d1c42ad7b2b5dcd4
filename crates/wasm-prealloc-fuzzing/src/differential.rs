//! The differential test: rewrites a module in several ways, and compares each result with a
//! reference module that must behave the same. The comparison itself is in `compare`.
//!
//! One difference is allowed: an access that is out of bounds in the reference. The comparison stops
//! there, and is counted. It also stops when a stack overflows, because a rewritten function may need
//! one more frame.

use anyhow::{Context as _, Result, ensure};
use wasm_prealloc::{
    EmulateFrom, Error, Features, MemoryImportPolicy, Options, WASM_PAGE_SIZE, rewrite, verify,
};
use wasmparser::{MemoryType, Validator, WasmFeatures};
use wasmtime::Module;

use crate::compare::{COMMIT, compare};
use crate::declare::{Memories, declare};
use crate::generate::Generated;
use crate::run::{Growth, compile};
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
    const FEATURES: [(&str, WasmFeatures); 7] = [
        ("with several memories", WasmFeatures::MULTI_MEMORY),
        ("with 64-bit memories", WasmFeatures::MEMORY64),
        ("with custom page sizes", WasmFeatures::CUSTOM_PAGE_SIZES),
        ("with exceptions", WasmFeatures::EXCEPTIONS),
        ("with garbage-collected types", WasmFeatures::GC),
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
    let ([ty], [(_, 1..)]) = (&memories.types[..], &memories.sites[..]) else {
        return Ok(None);
    };
    let target = own_pages(ty, *pages);
    // A 64-bit memory has a 64-bit heap base, which the generator does not make. A 32-bit memory
    // cannot have 2^32 pages.
    let declarable = !memories.imported && !ty.memory64 && target <= u32::MAX.into();
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
    auto.memory_import = match (calls >> 4) % 4 {
        0 => MemoryImportPolicy::Refuse,
        1 => MemoryImportPolicy::Define,
        _ => MemoryImportPolicy::Keep,
    };
    let mut other = auto.clone();
    // `Keep`, `Pregrown` and a commit touch the whole memory, so they use a small one.
    let small = pages < 1000;
    if small && (calls >> 16).is_multiple_of(2) {
        other.export_commit = Some(COMMIT.to_owned());
    }
    match calls % 4 {
        0 if small => other.growth = Keep,
        1 if small => other.growth = Pregrown,
        2 if let [ty] = &memories.types[..]
            && ty.page_size_log2.is_none() =>
        {
            // A start above the declared minimum, and not above the cap.
            let cap = cap(ty, pages);
            let from = ty.initial + (calls >> 8) % (cap.saturating_sub(ty.initial) + 1);
            other.growth = Emulate;
            other.emulate_from = EmulateFrom::Pages(from);
        }
        _ => other.growth = Emulate,
    }
    vec![auto, other]
}

/// Converts `pages` of 64 KiB to pages of the memory's own page size.
fn own_pages(ty: &MemoryType, pages: u64) -> u64 {
    (pages * WASM_PAGE_SIZE) >> ty.page_size_log2.unwrap_or(16)
}

/// Returns the size, in the memory's own pages, to which a memory can grow.
fn cap(ty: &MemoryType, pages: u64) -> u64 {
    let target = own_pages(ty, pages);
    ty.maximum.unwrap_or(target).min(target)
}

/// Returns the limits that the memory has in the reference module, which grows freely. `None` if no
/// limits describe the behaviour of the rewrite.
fn reference(
    ty: &MemoryType,
    (sizes, grows): (usize, usize),
    heap_base: Option<u64>,
    options: &Options,
) -> Option<MemoryType> {
    use wasm_prealloc::Growth::{Auto, Emulate, Keep, Pregrown};
    let target = own_pages(ty, options.pages);
    let cap = cap(ty, options.pages);
    let with = |minimum, maximum| {
        Some(MemoryType {
            initial: minimum,
            maximum,
            ..*ty
        })
    };
    let as_declared = Some(*ty);
    let fixed = with(target, Some(target));
    // The size that a pregrown memory reports. Its size in bytes must not overflow.
    let readable = match ty.memory64 {
        true => u64::MAX,
        false => u64::from(u32::MAX) >> ty.page_size_log2.unwrap_or(16),
    };
    let grown = with(cap.min(readable), ty.maximum);
    let at_target = ty.initial == target && ty.maximum == Some(target);
    match (options.growth, sizes, grows) {
        (_, 0, 0) => as_declared,
        (Emulate, ..) | (Auto, _, 1..) => match options.emulate_from {
            EmulateFrom::Pages(pages) => with(pages, ty.maximum),
            EmulateFrom::HeapBase => {
                let page = 1 << ty.page_size_log2.unwrap_or(16);
                with(heap_base?.div_ceil(page), ty.maximum)
            }
            EmulateFrom::Auto | EmulateFrom::Declared => as_declared,
            from => unimplemented!("growth from {from}"),
        },
        (Auto, ..) if at_target => as_declared,
        (Auto | Pregrown, _, 0) => grown,
        // The remaining `memory.grow` fails, or returns the real size if it grows by 0.
        (Pregrown, 1.., 1..) if cap != target || cap > 65_535 => None,
        (Pregrown | Keep, ..) => fixed,
        (growth, ..) => unimplemented!("growth {growth}"),
    }
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
    let ours = match rewrite(wasm, options) {
        Ok(rewritten) => rewritten.wasm.into_owned(),
        Err(error) => {
            let reason = refusal(&error).ok_or(error)?;
            stats.count(&format!("refused: {reason}"), 1);
            return Ok(());
        }
    };
    if !memories.types.is_empty() {
        verify(&ours, options.pages).context("the result does not verify")?;
    }
    // The export is there already, and its name cannot be used again.
    let mut second = options.clone();
    second.export_commit = None;
    let again = rewrite(&ours, &second).context("the result cannot be rewritten")?;
    ensure!(again.wasm == ours, "a second rewrite changes something");
    match in_component(wasm, &ours, options).context("in a component")? {
        None => stats.count("cases rewritten in a component too", SEQUENCES),
        Some(reason) => stats.count(&format!("refused in a component: {reason}"), 1),
    }

    let mut kinds = kinds.to_vec();
    kinds.extend(options.export_commit.as_ref().map(|_| "committed"));
    let mut compare_with = |reference: &[u8], stats: &mut Stats| {
        let (reference, ours) = (compiled.module(reference)?, compiled.module(&ours)?);
        let growth = Growth::UpTo(options.pages * WASM_PAGE_SIZE);
        let mut to_the_end = true;
        for sequence in 0..SEQUENCES {
            let seed = calls.wrapping_add(sequence);
            let end = compare(&reference, growth, &ours, seed, stats)
                .with_context(|| format!("sequence {sequence}"))?;
            stats.count_case(end, &kinds);
            to_the_end &= end == End::Agreed;
        }
        anyhow::Ok(to_the_end)
    };
    let limits: Option<Vec<MemoryType>> = memories
        .types
        .iter()
        .zip(&memories.sites)
        .map(|(ty, sites)| reference(ty, *sites, memories.heap_base, options))
        .collect();
    // If the reference stopped early, the rewrite on walrus is not compared: it cannot show which
    // access is out of bounds in the original.
    let mut may_run = true;
    if let Some(limits) = limits {
        let reference = declare(wasm, |index, _| limits[index])?;
        may_run = compare_with(&reference, stats).context("compared with the original")?;
    }
    let natural = matches!(
        options.emulate_from,
        EmulateFrom::Auto | EmulateFrom::Declared
    );
    if natural
        && may_run
        && options.pages < 1000
        && let Ok(theirs) = walrus_rewrite(wasm, options.pages, options.growth)
    {
        stats.count("cases compared with walrus", SEQUENCES);
        compare_with(&theirs, stats).context("compared with walrus")?;
    }
    Ok(())
}

/// Checks that the module is rewritten to the same bytes in a component, and that nothing else in the
/// component changes. Returns the reason if the rewriter refuses the component.
fn in_component(wasm: &[u8], rewritten: &[u8], options: &Options) -> Result<Option<String>> {
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
    let found = match rewrite(&component, options) {
        Ok(rewritten) => rewritten.wasm,
        // The other modules of the component would use another memory than this module.
        Err(Error::Unsupported { what, .. })
            if options.memory_import == MemoryImportPolicy::Define =>
        {
            return Ok(Some(what.to_string()));
        }
        Err(error) => return Err(error.into()),
    };
    ensure!(
        found == around(rewritten),
        "the bytes differ from a rewrite outside of a component"
    );
    Ok(None)
}

/// Returns the reason of a documented refusal. `None` for any other error.
fn refusal(error: &Error) -> Option<String> {
    Some(match error {
        Error::Unsupported { what, .. } => what.to_string(),
        Error::ImportedMemoryGrows { .. } => "it grows a memory that it imports".to_owned(),
        Error::NoNaturalMinimum { .. } => "it is pinned already".to_owned(),
        Error::PagesOutOfRange { .. } => "no memory with such pages is so large".to_owned(),
        Error::ImportedStartUnknown { .. } => "the start of its growth is unknown".to_owned(),
        Error::StartBelowData { .. } => "growth would start below its data".to_owned(),
        Error::StartBelowMinimum { .. } => "growth would start below its minimum".to_owned(),
        Error::DataAboveMinimum { .. } => "its data is above its minimum".to_owned(),
        Error::NoRoomForCounter { .. } => "its last page is in use".to_owned(),
        Error::NothingToCommit => "it has no memory to commit".to_owned(),
        _ => return None,
    })
}
