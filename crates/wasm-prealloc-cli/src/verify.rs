//! `wasm-prealloc verify`: checks that every memory is pinned at the size that a host commits.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use serde::Serialize;
use wasm_prealloc::{Analysis, Memory, VerifyError, Violation, verify};

use crate::folder::{self, Item};
use crate::io::{Inputs, limits};
use crate::pages::{Pages, PagesValue};
use crate::{batch, exit, flags};

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

    /// The expected size of every memory, in 64 KiB pages. `1=N` is the size of memory 1 alone,
    /// and `2.1=N` that of memory 1 of a component's core module 2
    #[arg(long, value_name = "[MEMORY=]N", default_value = "65536")]
    pages: Vec<PagesValue>,

    /// Also report growth instructions that can only fail
    #[arg(long)]
    deep: bool,
}

#[derive(Debug, Default, Serialize)]
struct Answer {
    verified: bool,
    /// All memories of a verified module.
    memories: Vec<Memory>,
    violations: Vec<Explained>,
}

/// A violation, with the rewrite that resolves it in `message`.
#[derive(Debug, Serialize)]
struct Explained {
    #[serde(flatten)]
    violation: Violation,
    message: String,
}

pub(crate) fn run(opts: &Opts, json: bool) -> Result<u8> {
    let inputs = &opts.inputs;
    let pages = Pages::new(&opts.pages)?;
    let items = folder::items(&inputs.inputs)?;
    batch::run(
        "verify",
        inputs,
        json,
        &items,
        |_, item| verify_one(item, opts, &pages),
        |input, answer| print(input, answer, inputs.quiet),
        |answer| match answer.verified {
            true => exit::DONE,
            false => exit::NO,
        },
    )
}

fn verify_one(item: &Item, opts: &Opts, pages: &Pages) -> Result<Answer> {
    let wasm = &item.read(opts.inputs.limit)?.wasm;
    let of = |memory| pages.of(memory);
    let analysis = || -> Result<_, VerifyError> {
        let analysis = Analysis::new(wasm)?;
        for memory in pages.memories.keys() {
            analysis.check_has(*memory)?;
        }
        Ok(analysis)
    };
    let verified = match opts.deep {
        true => analysis().and_then(|analysis| analysis.verify_deep_each(of)),
        false if pages.memories.is_empty() => verify(wasm, pages.all),
        false => analysis().and_then(|analysis| analysis.verify_each(of)),
    };
    match verified {
        Ok(memories) => Ok(Answer {
            verified: true,
            memories,
            ..Answer::default()
        }),
        Err(VerifyError::NotPinned(violations)) => {
            let explained = violations.into_iter().map(|violation| Explained {
                message: flags::violation(&violation, pages),
                violation,
            });
            Ok(Answer {
                violations: explained.collect(),
                ..Answer::default()
            })
        }
        // The cause itself has a kind and an offset.
        Err(VerifyError::Unreadable(error)) => Err(error).with_context(|| item.input.name()),
    }
}

fn print(input: &str, answer: &Answer, quiet: bool) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for violation in &answer.violations {
        writeln!(stdout, "{input}: {}", violation.message)?;
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
