//! Who is measured: each takes a module's bytes and makes of them what it makes.

use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum;
use wasm_encoder::reencode::{Reencode as _, RoundtripReencoder};
use wasm_prealloc::{Options, Validate, rewrite, rewrite_into};
use wasmparser::{Parser, Validator, WasmFeatures};

/// One way to go through a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contender {
    /// Copies the bytes into a buffer that is resident already: no rewriter can be faster.
    Memcpy,
    /// This project's rewrite, validating what it changed, into a buffer that is resident already.
    Changed,
    /// The same into memory that the operating system has yet to give.
    ChangedFresh,
    /// This project's rewrite, validating input and output.
    Full,
    /// Validates, and writes nothing.
    Wasmparser,
    /// Decodes and encodes every item, changing nothing.
    WasmEncoder,
    /// Builds the whole module as a graph and writes it again, changing nothing.
    Walrus,
}

impl Contender {
    pub(crate) const ALL: &[Self] = &[
        Self::Memcpy,
        Self::Changed,
        Self::ChangedFresh,
        Self::Full,
        Self::Wasmparser,
        Self::WasmEncoder,
        Self::Walrus,
    ];

    /// How tables call it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Memcpy => "memcpy, warm",
            Self::Changed => "rewrite_into, `Validate::Changed`, warm",
            Self::ChangedFresh => "rewrite, `Validate::Changed`",
            Self::Full => "rewrite, `Validate::Full`",
            Self::Wasmparser => "wasmparser, validation only",
            Self::WasmEncoder => "wasm-encoder, re-encode",
            Self::Walrus => "walrus, parse and emit",
        }
    }

    /// Goes through a module. What is made stays in `made`, so that it is freed by the caller and
    /// counts into the peak.
    pub(crate) fn run(self, wasm: &[u8], made: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Memcpy => {
                made.clear();
                made.extend_from_slice(wasm);
            }
            Self::Changed => {
                rewrite_into(wasm, &options(Validate::Changed), made)?;
            }
            Self::ChangedFresh => *made = rewritten(wasm, Validate::Changed)?,
            Self::Full => *made = rewritten(wasm, Validate::Full)?,
            Self::Wasmparser => {
                Validator::new_with_features(WasmFeatures::all()).validate_all(wasm)?;
            }
            Self::WasmEncoder => {
                let mut module = wasm_encoder::Module::new();
                RoundtripReencoder
                    .parse_core_module(&mut module, Parser::new(0), wasm)
                    .map_err(|error| anyhow!("{error}"))?;
                *made = module.finish();
            }
            Self::Walrus => {
                *made = walrus::Module::from_buffer(wasm)
                    .context("walrus does not parse it")?
                    .emit_wasm();
            }
        }
        Ok(())
    }

    /// Whether a round begins with what the last one has made.
    pub(crate) fn reuses_its_buffer(self) -> bool {
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
