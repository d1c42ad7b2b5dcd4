//! `wasm-prealloc verify`: checks that every memory is pinned at the size that a host commits.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use serde::Serialize;
use wasm_prealloc::{MAX_PAGES, Memory, VerifyError, Violations, verify, verify_deep};

use crate::folder::{self, Item};
use crate::io::{Inputs, limits};
use crate::{batch, exit};

const EXAMPLES: &[&str] = &[
    "wasm-prealloc verify target/wasm/*.wasm",
    "wasm-prealloc verify --deep --json plugin.wasm",
];

/// Check that the minimum and the maximum of every memory are N pages
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help_with(EXAMPLES))]
pub(crate) struct Opts {
    #[command(flatten)]
    inputs: Inputs,

    /// The expected size of every memory, in 64 KiB pages
    #[arg(long, value_name = "N", default_value_t = MAX_PAGES)]
    pages: u64,

    /// Also report growth instructions that can only fail
    #[arg(long)]
    deep: bool,
}

#[derive(Debug, Default, Serialize)]
struct Answer {
    verified: bool,
    /// All memories of a verified module.
    memories: Vec<Memory>,
    violations: Violations,
}

pub(crate) fn run(opts: &Opts, json: bool) -> Result<u8> {
    let inputs = &opts.inputs;
    let items = folder::items(&inputs.inputs)?;
    batch::run(
        "verify",
        inputs,
        json,
        &items,
        |_, item| verify_one(item, opts),
        |input, answer| print(input, answer, inputs.quiet),
        |answer| match answer.verified {
            true => exit::DONE,
            false => exit::NO,
        },
    )
}

fn verify_one(item: &Item, opts: &Opts) -> Result<Answer> {
    let judge = if opts.deep { verify_deep } else { verify };
    match judge(&item.read(opts.inputs.limit)?.wasm, opts.pages) {
        Ok(memories) => Ok(Answer {
            verified: true,
            memories,
            ..Answer::default()
        }),
        Err(VerifyError::NotPinned(violations)) => Ok(Answer {
            violations,
            ..Answer::default()
        }),
        // The cause itself has a kind and an offset.
        Err(VerifyError::Unreadable(error)) => Err(error).with_context(|| item.input.name()),
    }
}

fn print(input: &str, answer: &Answer, quiet: bool) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for violation in answer.violations.iter() {
        writeln!(stdout, "{input}: {violation}")?;
    }
    match answer.memories.as_slice() {
        _ if quiet || !answer.verified => Ok(()),
        [] => writeln!(stdout, "{input}: verified, no memory"),
        memories => {
            let sizes: Vec<String> = memories.iter().map(limits).collect();
            writeln!(stdout, "{input}: verified, {}", sizes.join(", "))
        }
    }
}
