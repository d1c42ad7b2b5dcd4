//! Rewrites a module in several ways, and says what each result must behave as: whatever can be
//! observed is the same. How two modules are compared is in `compare`.
//!
//! The one allowed difference is an access that is out of bounds in the module that is compared
//! with: where that happens, the comparison stops, and is counted. So it does where a stack
//! overflows, because a rewritten function may take one frame more.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result, ensure};
use wasm_prealloc::{EmulateFrom, Error, MemoryImportPolicy, Options, rewrite, verify};
use wasmparser::{MemoryType, Validator, WasmFeatures};
use wasmtime::Module;

use crate::compare::{COMMIT, End, compare};
use crate::declare::{Memories, declare};
use crate::run::{Growth, compile};
use crate::{Generated, walrus_rewrite};

/// Bytes of a WebAssembly page.
const PAGE: u64 = 65_536;

/// Sequences of calls made of two modules that must behave the same, each of new instances.
const SEQUENCES: u64 = 3;

/// What has been checked so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Modules generated.
    pub modules: u64,
    /// Sequences of calls made of a rewritten module and of something that must behave the same.
    pub cases: u64,
    /// How many of these there are with what a module may have, or whatever else sets some apart.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Of these, in how many the second implementation was one of the two.
    pub walrus: u64,
    /// In how many a memory has grown.
    pub grew: u64,
    /// How many came to their end without meeting an allowed difference.
    pub to_the_end: u64,
    /// How many stopped where an access was out of bounds.
    pub out_of_bounds: u64,
    /// How many stopped where a stack overflowed, or the collector's heap was full.
    pub full: u64,
    /// Calls whose outcomes have been compared.
    pub calls: u64,
    /// What the rewriter refused, by reason.
    pub refused: BTreeMap<String, u64>,
}

impl Tally {
    /// Adds what another run has checked.
    pub fn add(&mut self, other: &Self) {
        self.modules += other.modules;
        self.cases += other.cases;
        self.walrus += other.walrus;
        self.grew += other.grew;
        self.to_the_end += other.to_the_end;
        self.out_of_bounds += other.out_of_bounds;
        self.full += other.full;
        self.calls += other.calls;
        for (kind, count) in &other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        for (reason, count) in &other.refused {
            *self.refused.entry(reason.clone()).or_default() += count;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} modules, {} cases ({} beside walrus), {} calls; memory grew in {}",
            self.modules, self.cases, self.walrus, self.calls, self.grew
        )?;
        write!(
            f,
            "{} to the end, {} until an access out of bounds, {} until a stack or heap was full",
            self.to_the_end, self.out_of_bounds, self.full
        )?;
        for (kind, count) in &self.kinds {
            write!(f, "\n{count:6} {kind}")?;
        }
        for (reason, count) in &self.refused {
            write!(f, "\n{count:6} refused: {reason}")?;
        }
        Ok(())
    }
}

/// Rewrites a module in the ways that `generated` asks for, and runs each result beside what it
/// must behave as.
///
/// # Errors
/// Where something differs: what, and where. The module's text is part of it.
pub fn check(generated: &Generated, tally: &mut Tally) -> Result<()> {
    tally.modules += 1;
    let in_words = || {
        let text = wasmprinter::print_bytes(&generated.wasm);
        let pages = generated.pages;
        format!("rewritten to {pages} pages:\n{}", text.unwrap_or_default())
    };
    check_each(generated, tally).with_context(in_words)
}

fn check_each(generated: &Generated, tally: &mut Tally) -> Result<()> {
    let Generated { wasm, pages, calls } = generated;
    Validator::new_with_features(WasmFeatures::all()).validate_all(wasm)?;
    let memories = Memories::read(wasm)?;
    let mut compiled = Compiled::default();
    let kinds = features(wasm);
    for options in option_sets(&memories, *pages, *calls) {
        let subject = Subject {
            wasm,
            memories: &memories,
            kinds: &kinds,
            calls: *calls,
        };
        check_one(&subject, &options, &mut compiled, tally)
            .with_context(|| format!("{options:?}"))?;
    }
    if let Some((pinned, options)) = pinned(generated, &memories)? {
        let memories = Memories::read(&pinned)?;
        let subject = Subject {
            wasm: &pinned,
            memories: &memories,
            kinds: &[&kinds[..], &["pinned before"]].concat(),
            calls: *calls,
        };
        check_one(&subject, &options, &mut compiled, tally)
            .with_context(|| format!("pinned before, {options:?}"))?;
    }
    Ok(())
}

/// Modules that have been compiled, by their bytes: a rewrite is often what another one is, or
/// the module itself.
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

/// A module that is rewritten and run.
struct Subject<'a> {
    wasm: &'a [u8],
    memories: &'a Memories,
    kinds: &'a [&'static str],
    /// Chooses the calls.
    calls: u64,
}

/// What of the format a module needs: without it, it is not valid.
fn features(wasm: &[u8]) -> Vec<&'static str> {
    const FEATURES: [(&str, WasmFeatures); 7] = [
        ("with several memories", WasmFeatures::MULTI_MEMORY),
        ("with 64-bit memories", WasmFeatures::MEMORY64),
        ("with custom page sizes", WasmFeatures::CUSTOM_PAGE_SIZES),
        ("with exceptions", WasmFeatures::EXCEPTIONS),
        ("with collected types", WasmFeatures::GC),
        ("with tail calls", WasmFeatures::TAIL_CALL),
        ("with vectors", WasmFeatures::SIMD),
    ];
    let needed = FEATURES.iter().filter(|(_, feature)| {
        let mut validator = Validator::new_with_features(WasmFeatures::all() - *feature);
        validator.validate_all(wasm).is_err()
    });
    needed.map(|(kind, _)| *kind).collect()
}

/// The module as somebody has linked it who declared the final size himself, and the options that
/// make it grow from where its heap begins or from a number.
fn pinned(generated: &Generated, memories: &Memories) -> Result<Option<(Vec<u8>, Options)>> {
    let Generated { wasm, pages, calls } = generated;
    let ([ty], [(_, 1..)]) = (&memories.types[..], &memories.sites[..]) else {
        return Ok(None);
    };
    let target = own_pages(ty, *pages);
    // Where addresses are 64-bit, so is the heap's base, and the generator makes none such; and no
    // 32-bit memory has 2^32 pages.
    let declarable = !memories.imported && !ty.memory64 && target <= u32::MAX.into();
    if !(calls >> 20).is_multiple_of(2) || !declarable || ty.initial > target {
        return Ok(None);
    }
    let mut options = Options::default();
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

/// What is asked of the rewriter: always what it does by itself, and one thing more.
fn option_sets(memories: &Memories, pages: u64, calls: u64) -> Vec<Options> {
    use wasm_prealloc::Growth::{Emulate, Keep, Pregrown};
    let mut auto = Options::default();
    auto.pages = pages;
    // One in four asks what is refused where the memory grows.
    auto.memory_import = match (calls >> 4) % 4 {
        0 => MemoryImportPolicy::Refuse,
        1 => MemoryImportPolicy::Define,
        _ => MemoryImportPolicy::Keep,
    };
    let mut other = auto.clone();
    // What is kept or committed touches all of the memory, so it gets no large one.
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
            // Later than the module declares, and not above the cap.
            let cap = cap(ty, pages);
            let from = ty.initial + (calls >> 8) % (cap.saturating_sub(ty.initial) + 1);
            other.growth = Emulate;
            other.emulate_from = EmulateFrom::Pages(from);
        }
        _ => other.growth = Emulate,
    }
    vec![auto, other]
}

/// Pages of the memory's own size that `pages` ordinary ones come to.
fn own_pages(ty: &MemoryType, pages: u64) -> u64 {
    (pages * PAGE) >> ty.page_size_log2.unwrap_or(16)
}

/// The size, in its own pages, that a memory can grow to.
fn cap(ty: &MemoryType, pages: u64) -> u64 {
    let target = own_pages(ty, pages);
    ty.maximum.unwrap_or(target).min(target)
}

/// The limits with which a memory, left to grow as it likes, is what its rewrite must behave as;
/// `None` where there are none such.
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
    // What somebody else has grown, and not to where its size in bytes would wrap.
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
            EmulateFrom::Declared => as_declared,
        },
        (Auto, ..) if at_target => as_declared,
        (Auto | Pregrown, _, 0) => grown,
        // What is left of growth fails, and gives the real size where it grows by nothing.
        (Pregrown, 1.., 1..) if cap != target || cap > 65_535 => None,
        (Pregrown | Keep, ..) => fixed,
    }
}

fn check_one(
    subject: &Subject<'_>,
    options: &Options,
    compiled: &mut Compiled,
    tally: &mut Tally,
) -> Result<()> {
    let Subject {
        wasm,
        memories,
        kinds,
        calls,
    } = subject;
    let ours = match rewrite(wasm, options) {
        Ok(rewritten) => rewritten.wasm.into_owned(),
        Err(error) => {
            let reason = refusal(&error).ok_or(error)?;
            *tally.refused.entry(reason).or_default() += 1;
            return Ok(());
        }
    };
    if !memories.types.is_empty() {
        verify(&ours, options.pages).context("the result does not verify")?;
    }
    // What is exported already cannot be exported once more.
    let mut second = options.clone();
    second.export_commit = None;
    let again = rewrite(&ours, &second).context("the result cannot be rewritten")?;
    ensure!(again.wasm == ours, "a second rewrite changes something");
    in_component(wasm, &ours, options).context("in a component")?;
    *tally
        .kinds
        .entry("rewritten in a component too")
        .or_default() += SEQUENCES;

    let mut kinds = kinds.to_vec();
    kinds.extend(options.export_commit.as_ref().map(|_| "committed"));
    let bytes = options.pages * PAGE;
    let limits: Option<Vec<MemoryType>> = memories
        .types
        .iter()
        .zip(&memories.sites)
        .map(|(ty, sites)| reference(ty, *sites, memories.heap_base, options))
        .collect();
    let mut beside = |what: &[u8], tally: &mut Tally| {
        let (what, ours) = (compiled.module(what)?, compiled.module(&ours)?);
        let mut survived = true;
        for sequence in 0..SEQUENCES {
            let seed = calls.wrapping_add(sequence);
            let end = compare(&what, Growth::UpTo(bytes), &ours, seed, tally)
                .with_context(|| format!("sequence {sequence}"))?;
            tally.cases += 1;
            for kind in &kinds {
                *tally.kinds.entry(kind).or_default() += 1;
            }
            match end {
                End::Agreed => tally.to_the_end += 1,
                End::OutOfBounds => tally.out_of_bounds += 1,
                End::Full => tally.full += 1,
            }
            survived &= matches!(end, End::Agreed);
        }
        anyhow::Ok(survived)
    };
    // What the reference has not survived, the second implementation must not be asked: it cannot
    // be told there whether an access is one that used to trap.
    let mut may_run = true;
    if let Some(limits) = limits {
        let reference = declare(wasm, |index, _| limits[index])?;
        may_run = beside(&reference, tally).context("beside the original")?;
    }
    let natural = options.emulate_from == EmulateFrom::Declared;
    if natural
        && may_run
        && options.pages < 1000
        && let Ok(theirs) = walrus_rewrite(wasm, options.pages, options.growth)
    {
        tally.walrus += SEQUENCES;
        beside(&theirs, tally).context("beside walrus")?;
    }
    Ok(())
}

/// In a component, a module is rewritten to the same bytes as alone, and nothing else changes.
/// `false` where the rewriter refuses it there.
fn in_component(wasm: &[u8], rewritten: &[u8], options: &Options) -> Result<bool> {
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
        component.section(&custom("behind"));
        component.finish()
    };
    let component = around(wasm);
    let found = match rewrite(&component, options) {
        Ok(rewritten) => rewritten.wasm,
        // Others in the component would have another memory than this module.
        Err(Error::Unsupported { .. }) if options.memory_import == MemoryImportPolicy::Define => {
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    };
    ensure!(found == around(rewritten), "it is not what it is alone");
    Ok(true)
}

/// Why the rewriter refuses what it documents that it refuses.
fn refusal(error: &Error) -> Option<String> {
    Some(match error {
        Error::Unsupported { what, .. } => what.to_string(),
        Error::ImportedMemoryGrows { .. } => "it grows a memory that it imports".to_owned(),
        Error::NoNaturalMinimum { .. } => "it is pinned already".to_owned(),
        Error::PagesOutOfRange { .. } => "no memory with such pages is so large".to_owned(),
        Error::StartBelowData { .. } => "growth would start below its data".to_owned(),
        _ => return None,
    })
}
