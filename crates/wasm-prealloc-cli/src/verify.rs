//! `wasm-prealloc verify`: is every memory pinned at the size that a host commits?

use std::io::Write as _;

use anyhow::{Context, Result};
use serde::Serialize;
use wasm_prealloc::{MAX_PAGES, Memory, VerifyError, Violations, verify, verify_deep};

use crate::exit;
use crate::io::{Input, limits, print_json};

const EXAMPLES: &[&str] = &[
    "wasm-prealloc verify target/wasm/*.wasm",
    "wasm-prealloc verify --deep --json plugin.wasm",
];

/// Check that every memory's minimum and maximum are N pages
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help_with(EXAMPLES))]
pub(crate) struct Opts {
    /// Modules, text or binary; `-` is stdin
    #[arg(required = true, value_name = "INPUT", value_parser = Input::parse)]
    inputs: Vec<Input>,

    /// The size expected of every memory, in 64 KiB pages
    #[arg(long, value_name = "N", default_value_t = MAX_PAGES)]
    pages: u64,

    /// Also report growth instructions that can only fail
    #[arg(long)]
    deep: bool,

    /// Print the answers as JSON
    #[arg(long)]
    json: bool,
}

/// The answer for one input.
#[derive(Debug, Serialize)]
struct Answer {
    input: String,
    verified: bool,
    memories: Vec<Memory>,
    violations: Option<Violations>,
    error: Option<String>,
}

pub(crate) fn run(opts: &Opts) -> Result<u8> {
    let mut codes = Vec::new();
    let mut answers = Vec::new();
    for input in &opts.inputs {
        let answer = verify_one(input, opts);
        codes.push(match &answer {
            Answer { error: Some(_), .. } => exit::BAD_QUESTION,
            Answer { verified: true, .. } => exit::DONE,
            Answer { .. } => exit::NO,
        });
        if let Some(error) = &answer.error {
            eprintln!("error: {error}");
        } else if !opts.json {
            print(&answer)?;
        }
        answers.push(answer);
    }
    if opts.json {
        print_json(&serde_json::json!({ "modules": answers }))?;
    }
    Ok(exit::worst(codes))
}

fn verify_one(input: &Input, opts: &Opts) -> Answer {
    let judge = if opts.deep { verify_deep } else { verify };
    let result = input.read().map(|module| judge(&module.wasm, opts.pages));
    let mut answer = Answer {
        input: input.name(),
        verified: false,
        memories: Vec::new(),
        violations: None,
        error: None,
    };
    match result {
        Ok(Ok(memories)) => {
            answer.verified = true;
            answer.memories = memories;
        }
        Ok(Err(VerifyError::NotPinned(violations))) => answer.violations = Some(violations),
        Ok(Err(error)) => {
            let named = Err::<(), _>(error).with_context(|| input.name());
            answer.error = named.err().map(|error| format!("{error:#}"));
        }
        Err(error) => answer.error = Some(format!("{error:#}")),
    }
    answer
}

fn print(answer: &Answer) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let input = &answer.input;
    for violation in answer.violations.iter().flat_map(|v| v.iter()) {
        writeln!(stdout, "{input}: {violation}")?;
    }
    match (answer.verified, answer.memories.as_slice()) {
        (false, _) => Ok(()),
        (true, []) => writeln!(stdout, "{input}: verified, no memory"),
        (true, memories) => {
            let sizes: Vec<String> = memories.iter().map(limits).collect();
            writeln!(stdout, "{input}: verified, {}", sizes.join(", "))
        }
    }
}
