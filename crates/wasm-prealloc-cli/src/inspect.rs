//! `wasm-prealloc inspect`: shows a module's memories, the code that grows them, and their contents.

use std::io::{self, Write};

use anyhow::{Context, Result};
use serde::Serialize;
use wasm_prealloc::{
    Analysis, Features, GrowthHandling, Inspection, MemoryInspection, ModuleInspection, Options,
    Sites, WASM_PAGE_SIZE,
};

use crate::folder;
use crate::io::{Inputs, limits};
use crate::names::names;
use crate::{batch, exit, flags};

const EXAMPLES: &[&str] = &[
    "wasm-prealloc inspect plugin.wasm",
    "wasm-prealloc inspect --json plugin.wasm",
];

/// Show a module's memories, the code that grows them, and the addresses of their contents
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help_with(EXAMPLES))]
pub(crate) struct Opts {
    #[command(flatten)]
    inputs: Inputs,

    /// The proposals that a module may use; `stable` are those that engines agree on
    #[arg(
        long,
        value_name = "SET",
        default_value_t,
        value_parser = names::<Features>(Features::WORDS)
    )]
    features: Features,
}

#[derive(Debug, Default, Serialize)]
struct Inspected {
    inspection: Option<Inspection>,
}

pub(crate) fn run(opts: &Opts, json: bool) -> Result<u8> {
    let inputs = &opts.inputs;
    let items = folder::items(&inputs.inputs)?;
    let mut options = Options::default();
    options.features = opts.features;
    batch::run(
        "inspect",
        inputs,
        json,
        &items,
        |_, item| {
            let module = item.read(opts.inputs.limit)?;
            let inspection = Analysis::new(&module.wasm)
                .and_then(|analysis| analysis.inspect_with(&options))
                .with_context(|| item.input.name())?;
            Ok(Inspected {
                inspection: Some(inspection),
            })
        },
        |input, inspected| match &inspected.inspection {
            Some(inspection) if !inputs.quiet => print(&mut io::stdout().lock(), input, inspection),
            _ => Ok(()),
        },
        |_| exit::DONE,
    )
}

fn print(out: &mut impl Write, input: &str, inspection: &Inspection) -> io::Result<()> {
    writeln!(out, "{input}: {} bytes", inspection.bytes)?;
    for module in &inspection.modules {
        if let Some(index) = module.module {
            writeln!(out, "  core module {index}: {} bytes", module.bytes)?;
        }
        if module.memories.is_empty() {
            writeln!(out, "  no memory")?;
        }
        if let Some(moved) = module.code_section_moved.filter(|moved| *moved != 0) {
            writeln!(out, "  the code section was moved by {moved} bytes")?;
        }
        for memory in &module.memories {
            print_memory(out, memory)?;
            print_map(out, module, memory)?;
        }
    }
    if let Some(refusal) = &inspection.refusal {
        let refusal = flags::error(refusal);
        writeln!(out, "  rewrite: refused: {refusal}")?;
    }
    Ok(())
}

fn print_memory(out: &mut impl Write, inspected: &MemoryInspection) -> io::Result<()> {
    let memory = &inspected.memory;
    write!(out, "  {}: {}", memory.id, limits(memory))?;
    if let Some(import) = &memory.import {
        write!(out, ", imported as {import}")?;
    }
    for (is, word) in [(memory.shared, "shared"), (memory.memory64, "64-bit")] {
        if is {
            write!(out, ", {word}")?;
        }
    }
    writeln!(out)?;
    if let Some(before) = inspected.declared_before {
        let maximum = match before.maximum {
            Some(maximum) => format!("a maximum of {maximum}"),
            None => "no maximum".to_owned(),
        };
        let minimum = before.minimum;
        writeln!(
            out,
            "    declared before it was rewritten: a minimum of {minimum}, {maximum}"
        )?;
    }
    print_growth(out, inspected)?;
    if let Some(growth) = &inspected.rewrite {
        writeln!(out, "    rewrite: {growth}")?;
        writeln!(
            out,
            "    afterwards: an access between the size the module sees and the memory's end \
             no longer traps"
        )?;
    }
    Ok(())
}

/// Prints the code that grows a memory, or the code that a rewrite has put in its place.
fn print_growth(out: &mut impl Write, inspected: &MemoryInspection) -> io::Result<()> {
    let sites = inspected.sites;
    let grower = match (&inspected.growth_before, sites) {
        (
            Some(before),
            Sites {
                size: 0, grow: 0, ..
            },
        ) if before.changes_code() => {
            return writeln!(out, "    growth: {before}{}", counter(before));
        }
        (
            _,
            Sites {
                size: 0, grow: 0, ..
            },
        ) => "neither grown nor measured by the module",
        (_, Sites { grow: 0, .. }) => {
            "measured by the module, and grown only by its embedder, if at all"
        }
        _ => "grown by the module",
    };
    writeln!(
        out,
        "    growth: {grower} ({} memory.grow, {} memory.size in {} functions)",
        sites.grow,
        sites.size,
        inspected.functions.len()
    )
}

/// The items of a rewritten module that handle its growth.
fn counter(growth: &GrowthHandling) -> String {
    let mut items = String::new();
    let mut add = |index: Option<u32>, item: &str| {
        if let Some(index) = index {
            items.push_str(&format!("; {item} {index}"));
        }
    };
    match *growth {
        GrowthHandling::None | GrowthHandling::Kept => {}
        GrowthHandling::Fixed { global, .. } | GrowthHandling::Pregrown { global, .. } => {
            add(Some(global), "memory.size reads global");
        }
        GrowthHandling::Emulated {
            global,
            function,
            size_function,
            ..
        } => {
            add(global, "memory.size reads global");
            add(size_function, "memory.size calls function");
            add(function, "memory.grow calls function");
        }
    }
    items
}

/// Prints data segments and the linker's symbols, sorted by address.
fn print_map(
    out: &mut impl Write,
    module: &ModuleInspection,
    inspected: &MemoryInspection,
) -> io::Result<()> {
    let memory = &inspected.memory;
    let mut places: Vec<(u64, String)> = Vec::new();
    let mine = |segment: &&wasm_prealloc::DataSegment| segment.memory == Some(memory.id.index);
    for segment in module.data.iter().filter(mine) {
        if let Some(address) = segment.address {
            places.push((address, format!("data segment of {} bytes", segment.bytes)));
        }
    }
    // The linker's symbols are addresses in the first memory.
    if memory.id.index == 0 {
        let landmarks = module.landmarks;
        for (address, name) in [
            (landmarks.data_end, "__data_end"),
            (landmarks.heap_base, "__heap_base"),
            (landmarks.heap_end, "__heap_end"),
        ] {
            if let Some(address) = address {
                places.push((address, name.to_owned()));
            }
        }
    }
    let minimum = memory.minimum.checked_mul(WASM_PAGE_SIZE);
    if let (None, Some(minimum)) = (memory.page_size_log2, minimum) {
        places.push((minimum, "minimum".to_owned()));
    }
    places.sort();
    for (address, what) in places {
        writeln!(out, "    {address:>#12x}  {what}")?;
    }
    Ok(())
}
