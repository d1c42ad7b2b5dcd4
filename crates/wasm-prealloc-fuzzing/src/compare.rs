//! Makes the same calls on two worlds of modules, and compares the results and the state afterwards.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use wasm_prealloc::{GrowthHandling, MemoryReport};
use wasmtime::{Memory, SharedMemory, Trap, Val, ValType};

use crate::declare::{IMPORT, Memories};
use crate::metadata::Places;
use crate::run::{AnyMemory, FNV_PRIME, Growth, MAX_FRAMES, Outcome, Running, World};
use crate::stats::{End, Stats};

/// The number of calls in a sequence.
const CALLS: usize = 6;

/// The name for the exported function that makes all memories resident.
pub(crate) const COMMIT: &str = "commit all memory";

/// A counter in a memory. It holds the number of pages by which the memory grew.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counter {
    pub(crate) address: u64,
    /// The size at which growth starts.
    pub(crate) from_pages: u64,
    /// The bytes of the counter: 8 for a 64-bit memory, and otherwise 4.
    pub(crate) bytes: usize,
}

/// The rewritten modules, and the counters by the name of their memory.
pub(crate) struct Rewritten {
    pub(crate) world: World,
    pub(crate) counters: BTreeMap<String, Counter>,
    /// The places of the original's instructions, if they are compared.
    pub(crate) places: Option<Places>,
}

/// Returns the counters that a rewrite has put into the memories of a module, by the names that they
/// have in a world. `reports` are those of the module's memories.
pub(crate) fn counters(
    reports: &[MemoryReport],
    memories: &Memories,
    instance: usize,
) -> BTreeMap<String, Counter> {
    let mut counters = BTreeMap::new();
    for (report, memory) in reports.iter().zip(&memories.all) {
        let GrowthHandling::Emulated {
            from_pages,
            address: Some(address),
            ..
        } = report.growth
        else {
            continue;
        };
        let counter = Counter {
            address,
            from_pages,
            bytes: if memory.ty.memory64 { 8 } else { 4 },
        };
        let exports = memory
            .exports
            .iter()
            .map(|name| format!("{instance}.{name}"));
        let import = memory
            .imported
            .then(|| format!("{}.{}", IMPORT.0, IMPORT.1));
        counters.extend(exports.chain(import).map(|name| (name, counter)));
    }
    counters
}

/// Returns the end of the comparison if the two modules may differ from this outcome on.
fn allowed_end(outcome: &Outcome) -> Option<End> {
    match outcome {
        Outcome::Trapped(Trap::MemoryOutOfBounds) => Some(End::OutOfBounds),
        Outcome::Trapped(Trap::StackOverflow | Trap::AllocationTooLarge) | Outcome::HeapFull => {
            Some(End::Full)
        }
        _ => None,
    }
}

/// Makes the same calls on two worlds, first on the reference. If a call is out of bounds there, it
/// is not made on the rewritten modules, where it would continue in memory above the virtual size.
pub(crate) fn compare(
    reference: &World,
    growth: Growth,
    rewritten: &Rewritten,
    calls: u64,
    stats: &mut Stats,
) -> Result<End> {
    let before = Running::start(reference, growth).context("the original")?;
    if let Err(outcome) = &before
        && let Some(end) = allowed_end(outcome)
    {
        return Ok(end);
    }
    let after = Running::start(&rewritten.world, Growth::Refused).context("the rewritten")?;
    let (mut before, mut after) = match (before, after) {
        (Ok(before), Ok(after)) => (before, after),
        (_, Err(found)) if matches!(allowed_end(&found), Some(End::Full)) => return Ok(End::Full),
        (Err(expected), Err(found)) if expected == found => return Ok(End::Agreed),
        (before, after) => {
            let (before, after) = (before.err(), after.err());
            bail!("instantiation: {before:?} in the original, {after:?} in the rewritten");
        }
    };
    let counters = &rewritten.counters;
    same_state(&mut before, &mut after, counters, false).context("after instantiation")?;
    let mut random = fastrand::Rng::with_seed(calls);
    // There are no values for parameters of a non-nullable type.
    let mut functions = before.functions();
    functions.retain(|(_, params)| params.iter().all(|ty| param(ty, &mut random).is_some()));
    let module = &rewritten.world.modules[0];
    let commit = module.get_export(COMMIT).map(|_| (0, COMMIT.to_owned()));
    let mut made = 0;
    let end = loop {
        if made == CALLS || functions.is_empty() {
            break End::Agreed;
        }
        made += 1;
        let (name, params) = &functions[random.usize(..functions.len())];
        let params: Vec<Val> = params
            .iter()
            .filter_map(|ty| param(ty, &mut random))
            .collect();
        let the_call = || format!("call {made}: {name:?} {params:?}");
        let expected = before.call(name, &params).with_context(the_call)?;
        if let Some(end) = allowed_end(&expected) {
            break end;
        }
        let found = after.call(name, &params).with_context(the_call)?;
        if matches!(allowed_end(&found), Some(End::Full)) {
            break End::Full;
        }
        ensure!(
            found == expected,
            "{}: {expected:?} in the original, {found:?} in the rewritten",
            the_call()
        );
        stats.count("calls", 1);
        if let (Outcome::Trapped(_), Some(places)) = (&expected, &rewritten.places) {
            same_backtrace(&before.backtrace, &after.backtrace, places, stats)
                .with_context(the_call)?;
        }
        if let Some(commit) = commit.as_ref().filter(|_| made == CALLS / 2) {
            let outcome = after.call(commit, &[]).context("committing")?;
            ensure!(
                outcome == Outcome::Values(Vec::new()),
                "commit: {outcome:?}"
            );
        }
        if random.u8(..4) == 0 {
            embedder_cannot_grow(&mut after, stats)?;
        }
        same_state(&mut before, &mut after, counters, made == CALLS).with_context(the_call)?;
    };
    let (memories, store) = (before.memories(), &before.store);
    let grew = |(_, memory): &(String, AnyMemory)| memory.size(store) > memory.ty(store).minimum();
    stats.count(
        "cases in which memory grew",
        memories.iter().any(grew).into(),
    );
    Ok(end)
}

/// Chooses a parameter, often one that can be an address or a number of pages. `None` for a
/// non-nullable reference.
fn param(ty: &ValType, random: &mut fastrand::Rng) -> Option<Val> {
    let number = match random.u8(..4) {
        0 => random.u64(..),
        1 => random.u64(..8),
        _ => random.u64(..200_000),
    };
    Some(match ty {
        ValType::I32 => Val::I32(number as i32),
        ValType::I64 => Val::I64(number.cast_signed()),
        ValType::F32 => Val::F32((number as f32).to_bits()),
        ValType::F64 => Val::F64((number as f64).to_bits()),
        ValType::V128 => Val::V128(u128::from(number).wrapping_mul(0x1_0001_0001_0001).into()),
        ValType::Ref(ty) if ty.is_nullable() => Val::null_ref(ty.heap_type()),
        ValType::Ref(_) => return None,
    })
}

/// Compares the offsets of the frames of a trap. A function whose code was moved to the end of the
/// code section has one more frame, which called that code.
fn same_backtrace(before: &[u64], after: &[u64], places: &Places, stats: &mut Stats) -> Result<()> {
    let mut found = after.iter();
    for offset in before {
        // A backtrace has a limited number of frames.
        if found.len() == 0 && after.len() == MAX_FRAMES {
            break;
        }
        let expected = places.get(*offset);
        ensure!(
            found.any(|offset| Some(*offset) == expected) || after.len() == MAX_FRAMES,
            "a frame at {offset:#x} is not at {expected:x?}: {before:x?}, {after:x?}"
        );
    }
    let trap = before.first().map(|offset| places.get(*offset));
    ensure!(
        trap.flatten() == after.first().copied(),
        "the trap is elsewhere: {before:x?}, {after:x?}"
    );
    stats.count("traps with compared offsets", 1);
    Ok(())
}

/// The embedder tries to grow the memories between two calls: its engine refuses that.
fn embedder_cannot_grow(after: &mut Running, stats: &mut Stats) -> Result<()> {
    for (name, memory) in after.memories() {
        let ty = memory.ty(&after.store);
        let (size, maximum) = (memory.size(&after.store), ty.maximum());
        ensure!(
            maximum == Some(size),
            "memory `{name}` has {size} of {maximum:?} pages"
        );
        ensure!(
            !memory.grows(&mut after.store),
            "the embedder grew memory `{name}`"
        );
        stats.count("growths by the embedder, refused", 1);
    }
    Ok(())
}

/// The number of bytes that are compared after the last call, and after the others. To save time, only
/// the last comparison covers much, because a difference usually persists.
const LONG_LOOK: usize = 1 << 24;
const LOOK: usize = 1 << 17;

/// Compares all exported state of the originals with the rewritten modules'.
fn same_state(
    before: &mut Running,
    after: &mut Running,
    counters: &BTreeMap<String, Counter>,
    last: bool,
) -> Result<()> {
    let theirs = after.globals_and_tables();
    for (name, expected) in before.globals_and_tables() {
        let found = theirs.iter().find(|(other, _)| *other == name);
        let found = found.map(|(_, observed)| *observed);
        ensure!(
            found == Some(expected),
            "{name:?}: {expected:?} in the original, {found:?} in the rewritten"
        );
    }
    let look = if last { LONG_LOOK } else { LOOK };
    let theirs = after.memories();
    for (name, expected) in before.memories() {
        // An import that was turned into a definition is exported under the import's name.
        let defined = name.strip_prefix("env.").map(|name| format!("0.{name}"));
        let found = theirs.iter().find(|(other, _)| *other == name).or_else(|| {
            theirs
                .iter()
                .find(|(other, _)| Some(other) == defined.as_ref())
        });
        let (other, found) = found.with_context(|| format!("memory `{name}` is gone"))?;
        let counter = counters.get(other).map(|counter| {
            let grown = expected.size(&before.store).checked_sub(counter.from_pages);
            (*counter, grown)
        });
        let same = match (&expected, found) {
            (AnyMemory::Own(expected), AnyMemory::Own(found)) => same_memory(
                expected.data(&before.store),
                found,
                &after.store,
                counter,
                look,
            ),
            (AnyMemory::Shared(expected), AnyMemory::Shared(found)) => {
                same_shared((before, expected), (after, found), counter, look)
            }
            _ => bail!("memory `{name}` is shared in one world only"),
        };
        same.with_context(|| format!("memory `{name}`"))?;
    }
    Ok(())
}

fn same_memory(
    expected: &[u8],
    found: &Memory,
    store: &wasmtime::Store<Growth>,
    counter: Option<(Counter, Option<u64>)>,
    look: usize,
) -> Result<()> {
    static ZEROS: [u8; 4096] = [0; 4096];
    let found = found.data(store);
    ensure!(found.len() >= expected.len(), "smaller than the original's");
    let used = expected.len().min(look);
    if expected[..used] != found[..used] {
        let differs = |at: &usize| expected[*at] != found[*at];
        let at = (0..used).find(differs).unwrap_or_default();
        bail!(
            "{at:#x}: {:#x} in the original, {:#x} in the rewritten",
            expected[at],
            found[at]
        );
    }
    // Nothing but the counter may be written above the size of the original's memory.
    let mut end = found.len();
    if let Some((counter, grown)) = counter {
        end = counter.address as usize;
        let mut count = [0; 8];
        count[..counter.bytes].copy_from_slice(&found[end..end + counter.bytes]);
        let count = u64::from_le_bytes(count);
        ensure!(
            Some(count) == grown,
            "counts {count} pages, {grown:?} are grown"
        );
    }
    let above = &found[expected.len()..end];
    let above = &above[..above.len().min(look / 16)];
    let clean = above
        .chunks(ZEROS.len())
        .all(|chunk| *chunk == ZEROS[..chunk.len()]);
    ensure!(clean, "written above its virtual size");
    Ok(())
}

/// Compares two shared memories by hashes.
fn same_shared(
    (before, expected): (&mut Running, &SharedMemory),
    (after, found): (&mut Running, &SharedMemory),
    counter: Option<(Counter, Option<u64>)>,
    look: usize,
) -> Result<()> {
    let size = expected.data_size();
    let used = 0..size.min(look);
    ensure!(
        before.hash(expected, used.clone())? == after.hash(found, used)?,
        "different contents"
    );
    let mut end = found.data_size();
    if let Some((counter, grown)) = counter {
        end = counter.address as usize;
        let (count, _) = after.hash(found, end..end + 8)?;
        let grown = grown.context("smaller than the start of growth")?;
        let expected = grown.wrapping_mul(FNV_PRIME).cast_signed();
        ensure!(count == expected, "does not count {grown} pages");
    }
    let (_, clean) = after.hash(found, size..end.min(size + look / 16))?;
    ensure!(clean, "written above its virtual size");
    Ok(())
}
