//! Random modules that use their memories. wasm-smith generates them, and growth instructions are then
//! inserted into their functions, because wasm-smith alone generates too few.

use arbitrary::{Result, Unstructured};
use wasm_encoder::{Encode as _, SectionId};
use wasm_smith::{Config, InstructionKind, InstructionKinds, MemoryOffsetChoices};
use wasmparser::{FunctionBody, MemoryType, Parser, Payload};

use crate::declare::{HEAP_BASE, Memories, usize_range};

/// The number of calls and loop iterations before a module traps. The module itself counts them, so
/// that the original and the rewrite trap at the same point.
const FUEL: u32 = 3_000;

/// A module, and the parameters of its test.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The module. It exports everything that it defines.
    pub wasm: Vec<u8>,
    /// The size that memories are rewritten to, in pages of 64 KiB.
    pub pages: u64,
    /// The seed of the options and of the calls.
    pub calls: u64,
}

impl Generated {
    /// Generates a module from random bytes.
    ///
    /// # Errors
    /// There are too few bytes, or the module does not fit the limits.
    pub fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        // Mostly small sizes, because whole memories are compared, and a memory without a maximum
        // may grow up to this size.
        let pages = *u.choose(&[96, 128, 200, 65_536])?;
        let calls = u.arbitrary()?;
        let insertions = Insertions::new(u)?;
        let config = config(u, pages)?;
        let mut module = wasm_smith::Module::new(config, u)?;
        let unfit = |_| arbitrary::Error::IncorrectFormat;
        module.ensure_termination(FUEL).map_err(unfit)?;
        let wasm = insertions.insert(&module.to_bytes(), u).map_err(unfit)?;
        Ok(Self { wasm, pages, calls })
    }
}

#[expect(
    clippy::field_reassign_with_default,
    reason = "the settings are in groups, with a comment for each"
)]
fn config(u: &mut Unstructured<'_>, pages: u64) -> Result<Config> {
    let mut config = Config::default();
    // If traps are disallowed, the generated code compares addresses with `memory.size`. Most of the
    // other modules trap soon.
    config.disallow_traps = u.ratio(4, 5)?;
    config.memory_offset_choices = MemoryOffsetChoices(1, 0, 0);
    config.canonicalize_nans = true;
    config.export_everything = true;

    config.max_memories = if u.ratio(1, 4)? { 3 } else { 1 };
    config.min_memories = 1;
    config.memory64_enabled = u.ratio(1, 4)?;
    config.custom_page_sizes_enabled = u.ratio(1, 6)?;
    // Small enough to compare as a whole. A maximum is required if the memory could grow to 4 GiB
    // without one.
    config.max_memory32_bytes = 80 * 65_536;
    config.max_memory64_bytes = 80 * 65_536;
    config.memory_max_size_required = pages > 1000 || u.ratio(1, 2)?;
    config.max_data_segments = 4;

    config.max_imports = 0;
    if u.ratio(1, 10)? {
        config.max_imports = 1;
        config.available_imports = Some(memory_import(u)?);
    }

    config.min_types = 1;
    config.min_funcs = 2;
    config.max_funcs = 6;
    config.max_types = 6;
    config.max_globals = 5;
    config.max_instructions = *u.choose(&[30, 60, 120])?;
    config.max_table_elements = 50;
    config.table_max_size_required = true;
    // Over-long encodings of indices make the instructions to replace longer.
    config.min_uleb_size = *u.choose(&[1, 1, 1, 2, 5])?;
    if u.ratio(1, 2)? {
        use InstructionKind::{Control, Memory, Numeric, Parametric, Variable};
        let kinds = [Control, Memory, Numeric, Parametric, Variable];
        config.allowed_instructions = InstructionKinds::new(&kinds);
    }
    config.simd_enabled = u.ratio(1, 4)?;
    config.relaxed_simd_enabled = false;
    config.tail_call_enabled = u.arbitrary()?;
    config.exceptions_enabled = u.ratio(1, 5)?;
    config.gc_enabled = u.ratio(1, 6)?;

    // Features without relation to memories, and instructions that wait for another thread.
    config.threads_enabled = false;
    config.wide_arithmetic_enabled = false;
    config.compact_imports_enabled = false;
    Ok(config)
}

/// Returns a module whose only import is a memory.
fn memory_import(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let minimum: u64 = u.int_in_range(0..=3)?;
    let maximum = match u.ratio(3, 4)? {
        true => (minimum + u.int_in_range(0..=60)?).to_string(),
        false => String::new(),
    };
    let text = format!(r#"(module (import "env" "memory" (memory {minimum} {maximum})))"#);
    wat::parse_str(text).map_err(|_| arbitrary::Error::IncorrectFormat)
}

/// The instructions and other items to insert into a generated module.
struct Insertions {
    /// One in this many places gets a growth instruction.
    one_in: u32,
    /// This many in six of them are `memory.size`; the others are `memory.grow`.
    sizes_in_six: u32,
    /// Unused globals and functions. With them, the rewriter's own items have indices of two bytes,
    /// and the replaced instructions do not fit in place.
    idle_globals: u32,
    idle_functions: u32,
    /// The distance of `__heap_base` below the end of the first memory. `None` for no such global.
    heap_base_below: Option<u32>,
}

/// The sections of a module in order, as (id, content).
type Sections = Vec<(u8, Vec<u8>)>;

/// The name of the exported global that mixes the results of the inserted instructions.
const RESULTS: &str = "results of the inserted instructions";

impl Insertions {
    fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        Ok(Self {
            one_in: *u.choose(&[3, 8, 20])?,
            sizes_in_six: *u.choose(&[1, 3, 6])?,
            idle_globals: if u.ratio(1, 6)? { 130 } else { 0 },
            idle_functions: if u.ratio(1, 12)? { 130 } else { 0 },
            heap_base_below: match u.ratio(1, 2)? {
                true => Some(u.int_in_range(0..=70_000)?),
                false => None,
            },
        })
    }

    /// Adds an exported global, and instructions that grow or measure a memory and mix the result
    /// into that global. They leave the stack unchanged, so they can be between any two instructions.
    fn insert(&self, wasm: &[u8], u: &mut Unstructured<'_>) -> anyhow::Result<Vec<u8>> {
        let mut sections = Sections::new();
        let mut bodies: Vec<FunctionBody<'_>> = Vec::new();
        let memories = Memories::read(wasm)?.types;
        let (mut types, mut globals) = (0, 0);
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload?;
            if let Some((id, range)) = payload.as_section() {
                sections.push((id, wasm[usize_range(&range)].to_vec()));
            }
            match payload {
                Payload::TypeSection(reader) => {
                    for group in reader {
                        types += group?.types().len() as u32;
                    }
                }
                Payload::GlobalSection(reader) => globals = reader.count(),
                Payload::CodeSectionEntry(body) => bodies.push(body),
                _ => {}
            }
        }

        for _ in 0..self.idle_globals {
            append(&mut sections, SectionId::Global, &i32_global(false, 0))?;
        }
        let results = globals + self.idle_globals;
        append(&mut sections, SectionId::Global, &i32_global(true, 0))?;
        append(
            &mut sections,
            SectionId::Export,
            &global_export(RESULTS, results),
        )?;
        if let (Some(below), Some(memory)) = (self.heap_base_below, memories.first()) {
            let end = memory.initial << memory.page_size_log2.unwrap_or(16);
            let base = end.saturating_sub(below.into()) as i32;
            append(&mut sections, SectionId::Global, &i32_global(false, base))?;
            let export = global_export(HEAP_BASE, results + 1);
            append(&mut sections, SectionId::Export, &export)?;
        }

        let mut code = wasm_encoder::CodeSection::new();
        for body in &bodies {
            code.raw(&self.insert_in_body(wasm, body, &memories, results, u)?);
        }
        if self.idle_functions > 0 && !bodies.is_empty() {
            const NOTHING_TO_NOTHING: [u8; 3] = [0x60, 0, 0];
            append(&mut sections, SectionId::Type, &NOTHING_TO_NOTHING)?;
            let mut ty = Vec::new();
            types.encode(&mut ty);
            for _ in 0..self.idle_functions {
                append(&mut sections, SectionId::Function, &ty)?;
                const NO_LOCALS_END: [u8; 2] = [0, 0x0b];
                code.raw(&NO_LOCALS_END);
            }
        }

        let mut module = wasm_encoder::Module::new();
        for (id, content) in &sections {
            let (id, data) = (*id, &content[..]);
            match id == SectionId::Code as u8 {
                true => module.section(&code),
                false => module.section(&wasm_encoder::RawSection { id, data }),
            };
        }
        Ok(module.finish())
    }

    fn insert_in_body(
        &self,
        wasm: &[u8],
        body: &FunctionBody<'_>,
        memories: &[MemoryType],
        results: u32,
        u: &mut Unstructured<'_>,
    ) -> anyhow::Result<Vec<u8>> {
        let all = usize_range(&body.range());
        let mut operators = body.get_operators_reader()?;
        let mut inserted = wasm[all.start..operators.original_position() as usize].to_vec();
        // Execution always reaches the first place, and often not the others.
        let mut first = true;
        while !operators.eof() {
            let start = operators.original_position() as usize;
            operators.read()?;
            if !memories.is_empty() && (first && u.ratio(2, 3)? || u.ratio(1, self.one_in)?) {
                let memory = u.int_in_range(0..=memories.len() - 1)?;
                self.instructions(memory as u32, &memories[memory], results, u, &mut inserted)?;
            }
            first = false;
            inserted.extend_from_slice(&wasm[start..operators.original_position() as usize]);
        }
        Ok(inserted)
    }

    fn instructions(
        &self,
        memory: u32,
        ty: &MemoryType,
        results: u32,
        u: &mut Unstructured<'_>,
        inserted: &mut Vec<u8>,
    ) -> Result<()> {
        let mut code = wasm_encoder::InstructionSink::new(inserted);
        code.global_get(results).i32_const(31).i32_mul();
        if u.ratio(self.sizes_in_six, 6)? {
            code.memory_size(memory);
        } else {
            // In pages of 64 KiB: deltas that succeed a few times, and some that always fail.
            let delta = match ty.page_size_log2 {
                Some(log2 @ 0..16) if u.ratio(3, 4)? => u.int_in_range(0..=3)? << (16 - log2),
                _ => *u.choose(&[0, 0, 1, 1, 1, 2, 3, 5, 17, 65_535, -1, i64::MIN])?,
            };
            match ty.memory64 {
                true => code.i64_const(delta),
                false => code.i32_const(delta as i32),
            };
            code.memory_grow(memory);
        }
        if ty.memory64 {
            code.i32_wrap_i64();
        }
        code.i32_add().global_set(results);
        Ok(())
    }
}

/// Encodes an export of a global.
fn global_export(name: &str, index: u32) -> Vec<u8> {
    let mut item = Vec::new();
    name.encode(&mut item);
    item.push(wasm_encoder::ExportKind::Global as u8);
    index.encode(&mut item);
    item
}

/// Encodes a global with a constant.
fn i32_global(mutable: bool, value: i32) -> Vec<u8> {
    let ty = wasm_encoder::GlobalType {
        val_type: wasm_encoder::ValType::I32,
        mutable,
        shared: false,
    };
    let mut item = Vec::new();
    ty.encode(&mut item);
    wasm_encoder::ConstExpr::i32_const(value).encode(&mut item);
    item
}

/// Appends an item to a section. Adds the section if there is none.
fn append(sections: &mut Sections, id: SectionId, item: &[u8]) -> anyhow::Result<()> {
    const TAG: u8 = SectionId::Tag as u8;
    let id = id as u8;
    // The sections are in ascending order of their ids, except for the tag section.
    let at = sections
        .iter()
        .position(|(other, _)| *other >= id && *other != TAG);
    let at = at.unwrap_or(sections.len());
    if sections.get(at).is_none_or(|(other, _)| *other != id) {
        sections.insert(at, (id, vec![0]));
    }
    let content = &mut sections[at].1;
    let mut reader = wasmparser::BinaryReader::new(content, 0);
    let count = reader.read_var_u32()?;
    let items = content.split_off(reader.original_position() as usize);
    content.clear();
    (count + 1).encode(content);
    content.extend(items);
    content.extend_from_slice(item);
    Ok(())
}
