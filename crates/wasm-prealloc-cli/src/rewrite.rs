//! `wasm-prealloc rewrite`: pins the memories of modules.

use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use wasm_prealloc::{
    EmulateFrom, Features, Growth, MemoryImportPolicy, Options, Report, Validate, Warning, rewrite,
};

use crate::destination::{Destination, real};
use crate::folder::{self, Item};
use crate::io::{Inputs, Output, Staged, limits};
use crate::names::names;
use crate::pages::{Pages, PagesValue};
use crate::source_map::{Job, Moved};
use crate::{batch, exit, flags, source_map};

const EXAMPLES: &[&str] = &[
    "wasm-prealloc rewrite plugin.wasm -o plugin.pinned.wasm",
    "wasm-prealloc rewrite --in-place target/wasm/*.wasm",
    "wasm-prealloc rewrite plugins/ --out-dir pinned/ --json",
    "wasm-prealloc rewrite - -o - < plugin.wasm > plugin.pinned.wasm",
    "wasm-prealloc rewrite a.wasm -o b.wasm --source-map a.wasm.map --source-map-out b.wasm.map",
];

/// Give modules a memory whose minimum equals its maximum, and keep them working
///
/// An output is a binary module, and it is written whole or not at all. If one module fails, the
/// others are still rewritten.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help_with(EXAMPLES))]
pub(crate) struct Opts {
    #[command(flatten)]
    inputs: Inputs,

    #[command(flatten)]
    destination: Destination,

    /// The size that every memory gets, in 64 KiB pages. `1=N` is the size of memory 1 alone, and
    /// `2.1=N` that of memory 1 of a component's core module 2
    #[arg(long, value_name = "[MEMORY=]N", default_value = "65536")]
    pages: Vec<PagesValue>,

    /// The handling of memory.grow and memory.size
    #[arg(
        long,
        value_name = "MODE",
        default_value_t,
        value_parser = names::<Growth>(Growth::WORDS)
    )]
    growth: Growth,

    /// The initial virtual size of an emulated memory: declared, heap-base or N pages. `auto` is
    /// the declared minimum of a memory that the module does not import
    #[arg(long, value_name = "WHERE", default_value_t)]
    emulate_from: EmulateFrom,

    /// The size in pages beyond which emulated growth fails, if it is less than the declared maximum
    #[arg(long, value_name = "N")]
    emulate_to: Option<u64>,

    /// The handling of imported memories; `refuse` refuses those that the module grows
    #[arg(
        long,
        value_name = "POLICY",
        default_value_t,
        value_parser = names::<MemoryImportPolicy>(MemoryImportPolicy::WORDS)
    )]
    memory_import: MemoryImportPolicy,

    /// With `--memory-import define`, the name under which the memory is exported [default: the
    /// import's name]
    #[arg(long, value_name = "NAME")]
    memory_import_name: Option<String>,

    /// Also export a function NAME that writes to every page of the memory and keeps its contents
    #[arg(long, value_name = "NAME")]
    export_commit: Option<String>,

    /// The extent of validation before a module is written
    #[arg(
        long,
        value_name = "WHAT",
        default_value_t,
        value_parser = names::<Validate>(Validate::WORDS)
    )]
    validate: Validate,

    /// The proposals that a module may use; `stable` are those that engines agree on
    #[arg(
        long,
        value_name = "SET",
        default_value_t,
        value_parser = names::<Features>(Features::WORDS)
    )]
    features: Features,

    #[command(flatten)]
    source_map: source_map::Flags,
}

#[derive(Debug, Default, Serialize)]
struct Rewritten {
    output: Option<String>,
    output_bytes: Option<String>,
    source_map: Option<source_map::Moved>,
    report: Option<Report>,
}

pub(crate) fn run(opts: &Opts, json: bool) -> Result<u8> {
    let inputs = &opts.inputs;
    let mut items = folder::items(&inputs.inputs)?;
    let outputs = opts.destination.outputs(&mut items.modules)?;
    let to_stdout = outputs.contains(&Output::Stdout);
    if to_stdout && json {
        bail!("`--json` prints to stdout, and so does `-o -`: write the module to a file");
    }
    let pages = Pages::new(&opts.pages)?;
    let source_map = opts.source_map.job(&items.modules, &outputs, json)?;
    let to_stdout = to_stdout || source_map.as_ref().is_some_and(Job::is_to_stdout);
    let mut options = Options::default();
    options.pages = pages.all;
    options.memory_pages = pages.memories;
    options.growth = opts.growth;
    options.emulate_from = opts.emulate_from;
    options.emulate_to = opts.emulate_to;
    options.memory_import = opts.memory_import;
    options
        .memory_import_name
        .clone_from(&opts.memory_import_name);
    options.export_commit.clone_from(&opts.export_commit);
    options.validate = opts.validate;
    options.features = opts.features;

    batch::run(
        "rewrite",
        inputs,
        json,
        &items,
        |index, item| {
            let output = &outputs[index];
            rewrite_one(item, output, source_map.as_ref(), opts, &options)
        },
        |input, rewritten| {
            let (Some(output), Some(report)) = (&rewritten.output, &rewritten.report) else {
                return Ok(());
            };
            let source_map = rewritten.source_map.as_ref();
            match to_stdout {
                _ if inputs.quiet => warnings(&mut io::stderr(), &format!("{input}: "), report),
                true => describe(&mut io::stderr(), input, output, report, source_map),
                false => describe(&mut io::stdout().lock(), input, output, report, source_map),
            }
        },
        |_| exit::DONE,
    )
}

fn rewrite_one(
    item: &Item,
    output: &Output,
    source_map: Option<&Job>,
    opts: &Opts,
    options: &Options,
) -> Result<Rewritten> {
    let module = item.read(opts.inputs.limit)?;
    let own = item.input.path().map(real);
    if let (Some(form), Some(own)) = (module.form, own)
        && output.path().map(real) == Some(own)
    {
        bail!(
            "{}: it is {form}, and a rewritten module is binary: use `-o` or `--out-dir`",
            item.input.name()
        );
    }
    let mut rewritten = rewrite(&module.wasm, options).with_context(|| item.input.name())?;
    let moved = source_map.map(|job| {
        let bytes = module.wasm.len();
        job.follow(&rewritten.offset_map, bytes, opts.inputs.limit)
    });
    let moved = moved.transpose()?;
    opts.destination.prepare(output)?;
    let mut staged = vec![output.stage(&rewritten.wasm)?];
    if let (Some(job), Some((json, _))) = (source_map, &moved) {
        staged.push(job.output.stage(json.as_bytes())?);
    }
    // A rename hardly ever fails, so the renames come last.
    staged.sort_by_key(Staged::is_on_disk);
    staged.into_iter().try_for_each(Staged::commit)?;
    if moved.is_some() {
        let warnings = &mut rewritten.report.warnings;
        warnings.retain(|warning| !matches!(warning, Warning::SourceMapStays { .. }));
    }
    Ok(Rewritten {
        output: Some(output.name()),
        output_bytes: output.name_bytes(),
        source_map: moved.map(|(_, moved)| moved),
        report: Some(rewritten.report),
    })
}

fn describe(
    out: &mut impl Write,
    input: &str,
    output: &str,
    report: &Report,
    source_map: Option<&Moved>,
) -> io::Result<()> {
    let (before, after) = (report.bytes_before, report.bytes_after);
    writeln!(out, "{input} -> {output} ({before} -> {after} bytes)")?;
    for memory in &report.memories {
        writeln!(
            out,
            "  {}: {} -> {}; {} memory.grow, {} memory.size; growth: {}",
            memory.before.id,
            limits(&memory.before),
            limits(&memory.after),
            memory.sites.grow,
            memory.sites.size,
            memory.growth
        )?;
    }
    for offsets in &report.code_offsets {
        let module = offsets.module;
        let of = module.map_or(String::new(), |module| format!(" of core module {module}"));
        let (nudged, relocated) = (&offsets.nudged, &offsets.relocated);
        if offsets.section_moved != 0 {
            writeln!(
                out,
                "  the code section{of} moved by {} bytes in the file",
                offsets.section_moved
            )?;
        }
        if !nudged.is_empty() {
            writeln!(
                out,
                "  code moved by a few bytes within functions {nudged:?}{of}"
            )?;
        }
        if !relocated.is_empty() {
            writeln!(out, "  code moved to the end: functions {relocated:?}{of}")?;
        }
        if let Some(function) = offsets.shifted_from {
            writeln!(
                out,
                "  code offsets moved: all from function {function} on{of}"
            )?;
        }
    }
    if let Some(moved) = source_map {
        writeln!(out, "  {}", moved.describe())?;
    }
    warnings(out, "  ", report)
}

fn warnings(out: &mut impl Write, prefix: &str, report: &Report) -> io::Result<()> {
    let mut warnings = report.warnings.iter().map(flags::warning);
    warnings.try_for_each(|warning| writeln!(out, "{prefix}warning: {warning}"))
}
