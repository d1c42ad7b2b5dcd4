//! Arbitrary bytes, and mutations of real modules: they are refused or handled, and nothing breaks.

use anyhow::{Context as _, Result, ensure};
use wasm_prealloc::{Growth, Options, Validate, inspect, rewrite, verify, verify_deep};
use wasmparser::{Validator, WasmFeatures};

/// What became of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They are no module that can be rewritten.
    Refused,
    /// They were rewritten.
    Rewritten,
}

/// Changes a module in one place mostly, so that what comes of it is often a module still, and in
/// six at most.
#[must_use]
pub fn mutate(wasm: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    /// Both instructions, and bytes that LEB128s and lengths are made of.
    const TELLING: [u8; 8] = [0x00, 0x01, 0x3f, 0x40, 0x7f, 0x80, 0xfe, 0xff];
    const HEADER: usize = 8;
    let mut wasm = wasm.to_vec();
    let changes = if random.bool() {
        1
    } else {
        random.usize(1..=6)
    };
    for _ in 0..changes {
        if wasm.len() <= HEADER {
            break;
        }
        // Half of them near the front, where the structure is.
        let near = if random.bool() { 600 } else { usize::MAX };
        let at = random.usize(HEADER..wasm.len().min(near.max(HEADER + 1)));
        match random.u8(..6) {
            0 => wasm[at] = random.u8(..),
            1 => wasm[at] ^= 1 << random.u8(..8),
            2 => drop(wasm.remove(at)),
            3 => wasm.insert(at, TELLING[random.usize(..TELLING.len())]),
            4 => wasm[at] = TELLING[random.usize(..TELLING.len())],
            _ => {
                // A stretch of the module once more, elsewhere.
                let from = random.usize(HEADER..wasm.len());
                let stretch = wasm[from..wasm.len().min(from + random.usize(1..24))].to_vec();
                wasm.splice(at..at, stretch);
            }
        }
    }
    wasm
}

/// Asks everything of some bytes. No question may panic; what is rewritten must be valid, before
/// and after, be what was asked for, and stay as it is when it is rewritten again.
///
/// # Errors
/// Where one of that does not hold.
pub fn check(wasm: &[u8]) -> Result<Fate> {
    let _ = verify(wasm, 65_536);
    let _ = verify_deep(wasm, 65_536);
    let _ = inspect(wasm);

    let mut fate = Fate::Refused;
    for growth in [
        Growth::Auto,
        Growth::Emulate,
        Growth::Pregrown,
        Growth::Keep,
    ] {
        for validate in [Validate::Full, Validate::Changed] {
            let mut options = Options::default();
            options.growth = growth;
            options.validate = validate;
            let Ok(rewritten) = rewrite(wasm, &options) else {
                continue;
            };
            // What was never looked into may be broken still.
            if validate == Validate::Full {
                fate = Fate::Rewritten;
                holds(wasm, &rewritten.wasm, &options).with_context(|| format!("{options:?}"))?;
            }
        }
    }
    Ok(fate)
}

fn holds(wasm: &[u8], rewritten: &[u8], options: &Options) -> Result<()> {
    validate(wasm).context("an invalid input was accepted")?;
    validate(rewritten).context("an invalid output was given")?;
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
    let unchecked = rewrite(wasm, &unchecked).context("only with less validation")?;
    ensure!(
        unchecked.wasm == rewritten,
        "what is validated changes what is written"
    );
    Ok(())
}

fn validate(wasm: &[u8]) -> wasmparser::Result<()> {
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    validator.validate_all(wasm).map(drop)
}
