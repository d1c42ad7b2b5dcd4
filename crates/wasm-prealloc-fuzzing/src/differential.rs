//! Runs a module and its rewrites side by side: what can be observed is the same.
//!
//! The one allowed difference is an access that is out of bounds in the module that is compared
//! with: where that happens, the comparison stops, and is counted. So it does where a stack
//! overflows, because a rewritten function may take one frame more.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result, bail, ensure};
use wasm_prealloc::{EmulateFrom, Error, MemoryImportPolicy, Options, rewrite, verify};
use wasmparser::{MemoryType, Validator, WasmFeatures};
use wasmtime::{Trap, Val, ValType};

use crate::declare::{Memories, declare};
use crate::run::{Growth, Outcome, Running};
use crate::{Generated, walrus_rewrite};

/// Bytes of a WebAssembly page.
const PAGE: u64 = 65_536;

/// Calls made of one module.
const CALLS: usize = 8;

/// What has been checked so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Modules generated.
    pub modules: u64,
    /// Modules run beside something that must behave the same.
    pub cases: u64,
    /// Of these, in how many the second implementation was one of the two.
    pub walrus: u64,
    /// In how many a memory has grown.
    pub grew: u64,
    /// How many came to their end without meeting an allowed difference.
    pub to_the_end: u64,
    /// How many stopped where an access was out of bounds.
    pub out_of_bounds: u64,
    /// How many stopped where a stack overflowed.
    pub stack: u64,
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
        self.stack += other.stack;
        self.calls += other.calls;
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
            "{} to the end, {} until an access out of bounds, {} until a stack overflow",
            self.to_the_end, self.out_of_bounds, self.stack
        )?;
        for (reason, count) in &self.refused {
            write!(f, "\n{count} refused: {reason}")?;
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
    for options in option_sets(&memories, *pages, *calls) {
        check_one(wasm, &memories, &options, *calls, tally)
            .with_context(|| format!("{options:?}"))?;
    }
    Ok(())
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
    // What is kept may touch all of the memory, so it gets no large one.
    let small = pages < 1000;
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
        (Emulate, ..) => match options.emulate_from {
            EmulateFrom::Pages(pages) => with(pages, ty.maximum),
            _ => as_declared,
        },
        (Auto, _, 1..) => as_declared,
        (Auto, ..) if at_target => as_declared,
        (Auto | Pregrown, _, 0) => grown,
        // What is left of growth fails, and gives the real size where it grows by nothing.
        (Pregrown, 1.., 1..) if cap != target || cap > 65_535 => None,
        (Pregrown | Keep, ..) => fixed,
    }
}

fn check_one(
    wasm: &[u8],
    memories: &Memories,
    options: &Options,
    calls: u64,
    tally: &mut Tally,
) -> Result<()> {
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
    let again = rewrite(&ours, options).context("the result cannot be rewritten")?;
    ensure!(again.wasm == ours, "a second rewrite changes something");

    let bytes = options.pages * PAGE;
    let limits: Option<Vec<MemoryType>> = memories
        .types
        .iter()
        .zip(&memories.sites)
        .map(|(ty, sites)| reference(ty, *sites, options))
        .collect();
    let beside = |what: &[u8], tally: &mut Tally| {
        let end = compare(what, Growth::UpTo(bytes), &ours, calls, tally)?;
        tally.cases += 1;
        match end {
            End::Agreed => tally.to_the_end += 1,
            End::OutOfBounds => tally.out_of_bounds += 1,
            End::StackOverflow => tally.stack += 1,
        }
        anyhow::Ok(end)
    };
    // What the reference has not survived, the second implementation must not be asked: it cannot
    // be told there whether an access is one that used to trap.
    let mut may_run = true;
    if let Some(limits) = limits {
        let reference = declare(wasm, |index, _| limits[index])?;
        let end = beside(&reference, tally).context("beside the original")?;
        may_run = matches!(end, End::Agreed);
    }
    let natural = options.emulate_from == EmulateFrom::Declared;
    if natural
        && may_run
        && options.pages < 1000
        && let Ok(theirs) = walrus_rewrite(wasm, options.pages, options.growth)
    {
        tally.walrus += 1;
        beside(&theirs, tally).context("beside walrus")?;
    }
    Ok(())
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

/// How a comparison has ended without finding a difference.
enum End {
    Agreed,
    OutOfBounds,
    StackOverflow,
}

/// The traps at which the two may part.
fn parting(trap: Trap) -> Option<End> {
    match trap {
        Trap::MemoryOutOfBounds => Some(End::OutOfBounds),
        Trap::StackOverflow => Some(End::StackOverflow),
        _ => None,
    }
}

/// Makes the same calls of two modules, of the one that may trap out of bounds first: a call that
/// has is not made of the other, which would go on into memory that it should not have.
fn compare(
    reference: &[u8],
    growth: Growth,
    rewritten: &[u8],
    calls: u64,
    tally: &mut Tally,
) -> Result<End> {
    let before = Running::start(reference, growth).context("the original")?;
    if let Err(trap) = before
        && let Some(end) = parting(trap)
    {
        return Ok(end);
    }
    let after = Running::start(rewritten, Growth::Refused).context("the rewritten")?;
    let (mut before, mut after) = match (before, after) {
        (Ok(before), Ok(after)) => (before, after),
        (_, Err(Trap::StackOverflow)) => return Ok(End::StackOverflow),
        (Err(expected), Err(found)) if expected == found => return Ok(End::Agreed),
        (before, after) => {
            let (before, after) = (before.err(), after.err());
            bail!("instantiation: {before:?} in the original, {after:?} in the rewritten");
        }
    };
    same_state(&mut before, &mut after, false).context("after instantiation")?;
    let mut random = fastrand::Rng::with_seed(calls);
    let functions = before.functions();
    let sizes = |running: &mut Running| -> Vec<u64> {
        let memories = running.memories();
        memories
            .iter()
            .map(|(_, memory)| memory.size(&running.store))
            .collect()
    };
    let smallest: Vec<u64> = {
        let memories = before.memories();
        let types = memories.iter().map(|(_, m)| m.ty(&before.store));
        types.map(|ty| ty.minimum()).collect()
    };
    let mut made = 0;
    let end = loop {
        if made == CALLS || functions.is_empty() {
            break End::Agreed;
        }
        made += 1;
        let (name, params) = &functions[random.usize(..functions.len())];
        let params: Vec<Val> = params.iter().map(|ty| param(ty, &mut random)).collect();
        let in_words = || format!("call {made}: `{name}` {params:?}");
        let expected = before.call(name, &params).with_context(in_words)?;
        if let Outcome::Trapped(trap) = expected
            && let Some(end) = parting(trap)
        {
            break end;
        }
        let found = after.call(name, &params).with_context(in_words)?;
        if found == Outcome::Trapped(Trap::StackOverflow) {
            break End::StackOverflow;
        }
        ensure!(
            found == expected,
            "{}: {expected:?} in the original, {found:?} in the rewritten",
            in_words()
        );
        tally.calls += 1;
        same_state(&mut before, &mut after, made == CALLS).with_context(in_words)?;
    };
    tally.grew += u64::from(sizes(&mut before) != smallest);
    Ok(end)
}

/// A parameter: mostly one that can be an address or a number of pages.
fn param(ty: &ValType, random: &mut fastrand::Rng) -> Val {
    let number = match random.u8(..4) {
        0 => random.u64(..),
        1 => random.u64(..8),
        _ => random.u64(..200_000),
    };
    match ty {
        ValType::I32 => Val::I32(number as i32),
        ValType::I64 => Val::I64(number.cast_signed()),
        ValType::F32 => Val::F32((number as f32).to_bits()),
        ValType::F64 => Val::F64((number as f64).to_bits()),
        ValType::V128 => Val::V128(u128::from(number).wrapping_mul(0x1_0001_0001_0001).into()),
        ValType::Ref(ty) => Val::null_ref(ty.heap_type()),
    }
}

/// Everything that can be seen from outside, as far as the original has it. Memories without a
/// word are looked into up to a mebibyte only, or as a whole where it is the `last` look.
fn same_state(before: &mut Running, after: &mut Running, last: bool) -> Result<()> {
    let theirs = after.globals_and_tables();
    for (name, expected) in before.globals_and_tables() {
        let found = theirs.iter().find(|(other, _)| *other == name);
        let found = found.map(|(_, seen)| *seen);
        ensure!(
            found == Some(expected),
            "`{name}`: {expected:?} in the original, {found:?} in the rewritten"
        );
    }
    static ZEROS: [u8; 4096] = [0; 4096];
    const LOOK: usize = 1 << 20;
    const LONG_LOOK: usize = 1 << 24;
    let look = if last { LONG_LOOK } else { LOOK };
    let theirs = after.memories();
    for (name, memory) in before.memories() {
        // An import that has become a definition is exported under its field's name.
        let defined = name.strip_prefix("env.");
        let found = theirs
            .iter()
            .find(|(other, _)| *other == name)
            .or_else(|| theirs.iter().find(|(other, _)| Some(&other[..]) == defined));
        let (_, found) = found.with_context(|| format!("memory `{name}` is gone"))?;
        let expected = memory.data(&before.store);
        let found = found.data(&after.store);
        ensure!(
            found.len() >= expected.len(),
            "memory `{name}` is smaller than the original's"
        );
        let used = expected.len().min(look);
        if expected[..used] != found[..used] {
            let differs = |at: &usize| expected[*at] != found[*at];
            let at = (0..used).find(differs).unwrap_or_default();
            bail!(
                "memory `{name}` differs at {at:#x}: {:#x} in the original, {:#x} in the rewritten",
                expected[at],
                found[at]
            );
        }
        // Nothing has been written above what the original has.
        let above = &found[expected.len()..];
        let above = &above[..above.len().min(look / 16)];
        let clean = above
            .chunks(ZEROS.len())
            .all(|chunk| *chunk == ZEROS[..chunk.len()]);
        ensure!(
            clean,
            "memory `{name}` is written to above its virtual size"
        );
    }
    Ok(())
}
