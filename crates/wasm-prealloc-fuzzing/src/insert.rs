//! Inserts instructions and items into a generated module: growth instructions, because wasm-smith
//! alone generates too few, accesses at the end of a memory, and data at the end of its minimum.

use arbitrary::{Result, Unstructured};
use wasm_encoder::{
    BlockType, ConstExpr, Encode as _, InstructionSink, MemArg, MemArgTarget, SectionId,
};
use wasmparser::{FunctionBody, MemoryType, Parser, Payload};

use crate::declare::{HEAP_BASE, Memories};
use crate::sections::{Sections, append, content_of, join, split, usize_range};

/// The instructions and other items to insert into a generated module.
pub(crate) struct Insertions {
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
    data: Option<Data>,
}

/// A data segment that is added, at the end of the first memory's minimum or near it.
struct Data {
    /// The distance between the end of the segment and the end of the minimum.
    beyond: i64,
    bytes: usize,
    /// True if a global has the address.
    global: bool,
}

/// The name of the exported global that mixes the results of the inserted instructions.
pub(crate) const RESULTS: &str = "results of the inserted instructions";

impl Insertions {
    pub(crate) fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        Ok(Self {
            one_in: *u.choose(&[3, 8, 20])?,
            sizes_in_six: *u.choose(&[1, 3, 6])?,
            idle_globals: if u.ratio(1, 6)? { 130 } else { 0 },
            idle_functions: if u.ratio(1, 12)? { 130 } else { 0 },
            heap_base_below: match u.ratio(1, 2)? {
                true => Some(u.int_in_range(0..=70_000)?),
                false => None,
            },
            data: match u.ratio(1, 3)? {
                true => Some(Data {
                    beyond: *u.choose(&[-1, 0, 0, 0, 0, 0, 1, 65_536, 200_000])?,
                    bytes: *u.choose(&[0, 1, 5])?,
                    global: u.ratio(1, 3)?,
                }),
                false => None,
            },
        })
    }

    /// Adds an exported global, and instructions that grow or measure a memory and mix the result
    /// into that global. They leave the stack unchanged, so they can be between any two instructions.
    pub(crate) fn insert(&self, wasm: &[u8], u: &mut Unstructured<'_>) -> anyhow::Result<Vec<u8>> {
        let mut sections = split(wasm)?;
        let mut bodies: Vec<FunctionBody<'_>> = Vec::new();
        let memories = Memories::read(wasm)?.types();
        let (mut types, mut globals) = (0, 0);
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
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
        if let (Some(data), Some(memory)) = (&self.data, memories.first()) {
            let global = results + 1 + u32::from(self.heap_base_below.is_some());
            data.append(memory, global, &mut sections)?;
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

        let code = content_of(&code)?;
        for (id, content) in &mut sections {
            if *id == SectionId::Code as u8 {
                content.clone_from(&code);
            }
        }
        Ok(join(&sections))
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
        let mut code = InstructionSink::new(inserted);
        if u.ratio(1, 5)? {
            access_last_byte(memory, ty, results, u.arbitrary()?, &mut code);
            return Ok(());
        }
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

impl Data {
    fn append(
        &self,
        memory: &MemoryType,
        global: u32,
        sections: &mut Sections,
    ) -> anyhow::Result<()> {
        let end = (memory.initial << memory.page_size_log2.unwrap_or(16)).cast_signed();
        let address = end + self.beyond - self.bytes as i64;
        if address < 0 {
            return Ok(());
        }
        let mut offset = match memory.memory64 {
            true => ConstExpr::i64_const(address),
            false => ConstExpr::i32_const(address as i32),
        };
        if self.global && !memory.memory64 {
            append(
                sections,
                SectionId::Global,
                &i32_global(false, address as i32),
            )?;
            offset = ConstExpr::global_get(global);
        }
        const ACTIVE_IN_MEMORY_0: u8 = 0;
        let mut segment = vec![ACTIVE_IN_MEMORY_0];
        offset.encode(&mut segment);
        vec![0x2a_u8; self.bytes].encode(&mut segment);
        append(sections, SectionId::Data, &segment)?;
        // The section with the number of segments is there only if an instruction needs it.
        let count = sections
            .iter_mut()
            .find(|(id, _)| *id == SectionId::DataCount as u8);
        if let Some((_, content)) = count {
            let count = wasmparser::BinaryReader::new(content, 0).read_var_u32()?;
            content.clear();
            (count + 1).encode(content);
        }
        Ok(())
    }
}

/// Reads or writes the last byte of a memory, unless the memory is empty.
fn access_last_byte(
    memory: u32,
    ty: &MemoryType,
    results: u32,
    write: bool,
    code: &mut InstructionSink<'_>,
) {
    let byte = MemArg {
        offset: 0,
        align: 0,
        target: MemArgTarget::Memory(memory),
        ordering: None,
    };
    let page_log2 = ty.page_size_log2.unwrap_or(16);
    code.memory_size(memory);
    match ty.memory64 {
        true => code.i64_const(0).i64_ne(),
        false => code,
    };
    code.if_(BlockType::Empty);
    if !write {
        code.global_get(results);
    }
    code.memory_size(memory);
    // The product of a full memory wraps to 0, and the difference is the last address also then.
    match ty.memory64 {
        true => code
            .i64_const(page_log2.into())
            .i64_shl()
            .i64_const(1)
            .i64_sub(),
        false => code
            .i32_const(page_log2 as i32)
            .i32_shl()
            .i32_const(1)
            .i32_sub(),
    };
    match write {
        true => code.global_get(results).i32_store8(byte),
        false => code.i32_load8_u(byte).i32_add().global_set(results),
    };
    code.end();
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
    ConstExpr::i32_const(value).encode(&mut item);
    item
}
