//! The contenders. Each takes the bytes of a module and produces its output from them.

use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum;
use wasm_encoder::reencode::{Reencode as _, RoundtripReencoder};
use wasm_prealloc::{Options, Validate, rewrite, rewrite_into};
use wasmparser::{Parser, Validator, WasmFeatures};

/// One way to process a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contender {
    /// Copies the bytes into a buffer that is already resident. No rewriter can be faster.
    Memcpy,
    /// Rewrites into a buffer that is already resident, and validates what changed.
    Changed,
    /// As `Changed`, into a new buffer.
    ChangedFresh,
    /// Rewrites, and validates input and output.
    Full,
    /// Validates, and writes nothing.
    Wasmparser,
    /// Decodes and encodes every item, and changes nothing.
    WasmEncoder,
    /// Builds the whole module as a graph and encodes it, and changes nothing.
    Walrus,
}

impl Contender {
    /// The names in the table of totals and in the table of modules.
    pub(super) fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Memcpy => ("memcpy, warm", "memcpy"),
            Self::Changed => ("rewrite_into, `Validate::Changed`, warm", "changed"),
            Self::ChangedFresh => ("rewrite, `Validate::Changed`", "fresh"),
            Self::Full => ("rewrite, `Validate::Full`", "full"),
            Self::Wasmparser => ("wasmparser, validation only", "wasmparser"),
            Self::WasmEncoder => ("wasm-encoder, re-encode", "wasm-encoder"),
            Self::Walrus => ("walrus, parse and emit", "walrus"),
        }
    }

    /// Processes a module. The caller frees the output, so that it counts towards the peak memory.
    pub(super) fn run(self, wasm: &[u8], output: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Memcpy => {
                output.clear();
                output.extend_from_slice(wasm);
            }
            Self::Changed => {
                rewrite_into(wasm, &options(Validate::Changed), output)?;
            }
            Self::ChangedFresh => *output = rewritten(wasm, Validate::Changed)?,
            Self::Full => *output = rewritten(wasm, Validate::Full)?,
            Self::Wasmparser => {
                Validator::new_with_features(WasmFeatures::all()).validate_all(wasm)?;
            }
            Self::WasmEncoder => {
                let mut module = wasm_encoder::Module::new();
                RoundtripReencoder
                    .parse_core_module(&mut module, Parser::new(0), wasm)
                    .map_err(|error| anyhow!("{error}"))?;
                *output = module.finish();
            }
            Self::Walrus => {
                *output = walrus::Module::from_buffer(wasm)
                    .context("walrus does not parse it")?
                    .emit_wasm();
            }
        }
        Ok(())
    }

    /// Returns true if a round starts with the output of the last round.
    pub(super) fn reuses_its_buffer(self) -> bool {
        matches!(self, Self::Memcpy | Self::Changed)
    }
}

fn options(validate: Validate) -> Options {
    let mut options = Options::default();
    options.validate = validate;
    options
}

fn rewritten(wasm: &[u8], validate: Validate) -> Result<Vec<u8>> {
    Ok(rewrite(wasm, &options(validate))?.wasm.into_owned())
}
