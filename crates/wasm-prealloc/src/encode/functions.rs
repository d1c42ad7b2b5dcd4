//! The items that a rewrite adds: functions, their types, and globals, as the format encodes them.

use wasm_encoder::{
    BlockType, ConstExpr, Encode, Function, GlobalType, InstructionSink, MemArg, MemArgTarget,
    ValType,
};

use crate::limits::Memory;

/// The type of a memory's sizes and addresses.
pub(crate) fn address_type(memory: &Memory) -> ValType {
    match memory.memory64 {
        true => ValType::I64,
        false => ValType::I32,
    }
}

/// An item for the global section: a number of pages.
pub(crate) fn pages_global(memory: &Memory, pages: u64, mutable: bool) -> Vec<u8> {
    let mut item = Vec::new();
    let ty = GlobalType {
        val_type: address_type(memory),
        mutable,
        shared: false,
    };
    ty.encode(&mut item);
    let value = match memory.memory64 {
        true => ConstExpr::i64_const(pages.cast_signed()),
        false => ConstExpr::i32_const((pages as u32).cast_signed()),
    };
    value.encode(&mut item);
    item
}

/// An item for the type section: a function type.
pub(crate) fn function_type(params: &[ValType], results: &[ValType]) -> Vec<u8> {
    const FUNC: u8 = 0x60;
    let mut item = vec![FUNC];
    params.encode(&mut item);
    results.encode(&mut item);
    item
}

/// The place of the number that emulated growth changes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Counter {
    /// A global with this index. It holds the size in pages.
    Global(u32),
    /// An address in the memory. The number there begins as 0 and is the number of pages that the
    /// memory has grown by. The size at the start, in pages, is added to it.
    Memory { address: u64, from: u64 },
}

/// A function body: a memory's `memory.grow`, on the size that `counter` holds.
pub(crate) fn grow_body(memory: &Memory, counter: Counter, cap: u64) -> Vec<u8> {
    const DELTA: u32 = 0;
    const OLD_SIZE: u32 = 1;
    let address = address_type(memory);
    let mut function = Function::new([(1, address)]);
    let mut code = function.instructions();
    // Another thread can change the counter after it is read.
    let is_retried = memory.shared && matches!(counter, Counter::Memory { .. });
    if is_retried {
        code.loop_(BlockType::Result(address));
    }
    code.local_get(DELTA);
    constant(&mut code, address, cap);
    size(&mut code, memory, counter);
    code.local_tee(OLD_SIZE);
    match address {
        ValType::I64 => code.i64_sub().i64_gt_u(),
        _ => code.i32_sub().i32_gt_u(),
    };
    // The size exceeds the cap, and the subtraction wraps, only if another module has a larger cap.
    if matches!(counter, Counter::Memory { .. }) {
        code.local_get(OLD_SIZE);
        constant(&mut code, address, cap);
        match address {
            ValType::I64 => code.i64_gt_u(),
            _ => code.i32_gt_u(),
        };
        code.i32_or();
    }
    code.if_(BlockType::Result(address));
    constant(&mut code, address, u64::MAX);
    code.else_();
    add_pages(&mut code, memory, counter, OLD_SIZE, DELTA);
    if is_retried {
        code.br_if(1);
    }
    code.local_get(OLD_SIZE);
    code.end();
    if is_retried {
        code.end();
    }
    code.end();
    function.into_raw_body()
}

/// A function body: a memory's `memory.size`, from a counter in the memory.
pub(crate) fn size_body(memory: &Memory, counter: Counter) -> Vec<u8> {
    let mut function = Function::new([]);
    let mut code = function.instructions();
    size(&mut code, memory, counter);
    code.end();
    function.into_raw_body()
}

/// Emits the virtual size.
fn size(code: &mut InstructionSink<'_>, memory: &Memory, counter: Counter) {
    let ty = address_type(memory);
    match counter {
        Counter::Global(global) => {
            code.global_get(global);
        }
        Counter::Memory { address, from } => {
            constant(code, ty, address);
            let place = counter_place(memory);
            match (ty, memory.shared) {
                (ValType::I64, true) => code.i64_atomic_load(place),
                (ValType::I64, false) => code.i64_load(place),
                (_, true) => code.i32_atomic_load(place),
                (_, false) => code.i32_load(place),
            };
            constant(code, ty, from);
            add(code, ty);
        }
    }
}

/// Emits the change of the counter from the size in the local `old` by the pages in `delta`. If
/// threads share the counter, the code leaves a number on the stack: 0 if the counter was changed, and
/// 1 if another thread has changed it before, so that it stays as it is.
fn add_pages(
    code: &mut InstructionSink<'_>,
    memory: &Memory,
    counter: Counter,
    old: u32,
    delta: u32,
) {
    let ty = address_type(memory);
    let (address, from) = match counter {
        Counter::Global(global) => {
            code.local_get(old).local_get(delta);
            add(code, ty);
            code.global_set(global);
            return;
        }
        Counter::Memory { address, from } => (address, from),
    };
    let grown = |code: &mut InstructionSink<'_>| {
        code.local_get(old);
        constant(code, ty, from);
        match ty {
            ValType::I64 => code.i64_sub(),
            _ => code.i32_sub(),
        };
    };
    let place = counter_place(memory);
    constant(code, ty, address);
    if memory.shared {
        grown(code);
    }
    grown(code);
    code.local_get(delta);
    add(code, ty);
    match (ty, memory.shared) {
        (ValType::I64, false) => {
            code.i64_store(place);
        }
        (_, false) => {
            code.i32_store(place);
        }
        (ValType::I64, true) => {
            code.i64_atomic_rmw_cmpxchg(place);
            grown(code);
            code.i64_ne();
        }
        (_, true) => {
            code.i32_atomic_rmw_cmpxchg(place);
            grown(code);
            code.i32_ne();
        }
    }
}

/// The memory argument of a counter, with its natural alignment.
fn counter_place(memory: &Memory) -> MemArg {
    MemArg {
        offset: 0,
        align: if memory.memory64 { 3 } else { 2 },
        target: MemArgTarget::Memory(memory.id.index),
        ordering: None,
    }
}

/// The smallest page that an operating system commits, in bytes.
const OS_PAGE_BYTES: u64 = 4096;

/// A function body: the function that `export_commit` adds. It reads one byte of each of the
/// operating system's pages and writes it back. The memories have their final sizes.
pub(crate) fn commit_body<'m>(memories: impl Iterator<Item = &'m Memory>) -> Vec<u8> {
    let mut function = Function::new([(1, ValType::I32), (1, ValType::I64)]);
    let mut code = function.instructions();
    for memory in memories {
        let bytes = u128::from(memory.minimum) << memory.page_log2();
        if bytes > 0 {
            // The end of a full memory is 2^32 or 2^64. It wraps to 0, as the address does.
            let end = bytes.next_multiple_of(OS_PAGE_BYTES.into()) as u64;
            touch_pages(&mut code, memory, end);
        }
    }
    code.end();
    function.into_raw_body()
}

/// Emits a loop over the pages of a memory up to the address `end`.
fn touch_pages(code: &mut InstructionSink<'_>, memory: &Memory, end: u64) {
    let address_type = address_type(memory);
    // The first local is an i32 and the second an i64.
    let address = u32::from(memory.memory64);
    let byte = MemArg {
        offset: 0,
        align: 0,
        target: MemArgTarget::Memory(memory.id.index),
        ordering: None,
    };
    constant(code, address_type, 0);
    code.local_set(address);
    code.loop_(BlockType::Empty);
    code.local_get(address);
    if memory.shared {
        // Another thread may write the byte between a read and a write.
        code.i32_const(0).i32_atomic_rmw8_or_u(byte).drop();
    } else {
        code.local_get(address).i32_load8_u(byte).i32_store8(byte);
    }
    code.local_get(address);
    constant(code, address_type, OS_PAGE_BYTES);
    add(code, address_type);
    code.local_tee(address);
    constant(code, address_type, end);
    match address_type {
        ValType::I64 => code.i64_ne(),
        _ => code.i32_ne(),
    };
    code.br_if(0);
    code.end();
}

/// Emits a constant of the type of an address. A larger value wraps.
fn constant(code: &mut InstructionSink<'_>, address: ValType, value: u64) {
    match address {
        ValType::I64 => code.i64_const(value.cast_signed()),
        _ => code.i32_const((value as u32).cast_signed()),
    };
}

fn add(code: &mut InstructionSink<'_>, address: ValType) {
    match address {
        ValType::I64 => code.i64_add(),
        _ => code.i32_add(),
    };
}
