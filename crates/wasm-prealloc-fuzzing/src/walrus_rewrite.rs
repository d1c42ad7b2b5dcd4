//! A second implementation of the rewrite, on walrus's instruction trees instead of bytes. If the two
//! behave differently, one of them is wrong.

use anyhow::{Result, ensure};
use walrus::ir::{BinaryOp, Call, GlobalGet, Instr, InstrLocId, VisitorMut, dfs_pre_order_mut};
use walrus::{
    ConstExpr, FunctionBuilder, FunctionId, GlobalId, Module, ModuleConfig, ValType, ir::Value,
};

use wasm_prealloc::Growth;

use crate::declare::Memories;

/// Rewrites a module that defines one 32-bit memory with pages of 64 KiB. Growth starts at the
/// declared minimum. `growth` has the same meaning as in [`wasm_prealloc::rewrite`].
///
/// # Errors
/// Walrus cannot read the module, or the module does not have exactly one such memory.
pub fn walrus_rewrite(wasm: &[u8], pages: u64, growth: Growth) -> Result<Vec<u8>> {
    let mut config = ModuleConfig::new();
    config.generate_producers_section(false);
    let mut module = config.parse(wasm)?;
    ensure!(module.memories.len() == 1, "not one memory");
    let memory = module.memories.iter_mut().next();
    let memory = memory.expect("there is one, as just counted");
    ensure!(memory.import.is_none(), "an imported memory");
    ensure!(!memory.memory64, "a 64-bit memory");
    ensure!(memory.page_size_log2.is_none(), "a custom page size");
    ensure!(!memory.shared, "a shared memory");

    let minimum = memory.initial;
    let cap = memory.maximum.unwrap_or(pages).min(pages);
    let pinned_at_size = memory.initial == pages && memory.maximum == Some(pages);
    memory.initial = pages;
    memory.maximum = Some(pages);

    // Counted in the bytes, because walrus drops unreachable code, which may contain every
    // `memory.grow`.
    let memories = Memories::read(wasm)?;
    let memory = &memories.all[0];
    let (sizes, grows) = (memory.sizes, memory.grows);
    let emulate = match growth {
        _ if sizes + grows == 0 => return Ok(module.emit_wasm()),
        Growth::Auto if pinned_at_size => return Ok(module.emit_wasm()),
        Growth::Keep => return Ok(module.emit_wasm()),
        Growth::Auto => grows > 0,
        Growth::Emulate => true,
        Growth::Pregrown => false,
        _ => unimplemented!("growth {growth}"),
    };
    // Nothing can change the size of a memory that is not exported.
    let private = growth == Growth::Auto && memory.exports.is_empty();
    let start = if emulate || private {
        minimum
    } else {
        cap.min(65_535)
    };
    let size = ConstExpr::Value(Value::I32(start as u32 as i32));
    let size = module.globals.add_local(ValType::I32, emulate, false, size);
    let grow = emulate.then(|| grow_function(&mut module, size, cap));
    for (_, function) in module.funcs.iter_local_mut() {
        let entry = function.entry_block();
        dfs_pre_order_mut(&mut Replace { size, grow }, function, entry);
    }
    Ok(module.emit_wasm())
}

/// Adds a function that changes the global as `memory.grow` changes the size of a memory.
fn grow_function(module: &mut Module, size: GlobalId, cap: u64) -> FunctionId {
    let mut builder = FunctionBuilder::new(&mut module.types, &[ValType::I32], &[ValType::I32]);
    let delta = module.locals.add(ValType::I32);
    // The sum is 64-bit, so that it cannot overflow.
    builder
        .func_body()
        .global_get(size)
        .unop(walrus::ir::UnaryOp::I64ExtendUI32)
        .local_get(delta)
        .unop(walrus::ir::UnaryOp::I64ExtendUI32)
        .binop(BinaryOp::I64Add)
        .i64_const(cap as i64)
        .binop(BinaryOp::I64LeU)
        .if_else(
            ValType::I32,
            |fits| {
                // The old size stays on the stack as the result.
                fits.global_get(size)
                    .global_get(size)
                    .local_get(delta)
                    .binop(BinaryOp::I32Add)
                    .global_set(size);
            },
            |full| {
                full.i32_const(-1);
            },
        );
    builder.finish(vec![delta], &mut module.funcs)
}

struct Replace {
    size: GlobalId,
    grow: Option<FunctionId>,
}

impl VisitorMut for Replace {
    fn visit_instr_mut(&mut self, instr: &mut Instr, _: &mut InstrLocId) {
        match (&instr, self.grow) {
            (Instr::MemorySize(_), _) => *instr = Instr::GlobalGet(GlobalGet { global: self.size }),
            (Instr::MemoryGrow(_), Some(func)) => *instr = Instr::Call(Call { func }),
            _ => {}
        }
    }
}
