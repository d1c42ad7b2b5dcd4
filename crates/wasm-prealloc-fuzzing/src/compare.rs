//! Makes the same calls on two modules, and compares the results and the state afterwards.

use anyhow::{Context as _, Result, bail, ensure};
use wasmtime::{Memory, Module, Trap, Val, ValType};

use crate::run::{Growth, Outcome, Running};
use crate::stats::{End, Stats};

/// The number of calls in a sequence.
const CALLS: usize = 6;

/// The name for the exported function that makes all memories resident.
pub(crate) const COMMIT: &str = "commit all memory";

/// Returns the end of the comparison if the two modules may differ from this outcome on.
fn allowed_end(outcome: &Outcome) -> Option<End> {
    match outcome {
        Outcome::Trapped(Trap::MemoryOutOfBounds) => Some(End::OutOfBounds),
        Outcome::Trapped(Trap::StackOverflow) | Outcome::HeapFull => Some(End::Full),
        _ => None,
    }
}

/// Makes the same calls on two modules, first on the reference. If a call is out of bounds there, it
/// is not made on the rewritten module, where it would continue in memory above the virtual size.
pub(crate) fn compare(
    reference: &Module,
    growth: Growth,
    rewritten: &Module,
    calls: u64,
    stats: &mut Stats,
) -> Result<End> {
    let before = Running::start(reference, growth).context("the original")?;
    if let Err(outcome) = &before
        && let Some(end) = allowed_end(outcome)
    {
        return Ok(end);
    }
    let after = Running::start(rewritten, Growth::Refused).context("the rewritten")?;
    let (mut before, mut after) = match (before, after) {
        (Ok(before), Ok(after)) => (before, after),
        (_, Err(found)) if matches!(allowed_end(&found), Some(End::Full)) => return Ok(End::Full),
        (Err(expected), Err(found)) if expected == found => return Ok(End::Agreed),
        (before, after) => {
            let (before, after) = (before.err(), after.err());
            bail!("instantiation: {before:?} in the original, {after:?} in the rewritten");
        }
    };
    same_state(&mut before, &mut after, false).context("after instantiation")?;
    let mut random = fastrand::Rng::with_seed(calls);
    // There are no values for parameters of a non-nullable type.
    let mut functions = before.functions();
    functions.retain(|(_, params)| params.iter().all(|ty| param(ty, &mut random).is_some()));
    let commits = rewritten.get_export(COMMIT).is_some();
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
        let the_call = || format!("call {made}: `{name}` {params:?}");
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
        if commits && made == CALLS / 2 {
            let outcome = after.call(COMMIT, &[]).context("committing")?;
            ensure!(
                outcome == Outcome::Values(Vec::new()),
                "commit: {outcome:?}"
            );
        }
        same_state(&mut before, &mut after, made == CALLS).with_context(the_call)?;
    };
    let (memories, store) = (before.memories(), &before.store);
    let grew = |(_, memory): &(String, Memory)| memory.size(store) > memory.ty(store).minimum();
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

/// Compares all exported state of the original with the rewritten module's. To save time, only the
/// `last` comparison covers 16 MiB of each memory; the others cover 128 KiB, because a difference
/// usually persists.
fn same_state(before: &mut Running, after: &mut Running, last: bool) -> Result<()> {
    let theirs = after.globals_and_tables();
    for (name, expected) in before.globals_and_tables() {
        let found = theirs.iter().find(|(other, _)| *other == name);
        let found = found.map(|(_, observed)| *observed);
        ensure!(
            found == Some(expected),
            "`{name}`: {expected:?} in the original, {found:?} in the rewritten"
        );
    }
    static ZEROS: [u8; 4096] = [0; 4096];
    const LOOK: usize = 1 << 17;
    const LONG_LOOK: usize = 1 << 24;
    let look = if last { LONG_LOOK } else { LOOK };
    let theirs = after.memories();
    for (name, memory) in before.memories() {
        // An import that was turned into a definition is exported under the import's name.
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
        // Nothing may be written above the size of the original's memory.
        let above = &found[expected.len()..];
        let above = &above[..above.len().min(look / 16)];
        let clean = above
            .chunks(ZEROS.len())
            .all(|chunk| *chunk == ZEROS[..chunk.len()]);
        ensure!(clean, "memory `{name}` was written above its virtual size");
    }
    Ok(())
}
