//! The functions that a guest can call: the module `env` of its imports. An invalid argument is a
//! trap. Nothing here writes the database.
//!
//! | import | what it does |
//! |---|---|
//! | `__host_len() -> i32` | returns the length of the input in bytes |
//! | `__load_input(ptr)` | writes the input: the height as a u32 (little-endian), then the block or the view's input |
//! | `__get_len(key) -> i32` | returns the length of a key's value, 0 if it has none |
//! | `__get(key, ptr)` | writes the value of a key |
//! | `__flush(list)` | takes keys and values in turn, as protobuf: `repeated bytes list = 1` |
//! | `__log(text)` | takes a line of text |
//! | `abort(..)` | ends the instance; AssemblyScript passes a message, a file, a line and a column |
//!
//! `key`, `list` and `text` are buffers (see `buffers`). `__get` reads the state before the block;
//! in a view, the state after the block at the view's height. A block that flushes more than once
//! stores all of it, and the last value of each key. A view is read-only: `__flush` traps in it.
//! An import that is not in the table traps when it is called.

use wasmtime::{
    Caller, Engine, Extern, ExternType, FuncType, Linker, Module, ResourceLimiter, Result,
    StoreLimits, Val, bail, ensure,
};

use crate::buffers::{buffer, length, write};
use crate::protobuf::decode_list;
use crate::store::{Flushed, Snapshot};

/// The state of one instance.
pub(crate) struct Guest {
    /// The height as a u32 in little-endian order, then the block or the view's input.
    input: Vec<u8>,
    stored: Snapshot,
    output: Output,
    log: bool,
    /// Bounds what the instance takes beside its memory.
    pub(crate) limiter: Box<dyn ResourceLimiter + Send>,
}

enum Output {
    /// The values that a block flushed; `None` before it flushed any.
    Block(Option<Flushed>),
    /// A view flushes nothing. It returns a buffer.
    View,
}

impl Guest {
    /// Returns the state of an instance that indexes a block.
    pub(crate) fn block(height: u32, block: &[u8], stored: Snapshot, log: bool) -> Guest {
        Guest::new(height, block, stored, Output::Block(None), log)
    }

    /// Returns the state of an instance that answers a view.
    pub(crate) fn view(height: u32, input: &[u8], stored: Snapshot, log: bool) -> Guest {
        Guest::new(height, input, stored, Output::View, log)
    }

    fn new(height: u32, rest: &[u8], stored: Snapshot, output: Output, log: bool) -> Guest {
        let mut input = height.to_le_bytes().to_vec();
        input.extend_from_slice(rest);
        Guest {
            input,
            stored,
            output,
            log,
            limiter: Box::new(StoreLimits::default()),
        }
    }

    /// Returns the values that the block flushed, or `None` if it called `__flush` not once.
    pub(crate) fn into_flushed(self) -> Option<Flushed> {
        match self.output {
            Output::Block(flushed) => flushed,
            Output::View => None,
        }
    }

    /// Returns a key's stored value, or an empty one.
    fn value(&self, key: &[u8]) -> Result<Vec<u8>> {
        match self.stored.get(key) {
            Ok(value) => Ok(value.unwrap_or_default()),
            Err(error) => bail!("reading the database: {error:#}"),
        }
    }

    fn flush(&mut self, message: &[u8]) -> Result<()> {
        let Output::Block(flushed) = &mut self.output else {
            bail!("__flush: a view is read-only; it returns its answer as a buffer");
        };
        let list = decode_list(message)?;
        let pairs = list.chunks_exact(2);
        ensure!(
            pairs.remainder().is_empty(),
            "__flush: the list ends with a key that has no value"
        );
        let flushed = flushed.get_or_insert_default();
        for pair in pairs {
            flushed.insert(pair[0].to_vec(), pair[1].to_vec());
        }
        Ok(())
    }
}

/// A guest that calls a function of the host.
type Call<'a> = Caller<'a, Guest>;

/// Defines the imports of a module.
pub(crate) fn linker(engine: &Engine, module: &Module) -> Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("env", "__host_len", |caller: Call<'_>| {
        length("__host_len", &caller.data().input)
    })?;
    linker.func_wrap("env", "__load_input", |mut caller: Call<'_>, at: i32| {
        let (bytes, guest) = memory(&mut caller)?;
        write("__load_input", bytes, at, &guest.input)
    })?;
    linker.func_wrap("env", "__get_len", |mut caller: Call<'_>, key: i32| {
        let (bytes, guest) = memory(&mut caller)?;
        let value = guest.value(buffer("__get_len", bytes, key)?)?;
        length("__get_len", &value)
    })?;
    linker.func_wrap("env", "__get", |mut caller: Call<'_>, key: i32, at: i32| {
        let (bytes, guest) = memory(&mut caller)?;
        let value = guest.value(buffer("__get", bytes, key)?)?;
        write("__get", bytes, at, &value)
    })?;
    linker.func_wrap("env", "__flush", |mut caller: Call<'_>, list: i32| {
        let (bytes, guest) = memory(&mut caller)?;
        guest.flush(buffer("__flush", bytes, list)?)
    })?;
    linker.func_wrap("env", "__log", |mut caller: Call<'_>, text: i32| {
        let (bytes, guest) = memory(&mut caller)?;
        let text = buffer("__log", bytes, text)?;
        if guest.log {
            eprintln!("guest: {}", String::from_utf8_lossy(text));
        }
        Ok(())
    })?;
    if let Some(ty) = imported_function(module, "abort") {
        linker.func_new("env", "abort", ty, |caller, arguments, _| {
            abort(caller, arguments)
        })?;
    }
    linker.define_unknown_imports_as_traps(module)?;
    Ok(linker)
}

/// Returns true if the module can flush values.
pub(crate) fn can_flush(module: &Module) -> bool {
    imported_function(module, "__flush").is_some()
}

/// Returns the type with which a module imports a function of `env`.
fn imported_function(module: &Module, name: &str) -> Option<FuncType> {
    let mut imports = module.imports();
    let import = imports.find(|import| (import.module(), import.name()) == ("env", name))?;
    match import.ty() {
        ExternType::Func(ty) => Some(ty),
        _ => None,
    }
}

/// Borrows the guest's memory and its state.
fn memory<'c>(caller: &'c mut Call<'_>) -> Result<(&'c mut [u8], &'c mut Guest)> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory.data_and_store_mut(caller)),
        _ => bail!("the guest does not export its memory as `memory`"),
    }
}

/// Ends the instance with the message that it passed. AssemblyScript calls `abort` with two strings,
/// a line and a column; another signature is reported as it is.
fn abort(mut caller: Call<'_>, arguments: &[Val]) -> Result<()> {
    match *arguments {
        [
            Val::I32(message),
            Val::I32(file),
            Val::I32(line),
            Val::I32(column),
        ] => {
            let bytes: &[u8] = memory(&mut caller).map_or(&[], |(bytes, _)| bytes);
            let (message, file) = (utf16(bytes, message), utf16(bytes, file));
            let (line, column) = (line.cast_unsigned(), column.cast_unsigned());
            bail!("the guest called abort: {message} ({file}:{line}:{column})")
        }
        [] => bail!("the guest called abort"),
        _ => bail!("the guest called abort with the arguments {arguments:?}"),
    }
}

/// Reads a string of AssemblyScript, which is in UTF-16. A null pointer is an empty string.
fn utf16(memory: &[u8], pointer: i32) -> String {
    match buffer("abort", memory, pointer) {
        _ if pointer == 0 => String::new(),
        Ok(bytes) => {
            let (units, _) = bytes.as_chunks();
            let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
            String::from_utf16_lossy(&units)
        }
        Err(_) => format!("(no string at {})", pointer.cast_unsigned()),
    }
}
