//! `wasm-prealloc verify`: is every memory pinned at the size that a host commits?

use std::io::Write as _;

use anyhow::Result;
use serde::Serialize;
use wasm_prealloc::{MAX_PAGES, Memory, VerifyError, Violation, verify, verify_deep};

use crate::folder::{self, Item};
use crate::io::{Inputs, limits, print_json};
use crate::json::{Document, Failure, Told};
use crate::{batch, exit};

const EXAMPLES: &[&str] = &[
    "wasm-prealloc verify target/wasm/*.wasm",
    "wasm-prealloc verify --deep --json plugin.wasm",
];

/// Check that every memory's minimum and maximum are N pages
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help_with(EXAMPLES))]
pub(crate) struct Opts {
    #[command(flatten)]
    inputs: Inputs,

    /// The size expected of every memory, in 64 KiB pages
    #[arg(long, value_name = "N", default_value_t = MAX_PAGES)]
    pages: u64,

    /// Also report growth instructions that can only fail
    #[arg(long)]
    deep: bool,
}

/// The answer for one input, as `--json` tells it too.
#[derive(Debug, Serialize)]
struct Answer {
    input: String,
    verified: bool,
    /// All of them where the module is verified.
    memories: Vec<Memory>,
    violations: Vec<Told<Violation>>,
    error: Option<Failure>,
}

pub(crate) fn run(opts: &Opts) -> Result<u8> {
    let inputs = &opts.inputs;
    let items = folder::items(&inputs.inputs)?;
    let work = |_: usize, item: &Item| verify_one(item, opts);
    let tell = |answer: &Answer| {
        match &answer.error {
            Some(failure) => failure.print(),
            None if inputs.json => {}
            None => print(answer, inputs.quiet)?,
        }
        Ok(())
    };
    let (answers, told) = batch::run(inputs, &items, work, tell);
    let code = exit::worst(answers.iter().map(|answer| match answer {
        Answer { error: Some(_), .. } => exit::BAD_QUESTION,
        Answer { verified: true, .. } => exit::DONE,
        Answer { .. } => exit::NO,
    }));
    exit::unless_unheard(told)?;
    if inputs.json {
        exit::unless_unheard(print_json(&Document::new("verify", code, &answers)))?;
    }
    Ok(code)
}

fn verify_one(item: &Item, opts: &Opts) -> Answer {
    let judge = if opts.deep { verify_deep } else { verify };
    let result = item.read().map(|module| judge(&module.wasm, opts.pages));
    let mut answer = Answer {
        input: item.input.name(),
        verified: false,
        memories: Vec::new(),
        violations: Vec::new(),
        error: None,
    };
    match result {
        Ok(Ok(memories)) => {
            answer.verified = true;
            answer.memories = memories;
        }
        Ok(Err(VerifyError::NotPinned(violations))) => {
            answer.violations = violations.iter().cloned().map(Told::new).collect();
        }
        // The cause itself, so that what it is called and where it is can be told.
        Ok(Err(VerifyError::Unreadable(error))) => {
            let error = anyhow::Error::new(error).context(item.input.name());
            answer.error = Some(Failure::new(&error));
        }
        Err(error) => answer.error = Some(Failure::new(&error)),
    }
    answer
}

fn print(answer: &Answer, quiet: bool) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let input = &answer.input;
    for violation in &answer.violations {
        writeln!(stdout, "{input}: {}", violation.message)?;
    }
    match (answer.verified, answer.memories.as_slice()) {
        _ if quiet => Ok(()),
        (false, _) => Ok(()),
        (true, []) => writeln!(stdout, "{input}: verified, no memory"),
        (true, memories) => {
            let sizes: Vec<String> = memories.iter().map(limits).collect();
            writeln!(stdout, "{input}: verified, {}", sizes.join(", "))
        }
    }
}
