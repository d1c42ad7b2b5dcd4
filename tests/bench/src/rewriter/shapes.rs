//! Modules that are made to take much time: each shape at a size and at four times that size. Where
//! the work is in proportion to the input, four times the size takes four times as long.

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use wasm_encoder::{
    CodeSection, Component, CustomSection, ExportKind, ExportSection, FunctionSection,
    GlobalSection, GlobalType, MemorySection, MemoryType, Module, ModuleSection, NameMap,
    NameSection, NestedComponentSection, TypeSection, ValType,
};

use super::contenders::Contender;
use crate::child::measure_in_child;
use crate::cost::Cost;
use crate::tables::table;

/// The larger size of a shape, as a multiple of the smaller.
const GROWTH: usize = 4;

/// The rewriter, and the work that is known to be linear.
const CONTENDERS: [Contender; 2] = [Contender::Full, Contender::Wasmparser];

/// A shape of module.
struct Shape {
    name: &'static str,
    /// The smaller number of repetitions.
    count: usize,
    build: fn(usize) -> Vec<u8>,
}

const SHAPES: &[Shape] = &[
    Shape {
        name: "sites and slack in turn, in one function",
        count: 50_000,
        build: |n| one_function(&[0x3f, 0x00, 0x41, 0x00, 0x47, 0x1a].repeat(n)),
    },
    Shape {
        name: "slack, then sites, in one function",
        count: 50_000,
        build: |n| one_function(&[SLACK.repeat(n), SIZE.repeat(n)].concat()),
    },
    Shape {
        name: "sites in one function",
        count: 250_000,
        build: |n| functions(0, 1, &GROW.repeat(n), false),
    },
    Shape {
        name: "small functions that grow the memory",
        count: 100_000,
        build: |n| functions(0, n, &GROW, false),
    },
    Shape {
        name: "functions with names that move to the end",
        count: 50_000,
        build: |n| functions(200, n, &[&SIZE[..], &[0x01; 6]].concat(), true),
    },
    Shape {
        name: "custom sections",
        count: 250_000,
        build: |n| {
            let mut module = base(0, 1, &GROW, false, n / 1_000);
            for _ in 0..n {
                module.section(&CustomSection {
                    name: "x".into(),
                    data: (&[]).into(),
                });
            }
            module.finish()
        },
    },
    Shape {
        name: "exports",
        count: 200_000,
        build: |n| base(0, 1, &GROW, false, n).finish(),
    },
    Shape {
        name: "types of 1,000 parameters and 1,000 results",
        count: 400,
        build: types,
    },
    Shape {
        name: "core modules in a component",
        count: 200,
        build: |n| {
            let mut component = Component::new();
            for _ in 0..n {
                component.section(&ModuleSection(&base(0, 1, &GROW, false, 0)));
            }
            component.finish()
        },
    },
    Shape {
        name: "components in a component, one in another",
        count: 200,
        build: |n| {
            let mut component = Component::new();
            component.section(&ModuleSection(&base(0, 1, &GROW, false, 0)));
            for _ in 1..n {
                let mut outer = Component::new();
                outer.section(&NestedComponentSection(&component));
                component = outer;
            }
            component.finish()
        },
    },
];

/// `memory.size` and `drop`.
const SIZE: [u8; 3] = [0x3f, 0x00, 0x1a];
/// A comparison with zero, which has a shorter form.
const SLACK: [u8; 6] = [0x41, 0x01, 0x41, 0x00, 0x47, 0x1a];
/// `memory.grow` by one page, and `drop`.
const GROW: [u8; 5] = [0x41, 0x01, 0x40, 0x00, 0x1a];

/// A module with one function. The index of a global that is added needs two bytes.
fn one_function(code: &[u8]) -> Vec<u8> {
    functions(200, 1, code, false)
}

fn functions(globals: usize, count: usize, code: &[u8], named: bool) -> Vec<u8> {
    base(globals, count, code, named, 0).finish()
}

/// A module with a memory, and `count` functions that have the same code.
fn base(globals: usize, count: usize, code: &[u8], named: bool, exports: usize) -> Module {
    let body = [&[0x00], code, &[0x0b]].concat();
    let mut module = Module::new();
    let mut types = TypeSection::new();
    types.ty().function([], []);
    module.section(&types);
    let (mut functions, mut bodies, mut names) =
        (FunctionSection::new(), CodeSection::new(), NameMap::new());
    for number in 0..count as u32 {
        functions.function(0);
        bodies.raw(&body);
        names.append(number, &format!("f{number}"));
    }
    module.section(&functions).section(&memory());
    let mut section = GlobalSection::new();
    for _ in 0..globals {
        let ty = GlobalType {
            val_type: ValType::I32,
            mutable: false,
            shared: false,
        };
        section.global(ty, &wasm_encoder::ConstExpr::i32_const(0));
    }
    module.section(&section);
    let mut section = ExportSection::new();
    for number in 0..exports {
        section.export(&number.to_string(), ExportKind::Memory, 0);
    }
    module.section(&section).section(&bodies);
    if named {
        let mut section = NameSection::new();
        section.functions(&names);
        module.section(&section);
    }
    module
}

fn memory() -> MemorySection {
    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: 1,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    memories
}

fn types(count: usize) -> Vec<u8> {
    let mut types = TypeSection::new();
    for _ in 0..count {
        let values = || [ValType::I32; 1_000];
        types.ty().function(values(), values());
    }
    types.ty().function([], []);
    let (mut functions, mut bodies) = (FunctionSection::new(), CodeSection::new());
    functions.function(count as u32);
    bodies.raw(&[&[0x00], &GROW[..], &[0x0b]].concat());
    let mut module = Module::new();
    module.section(&types).section(&functions);
    module.section(&memory()).section(&bodies);
    module.finish()
}

/// The costs of a shape: by contender, at the smaller and at the larger size.
#[derive(Debug)]
pub(crate) struct MeasuredShape {
    name: &'static str,
    /// The length of the larger module.
    bytes: usize,
    costs: [[Cost; 2]; 2],
}

/// Measures all shapes, each module and contender in separate processes.
pub(super) fn measure(rounds: usize) -> Result<Vec<MeasuredShape>> {
    let folder = std::env::temp_dir();
    let path = folder.join(format!("wasm-prealloc-bench-shape-{}", std::process::id()));
    let measured = SHAPES
        .iter()
        .map(|shape| measure_shape(shape, &path, rounds));
    let measured = measured.collect();
    // The file is missing if the first measurement failed. That error is returned.
    let _ = std::fs::remove_file(&path);
    measured
}

fn measure_shape(shape: &Shape, path: &Path, rounds: usize) -> Result<MeasuredShape> {
    eprintln!("shape: {}", shape.name);
    let mut costs = [[Cost::default(); 2]; 2];
    let mut bytes = 0;
    for (size, count) in [shape.count, shape.count * GROWTH].into_iter().enumerate() {
        let module = (shape.build)(count);
        bytes = module.len();
        std::fs::write(path, module).with_context(|| path.display().to_string())?;
        for (contender, costs) in CONTENDERS.iter().zip(&mut costs) {
            let name = contender
                .to_possible_value()
                .context("a contender has a name")?;
            let arguments = [
                "rewriter".as_ref(),
                name.get_name().as_ref(),
                path.as_os_str(),
            ];
            let samples: Result<Vec<Cost>> =
                (0..rounds).map(|_| measure_in_child(arguments)).collect();
            costs[size] = Cost::median(&samples?);
        }
    }
    Ok(MeasuredShape {
        name: shape.name,
        bytes,
        costs,
    })
}

/// The table of all shapes, in ratios.
pub(super) fn text(shapes: &[MeasuredShape]) -> String {
    let header = [
        "shape",
        "bytes",
        "time / time at a quarter",
        "the same for wasmparser",
        "time / time of wasmparser",
        "memory / input",
        "the same for wasmparser",
    ];
    let rows = shapes.iter().map(|shape| {
        let [ours, validation] = shape.costs;
        let growth = |[small, large]: [Cost; 2]| large.cpu_seconds / small.cpu_seconds;
        let memory = |[_, large]: [Cost; 2]| large.peak_bytes / shape.bytes as f64;
        vec![
            shape.name.to_owned(),
            shape.bytes.to_string(),
            format!("{:.1}", growth(ours)),
            format!("{:.1}", growth(validation)),
            format!("{:.1}", ours[1].cpu_seconds / validation[1].cpu_seconds),
            format!("{:.1}", memory(ours)),
            format!("{:.1}", memory(validation)),
        ]
    });
    table(&header, rows)
}
