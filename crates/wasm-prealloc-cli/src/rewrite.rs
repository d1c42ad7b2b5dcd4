//! `wasm-prealloc rewrite`: gives modules a memory of one size.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use wasm_prealloc::{
    EmulateFrom, Growth, GrowthHandling, MAX_PAGES, Memory, Options, Report, Validate, rewrite,
};

use crate::exit;
use crate::io::{Input, Output, limits, print_json, size};

const EXAMPLES: &[&str] = &[
    "wasm-prealloc rewrite plugin.wasm -o plugin.pinned.wasm",
    "wasm-prealloc rewrite --in-place target/wasm/*.wasm",
    "wasm-prealloc rewrite - -o - < plugin.wasm > plugin.pinned.wasm",
];

/// Give modules a memory whose minimum equals its maximum, and keep them working
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help_with(EXAMPLES))]
pub(crate) struct Opts {
    /// Modules, text or binary; `-` is stdin
    #[arg(required = true, value_name = "INPUT", value_parser = Input::parse)]
    inputs: Vec<Input>,

    #[command(flatten)]
    destination: Destination,

    /// Every memory's size afterwards, in 64 KiB pages
    #[arg(long, value_name = "N", default_value_t = MAX_PAGES)]
    pages: u64,

    /// What becomes of memory.grow and memory.size: auto, emulate, pregrown or keep
    #[arg(long, value_name = "MODE", default_value_t)]
    growth: Growth,

    /// Where the virtual size of an emulated memory starts: declared, heap-base or N pages
    #[arg(long, value_name = "WHERE", default_value_t)]
    emulate_from: EmulateFrom,

    /// What is validated before anything is written: full or changed
    #[arg(long, value_name = "WHAT", default_value_t)]
    validate: Validate,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Destination {
    /// Write the one module to FILE; `-` is stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Write each module to DIR, under its own name
    #[arg(long, value_name = "DIR")]
    out_dir: Option<PathBuf>,

    /// Write each module back to where it was read
    #[arg(long)]
    in_place: bool,
}

/// What was done with one input.
#[derive(Debug, Serialize)]
struct Outcome {
    input: String,
    output: Option<String>,
    report: Option<Report>,
    error: Option<String>,
}

pub(crate) fn run(opts: &Opts) -> Result<u8> {
    let outputs = destinations(opts)?;
    let to_stdout = outputs.contains(&Output::Stdout);
    if to_stdout && opts.json {
        bail!("`--json` prints to stdout, and so does `-o -`: write the module to a file");
    }
    let mut options = Options::default();
    options.pages = opts.pages;
    options.growth = opts.growth;
    options.emulate_from = opts.emulate_from;
    options.validate = opts.validate;

    let mut codes = Vec::new();
    let mut outcomes = Vec::new();
    for (input, output) in opts.inputs.iter().zip(&outputs) {
        let (code, outcome) = match rewrite_one(input, output, &options) {
            Ok(report) => {
                let text = describe(input, output, &report);
                match (opts.json, to_stdout) {
                    (true, _) => {}
                    (false, true) => eprint!("{text}"),
                    (false, false) => write!(std::io::stdout(), "{text}")?,
                }
                (exit::DONE, Ok(report))
            }
            Err(error) => {
                eprintln!("error: {error:#}");
                (exit::BAD_QUESTION, Err(error))
            }
        };
        codes.push(code);
        outcomes.push(Outcome {
            input: input.name(),
            output: outcome.is_ok().then(|| output.name()),
            error: outcome.as_ref().err().map(|error| format!("{error:#}")),
            report: outcome.ok(),
        });
    }
    if opts.json {
        print_json(&serde_json::json!({ "modules": outcomes }))?;
    }
    Ok(exit::worst(codes))
}

/// Where each input goes. Refuses, before anything is read, what would lose a module.
fn destinations(opts: &Opts) -> Result<Vec<Output>> {
    let Destination {
        output, out_dir, ..
    } = &opts.destination;
    if let Some(output) = output {
        if opts.inputs.len() > 1 {
            bail!("`-o` takes one input: use `--out-dir` or `--in-place` for several");
        }
        return Ok(vec![Output::from_path(output)]);
    }
    let mut outputs: Vec<Output> = Vec::new();
    for input in &opts.inputs {
        let flag = match out_dir {
            Some(_) => "--out-dir",
            None => "--in-place",
        };
        let path = input
            .path()
            .with_context(|| format!("stdin has no name for `{flag}`: use `-o`"))?;
        let output = match out_dir {
            None => path.to_owned(),
            Some(dir) => {
                let name = path
                    .file_name()
                    .with_context(|| format!("{} names no file", path.display()))?;
                // What is written is binary, whatever was read.
                dir.join(name).with_extension("wasm")
            }
        };
        let output = Output::File(output);
        if outputs.contains(&output) {
            bail!("two inputs would both be written to {}", output.name());
        }
        outputs.push(output);
    }
    if let Some(dir) = out_dir {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    Ok(outputs)
}

fn rewrite_one(input: &Input, output: &Output, options: &Options) -> Result<Report> {
    let module = input.read()?;
    if module.was_text
        && input
            .path()
            .is_some_and(|path| *output == Output::from_path(path))
    {
        bail!(
            "{}: it is text, and a rewritten module is binary: use `-o` or `--out-dir`",
            input.name()
        );
    }
    let rewritten = rewrite(&module.wasm, options).with_context(|| input.name())?;
    output.write(&rewritten.wasm)?;
    Ok(rewritten.report)
}

fn describe(input: &Input, output: &Output, report: &Report) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} -> {} ({} -> {} bytes)",
        input.name(),
        output.name(),
        report.bytes_before,
        report.bytes_after
    );
    for memory in &report.memories {
        let _ = writeln!(
            text,
            "  {}: {} -> {}; {} memory.grow, {} memory.size: {}",
            memory.before.id,
            limits(&memory.before),
            limits(&memory.after),
            memory.sites.grow,
            memory.sites.size,
            handling(&memory.after, &memory.growth)
        );
    }
    for offsets in &report.code_offsets {
        let module = offsets.module;
        let of = module.map_or(String::new(), |module| format!(" of core module {module}"));
        if !offsets.nudged.is_empty() {
            let _ = writeln!(
                text,
                "  code moved by a few bytes within functions {:?}{of}",
                offsets.nudged
            );
        }
        if !offsets.relocated.is_empty() {
            let _ = writeln!(
                text,
                "  code moved to the end: functions {:?}{of}",
                offsets.relocated
            );
        }
        if let Some(function) = offsets.shifted_from {
            let _ = writeln!(
                text,
                "  code offsets moved: all from function {function} on{of}"
            );
        }
    }
    for warning in &report.warnings {
        let _ = writeln!(text, "  warning: {warning}");
    }
    text
}

/// What became, or would become, of a memory's growth.
pub(crate) fn handling(memory: &Memory, growth: &GrowthHandling) -> String {
    match growth {
        GrowthHandling::None => "nothing to replace".to_owned(),
        GrowthHandling::Kept => "kept".to_owned(),
        GrowthHandling::Emulated {
            from_pages,
            cap_pages,
            ..
        } => format!(
            "emulated from {} up to {}",
            size(memory, *from_pages),
            size(memory, *cap_pages)
        ),
        GrowthHandling::Pregrown { pages, .. } => {
            format!("pregrown, reads as {}", size(memory, *pages))
        }
        // The library may come to know more ways than this command has words for.
        other => format!("{other:?}"),
    }
}
