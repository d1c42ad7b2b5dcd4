//! The buffers of a guest. A buffer is a pointer to bytes; their length, a u32 in little-endian
//! order, is 4 bytes before them. AssemblyScript's array buffers and strings have this layout.
//!
//! A pointer is an unsigned number of 32 bits, although wasm passes it as an i32.

use std::ops::Range;

use wasmtime::{Result, bail, ensure, format_err};

/// Returns the bytes of the buffer at `pointer`. `what` begins the error if they are not in memory.
pub(crate) fn buffer<'m>(what: &str, memory: &'m [u8], pointer: i32) -> Result<&'m [u8]> {
    let pointer = u64::from(pointer.cast_unsigned());
    let Some(prefix) = pointer.checked_sub(4) else {
        bail!("{what}: there is no room for a length before the pointer {pointer}");
    };
    let mut length = [0; 4];
    length.copy_from_slice(&memory[range(what, memory, prefix, 4)?]);
    let length = u64::from(u32::from_le_bytes(length));
    Ok(&memory[range(what, memory, pointer, length)?])
}

/// Writes bytes to `pointer`. The guest has made room for them, and their length is not written.
pub(crate) fn write(what: &str, memory: &mut [u8], pointer: i32, bytes: &[u8]) -> Result<()> {
    let pointer = u64::from(pointer.cast_unsigned());
    let range = range(what, memory, pointer, bytes.len() as u64)?;
    memory[range].copy_from_slice(bytes);
    Ok(())
}

/// Returns a number of bytes as the guest receives it: a u32 in an i32.
pub(crate) fn length(what: &str, bytes: &[u8]) -> Result<i32> {
    let length = bytes.len();
    u32::try_from(length)
        .map(u32::cast_signed)
        .map_err(|_| format_err!("{what}: {length} bytes are more than a guest can address"))
}

fn range(what: &str, memory: &[u8], at: u64, length: u64) -> Result<Range<usize>> {
    // Both are at most 2^32, so the sum cannot overflow.
    let end = at + length;
    ensure!(
        end <= memory.len() as u64,
        "{what}: {length} bytes at {at} are outside of the guest's memory of {} bytes",
        memory.len()
    );
    Ok(at as usize..end as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

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
