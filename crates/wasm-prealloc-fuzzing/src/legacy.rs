//! Random modules with the legacy exception-handling instructions, which wasmtime does not run. Engines
//! of browsers do, so the modules are for Node.

use anyhow::{Context as _, Result};
use arbitrary::Unstructured;
use wasm_encoder::{BlockType, Encode as _, InstructionSink, SectionId};
use wasm_prealloc::{Features, Options, rewrite, verify};
use wasmparser::{Parser, Payload, Validator, WasmFeatures};

use crate::declare::{Memories, declare};
use crate::generate::module_with;
use crate::insert::RESULTS;
use crate::reference::limits;
use crate::sections::{append, content_of, join, split, usize_range};

/// The size that the modules are rewritten to.
const PAGES: u64 = 96;

/// A module, and its rewrite.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The module, with the limits that the rewritten module must see.
    pub reference: Vec<u8>,
    /// The rewritten module.
    pub rewritten: Vec<u8>,
}

/// Generates a module from random bytes, and rewrites it. `None` if the bytes do not make a module, or
/// the rewriter refuses it because of its data.
///
/// # Errors
/// The rewriter refuses the module for another reason, or its output does not verify.
pub(crate) fn pair(u: &mut Unstructured<'_>) -> Result<Option<Pair>> {
    let generated = module_with(u, PAGES, 6, |config| {
        config.max_memories = 1;
        config.memory64_enabled = false;
        config.custom_page_sizes_enabled = false;
        config.exceptions_enabled = false;
        config.gc_enabled = false;
        config.simd_enabled = false;
    });
    let Ok(generated) = generated else {
        return Ok(None);
    };
    let wasm = insert(&generated, u)?;
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    validator.validate_all(&wasm).context("the generator")?;
    let mut options = Options::default();
    options.features = Features::All;
    options.pages = PAGES;
    let rewritten = match rewrite(&wasm, &options) {
        Ok(rewritten) => rewritten.wasm.into_owned(),
        Err(error) if error.kind().contains("data") => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    verify(&rewritten, PAGES)?;
    let memories = Memories::read(&wasm)?;
    let memory = memories.all.first().context("no memory")?;
    let limits = limits(memory, None, &options).context("no limits")?;
    Ok(Some(Pair {
        reference: declare(&wasm, |_, _| limits)?,
        rewritten,
    }))
}

/// Inserts blocks that throw and catch, with growth instructions in them.
fn insert(wasm: &[u8], u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let (mut results, mut types) = (0, 0);
    let mut bodies = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::TypeSection(reader) => {
                for group in reader {
                    types += group?.types().len() as u32;
                }
            }
            Payload::ExportSection(reader) => {
                for export in reader {
                    let export = export?;
                    if export.name == RESULTS {
                        results = export.index;
                    }
                }
            }
            Payload::CodeSectionEntry(body) => bodies.push(body),
            _ => {}
        }
    }
    let mut code = wasm_encoder::CodeSection::new();
    for body in bodies {
        let mut operators = body.get_operators_reader()?;
        let start = usize_range(&body.range()).start;
        let mut inserted = wasm[start..operators.original_position() as usize].to_vec();
        while !operators.eof() {
            let start = operators.original_position() as usize;
            operators.read()?;
            if u.ratio(1, 6)? {
                let delta = u.int_in_range(0..=3)?;
                let form = u.int_in_range(0..=2)?;
                throw_and_catch(
                    form,
                    delta,
                    results,
                    &mut InstructionSink::new(&mut inserted),
                );
            }
            inserted.extend_from_slice(&wasm[start..operators.original_position() as usize]);
        }
        code.raw(&inserted);
    }
    let mut sections = split(wasm)?;
    const NOTHING_TO_NOTHING: [u8; 3] = [0x60, 0, 0];
    append(&mut sections, SectionId::Type, &NOTHING_TO_NOTHING)?;
    let code = content_of(&code)?;
    for (id, content) in &mut sections {
        if *id == SectionId::Code as u8 {
            content.clone_from(&code);
        }
    }
    // One tag without parameters. Tags are between the memories and the globals.
    let mut tag = vec![1, 0];
    types.encode(&mut tag);
    let globals = sections
        .iter()
        .position(|(id, _)| *id == SectionId::Global as u8);
    let globals = globals.context("no globals")?;
    sections.insert(globals, (SectionId::Tag as u8, tag));
    Ok(join(&sections))
}

/// Emits a block that leaves the stack as it was. It throws if the memory has an odd size, and mixes
/// sizes into a global on every path.
fn throw_and_catch(form: u8, delta: i32, results: u32, code: &mut InstructionSink<'_>) {
    const TAG: u32 = 0;
    fn mix<'c, 'a>(results: u32, code: &'c mut InstructionSink<'a>) -> &'c mut InstructionSink<'a> {
        code.global_get(results).i32_const(31).i32_mul()
    }
    code.try_(BlockType::Empty);
    if form > 0 {
        code.try_(BlockType::Empty);
    }
    mix(results, code);
    code.i32_const(delta)
        .memory_grow(0)
        .i32_add()
        .global_set(results);
    code.memory_size(0).i32_const(1).i32_and();
    code.if_(BlockType::Empty).throw(TAG).end();
    match form {
        // An inner block that passes its exceptions to the outer one.
        1 => {
            code.delegate(0);
        }
        // An inner block that catches an exception, and throws it again.
        2 => {
            code.catch(TAG);
            mix(results, code);
            code.i32_const(1)
                .memory_grow(0)
                .i32_add()
                .global_set(results);
            code.rethrow(0);
            code.end();
        }
        _ => {
            code.catch(TAG);
            mix(results, code);
            code.memory_size(0).i32_add().global_set(results);
        }
    }
    code.catch_all();
    mix(results, code);
    code.memory_size(0).i32_add().global_set(results);
    code.end();
}
