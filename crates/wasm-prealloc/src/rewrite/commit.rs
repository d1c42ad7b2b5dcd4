//! The function that `export_commit` adds: it makes every page of every memory resident.

use wasm_encoder::{BlockType, Encode, Function, MemArg, MemArgTarget, ValType};

use super::growth::address_type;
use crate::limits::Memory;

/// The least page that an operating system commits, in bytes.
const OS_PAGE_BYTES: u64 = 4096;

/// An item for the code section: reads a byte of each of the operating system's pages and writes
/// it back. Memories are at their final size.
pub(crate) fn commit_body(memories: &[Memory]) -> Vec<u8> {
    const ADDRESS_32: u32 = 0;
    const ADDRESS_64: u32 = 1;
    let mut function = Function::new([(1, ValType::I32), (1, ValType::I64)]);
    let mut code = function.instructions();
    for memory in memories {
        let bytes = u128::from(memory.minimum) << memory.page_log2();
        if bytes == 0 {
            continue;
        }
        // The end of a full memory is 2^32 or 2^64, which wraps to 0 as the address does.
        let end = bytes.next_multiple_of(OS_PAGE_BYTES.into()) as u64;
        let byte = MemArg {
            offset: 0,
            align: 0,
            target: MemArgTarget::Memory(memory.id.index),
            ordering: None,
        };
        let address = match address_type(memory) {
            ValType::I64 => ADDRESS_64,
            _ => ADDRESS_32,
        };
        match address {
            ADDRESS_64 => code.i64_const(0),
            _ => code.i32_const(0),
        };
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
        match address {
            ADDRESS_64 => {
                code.i64_const(OS_PAGE_BYTES.cast_signed()).i64_add();
                code.local_tee(address);
                code.i64_const(end.cast_signed()).i64_ne();
            }
            _ => {
                code.i32_const(OS_PAGE_BYTES as i32).i32_add();
                code.local_tee(address);
                code.i32_const((end as u32).cast_signed()).i32_ne();
            }
        }
        code.br_if(0);
        code.end();
    }
    code.end();
    let mut item = Vec::new();
    function.encode(&mut item);
    item
}
