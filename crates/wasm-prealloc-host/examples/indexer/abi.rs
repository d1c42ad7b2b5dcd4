//! The functions that a guest can call. A buffer is a pointer to bytes; their length, a u32 in
//! little-endian order, is 4 bytes before them.
//!
//! An invalid argument of a guest is a trap. Nothing here writes the database.

use std::ops::Range;

use wasmtime::{
    Caller, Engine, Extern, Linker, ResourceLimiter, Result, StoreLimits, bail, ensure, format_err,
};

use crate::store::{Flushed, Snapshot};

/// The state of one block's instance.
pub(crate) struct Guest {
    /// The height as a u32 in little-endian order, then the block.
    input: Vec<u8>,
    stored: Snapshot,
    flushed: Flushed,
    log: bool,
    /// Bounds what the instance takes beside its memory.
    pub(crate) limiter: Box<dyn ResourceLimiter + Send>,
}

impl Guest {
    pub(crate) fn new(height: u32, block: &[u8], stored: Snapshot, log: bool) -> Guest {
        let mut input = height.to_le_bytes().to_vec();
        input.extend_from_slice(block);
        Guest {
            input,
            stored,
            flushed: Flushed::new(),
            log,
            limiter: Box::new(StoreLimits::default()),
        }
    }

    pub(crate) fn into_flushed(self) -> Flushed {
        self.flushed
    }

    /// Returns a key's value: the one that this block flushed, or else the stored one, or else an
    /// empty one.
    fn value(&self, key: &[u8]) -> Result<Vec<u8>> {
        if let Some(value) = self.flushed.get(key) {
            return Ok(value.clone());
        }
        match self.stored.get(key) {
            Ok(value) => Ok(value.unwrap_or_default()),
            Err(error) => bail!("reading the database: {error:#}"),
        }
    }
}

/// A guest that calls a function of the host.
type Call<'a> = Caller<'a, Guest>;

/// Defines the module `env` of a guest's imports.
pub(crate) fn linker(engine: &Engine) -> Result<Linker<Guest>> {
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
        let list = decode_list(buffer("__flush", bytes, list)?)?;
        let pairs = list.chunks_exact(2);
        ensure!(
            pairs.remainder().is_empty(),
            "__flush: the list ends with a key that has no value"
        );
        for pair in pairs {
            guest.flushed.insert(pair[0].to_vec(), pair[1].to_vec());
        }
        Ok(())
    })?;
    linker.func_wrap("env", "__log", |mut caller: Call<'_>, text: i32| {
        let (bytes, guest) = memory(&mut caller)?;
        let text = buffer("__log", bytes, text)?;
        if guest.log {
            eprintln!("guest: {}", String::from_utf8_lossy(text));
        }
        Ok(())
    })?;
    Ok(linker)
}

/// Borrows the guest's memory and its state.
fn memory<'c>(caller: &'c mut Call<'_>) -> Result<(&'c mut [u8], &'c mut Guest)> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory.data_and_store_mut(caller)),
        _ => bail!("the guest does not export its memory as `memory`"),
    }
}

fn length(function: &str, bytes: &[u8]) -> Result<i32> {
    let length = bytes.len();
    i32::try_from(length)
        .map_err(|_| format_err!("{function}: {length} bytes are more than a guest can address"))
}

/// Returns the bytes of the buffer at `pointer`.
fn buffer<'m>(function: &str, memory: &'m [u8], pointer: i32) -> Result<&'m [u8]> {
    let pointer = u64::from(pointer.cast_unsigned());
    let Some(prefix) = pointer.checked_sub(4) else {
        bail!("{function}: there is no room for a length before the pointer {pointer}");
    };
    let mut length = [0; 4];
    length.copy_from_slice(&memory[range(function, memory, prefix, 4)?]);
    let length = u64::from(u32::from_le_bytes(length));
    Ok(&memory[range(function, memory, pointer, length)?])
}

fn write(function: &str, memory: &mut [u8], at: i32, bytes: &[u8]) -> Result<()> {
    let at = u64::from(at.cast_unsigned());
    let range = range(function, memory, at, bytes.len() as u64)?;
    memory[range].copy_from_slice(bytes);
    Ok(())
}

fn range(function: &str, memory: &[u8], at: u64, length: u64) -> Result<Range<usize>> {
    // Both are at most 2^32, so the sum cannot overflow.
    let end = at + length;
    ensure!(
        end <= memory.len() as u64,
        "{function}: {length} bytes at {at} are outside of the guest's memory of {} bytes",
        memory.len()
    );
    Ok(at as usize..end as usize)
}

/// Decodes the protobuf message `repeated bytes list = 1`. Other fields are skipped.
fn decode_list(mut message: &[u8]) -> Result<Vec<&[u8]>> {
    const VARINT: u64 = 0;
    const FIXED_64: u64 = 1;
    const BYTES: u64 = 2;
    const FIXED_32: u64 = 5;
    let mut list = Vec::new();
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        let (field, kind) = (tag >> 3, tag & 7);
        ensure!(field != 0, "__flush: not protobuf, there is no field 0");
        let bytes = match kind {
            VARINT => {
                take_varint(&mut message)?;
                continue;
            }
            FIXED_64 => take(&mut message, 8)?,
            BYTES => {
                let length = take_varint(&mut message)?;
                take(&mut message, length)?
            }
            FIXED_32 => take(&mut message, 4)?,
            other => bail!("__flush: not protobuf, there is no wire type {other}"),
        };
        if (field, kind) == (1, BYTES) {
            list.push(bytes);
        }
    }
    Ok(list)
}

fn take<'m>(message: &mut &'m [u8], length: u64) -> Result<&'m [u8]> {
    let left = message.len();
    ensure!(
        length <= left as u64,
        "__flush: not protobuf, a field of {length} bytes has only {left} left"
    );
    let (taken, rest) = message.split_at(length as usize);
    *message = rest;
    Ok(taken)
}

/// Takes a number in groups of 7 bits, the least significant first, of at most 64 bits.
fn take_varint(message: &mut &[u8]) -> Result<u64> {
    let mut value: u64 = 0;
    for shift in (0..64).step_by(7) {
        let byte = u64::from(take(message, 1)?[0]);
        let bits = byte & 0x7f;
        ensure!(
            shift < 63 || bits <= 1,
            "__flush: not protobuf, a number of more than 64 bits"
        );
        value |= bits << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    bail!("__flush: not protobuf, a number of more than 10 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_decoded_and_other_fields_skipped() {
        let message = b"\x0a\x03key\x10\x96\x01\x0a\x00\x1d\0\0\0\0\x12\x01x";
        assert_eq!(decode_list(message).unwrap(), [&b"key"[..], b""]);
        assert!(decode_list(b"").unwrap().is_empty());
    }

    #[test]
    fn invalid_protobuf_is_an_error() {
        for message in [
            &b"\x0a"[..],
            b"\x0a\x05key",
            b"\x0b",
            b"\x02\x00",
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ] {
            assert!(decode_list(message).is_err(), "{message:?}");
        }
    }

    #[test]
    fn buffers_must_lie_in_memory() {
        let mut memory = [0; 16];
        memory[4] = 8;
        assert_eq!(buffer("f", &memory, 8).unwrap(), [0; 8]);
        assert_eq!(buffer("f", &memory, 16).unwrap(), [0; 0]);
        for pointer in [0, 3, 17, 20, -1] {
            assert!(buffer("f", &memory, pointer).is_err(), "{pointer}");
        }
        memory[4] = 9;
        assert!(buffer("f", &memory, 8).is_err());
        assert!(write("f", &mut memory, 13, b"four").is_err());
        write("f", &mut memory, 12, b"four").unwrap();
    }
}
