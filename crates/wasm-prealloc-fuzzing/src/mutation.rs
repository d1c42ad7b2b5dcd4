//! The mutation test: arbitrary bytes and mutated modules are refused or rewritten correctly.

use anyhow::{Context as _, Result, ensure};
use wasm_prealloc::{
    Error, Features, Growth, Options, Validate, inspect, rewrite, verify, verify_deep,
};
use wasmparser::{Validator, WasmFeatures};

/// The outcome for some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The rewriter refused them.
    Refused,
    /// The rewriter rewrote them.
    Rewritten,
}

/// Changes a module in one to six places. One change is the most likely, because the result is then
/// often still a valid module.
#[must_use]
pub fn mutate(wasm: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    /// The opcodes of `memory.size` and `memory.grow`, and bytes that LEB128 numbers often contain.
    const COMMON: [u8; 8] = [0x00, 0x01, 0x3f, 0x40, 0x7f, 0x80, 0xfe, 0xff];
    const HEADER: usize = 8;
    let mut wasm = wasm.to_vec();
    let changes = match random.bool() {
        true => 1,
        false => random.usize(1..=6),
    };
    for _ in 0..changes {
        if wasm.len() <= HEADER {
            break;
        }
        // Half of the changes are near the start, where the sections of types and memories are.
        let near = if random.bool() { 600 } else { usize::MAX };
        let at = random.usize(HEADER..wasm.len().min(near.max(HEADER + 1)));
        match random.u8(..6) {
            0 => wasm[at] = random.u8(..),
            1 => wasm[at] ^= 1 << random.u8(..8),
            2 => drop(wasm.remove(at)),
            3 => wasm.insert(at, COMMON[random.usize(..COMMON.len())]),
            4 => wasm[at] = COMMON[random.usize(..COMMON.len())],
            _ => {
                // Repeats a part of the module in another place.
                let from = random.usize(HEADER..wasm.len());
                let repeated = wasm[from..wasm.len().min(from + random.usize(1..24))].to_vec();
                wasm.splice(at..at, repeated);
            }
        }
    }
    wasm
}

/// Calls every function of the library on some bytes. None may panic, and none may report a defect of
/// the library. The input and the output of a successful rewrite must be valid, the output must
/// verify, and a second rewrite must not change it.
///
/// # Errors
/// The property that does not hold.
pub fn check(wasm: &[u8]) -> Result<Outcome> {
    use Growth::{Auto, Emulate, Keep, Pregrown};

    let _ = verify(wasm, 65_536);
    let _ = verify_deep(wasm, 65_536);
    let _ = inspect(wasm);

    let mut outcome = Outcome::Refused;
    for growth in [Auto, Emulate, Pregrown, Keep] {
        for validate in [Validate::Full, Validate::Changed] {
            let mut options = Options::default();
            options.features = Features::All;
            options.growth = growth;
            options.validate = validate;
            let rewritten = match rewrite(wasm, &options) {
                Ok(rewritten) => rewritten,
                Err(error @ Error::OutputInvalid { .. }) => {
                    return Err(error).with_context(|| format!("{options:?}"));
                }
                Err(_) => continue,
            };
            // With less validation, an invalid function may be copied.
            if validate == Validate::Full {
                outcome = Outcome::Rewritten;
                holds(wasm, &rewritten.wasm, &options).with_context(|| format!("{options:?}"))?;
            }
        }
    }
    Ok(outcome)
}

fn holds(wasm: &[u8], rewritten: &[u8], options: &Options) -> Result<()> {
    validate(wasm).context("an invalid input was accepted")?;
    validate(rewritten).context("an invalid output was returned")?;
    if !matches!(verify(wasm, options.pages), Ok(memories) if memories.is_empty()) {
        verify(rewritten, options.pages).context("the output does not verify")?;
    }
    let again = rewrite(rewritten, options).context("the output cannot be rewritten")?;
    ensure!(
        again.wasm == rewritten,
        "a second rewrite changes something"
    );
    let mut unchecked = options.clone();
    unchecked.validate = Validate::Changed;
    let unchecked = rewrite(wasm, &unchecked).context("refused only with less validation")?;
    ensure!(
        unchecked.wasm == rewritten,
        "the output depends on the validation"
    );
    Ok(())
}

fn validate(wasm: &[u8]) -> wasmparser::Result<()> {
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    validator.validate_all(wasm).map(drop)
}
