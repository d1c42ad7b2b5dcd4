//! The functions that a guest of these two hosts can call, the same before and after the migration.

use wasmtime::{Caller, Engine, Linker, Memory, Result};

/// The input of one call, and what the guest flushed.
pub(crate) struct State {
    input: Vec<u8>,
    pub(crate) flushed: Vec<u8>,
}

impl State {
    pub(crate) fn new(input: &[u8]) -> State {
        State {
            input: input.to_vec(),
            flushed: Vec::new(),
        }
    }
}

pub(crate) fn linker(engine: &Engine) -> Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("env", "__host_len", |caller: Caller<'_, State>| {
        caller.data().input.len() as u32
    })?;
    linker.func_wrap(
        "env",
        "__load_input",
        |mut caller: Caller<'_, State>, content: u32| {
            let input = std::mem::take(&mut caller.data_mut().input);
            memory(&mut caller)?.write(&mut caller, content as usize, &input)?;
            Ok(())
        },
    )?;
    linker.func_wrap(
        "env",
        "__flush",
        |mut caller: Caller<'_, State>, content: u32| {
            let bytes = buffer(&mut caller, content)?;
            caller.data_mut().flushed.extend(bytes);
            Ok(())
        },
    )?;
    linker.func_wrap(
        "env",
        "__log",
        |mut caller: Caller<'_, State>, content: u32| {
            let line = buffer(&mut caller, content)?;
            eprintln!("{}", String::from_utf8_lossy(&line));
            Ok(())
        },
    )?;
    Ok(linker)
}

fn memory(caller: &mut Caller<'_, State>) -> Result<Memory> {
    let memory = caller.get_export("memory");
    let memory = memory.and_then(|export| export.into_memory());
    memory.ok_or_else(|| wasmtime::Error::msg("the guest exports no memory"))
}

/// Reads a buffer, whose length is in the four bytes before its content.
fn buffer(caller: &mut Caller<'_, State>, content: u32) -> Result<Vec<u8>> {
    let memory = memory(caller)?;
    let data = memory.data(caller);
    let start = content as usize;
    let length = start.checked_sub(4).and_then(|at| data.get(at..start));
    let length = length.map(|bytes| {
        bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | *byte as usize)
    });
    let bytes = length.and_then(|length| data.get(start..)?.get(..length));
    let bytes = bytes.ok_or_else(|| wasmtime::Error::msg("a buffer outside of the memory"))?;
    Ok(bytes.to_vec())
}

/// Decodes a block in hexadecimal, and puts its height before it.
pub(crate) fn input(height: u32, block: &str) -> Vec<u8> {
    let digits: Vec<_> = block
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .collect();
    let bytes = digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | *digit as u8));
    height.to_le_bytes().into_iter().chain(bytes).collect()
}
