//! The protobuf message that a guest flushes: `repeated bytes list = 1`.

use wasmtime::{Result, bail, ensure};

/// Decodes the elements of the list. Other fields are skipped.
pub(crate) fn decode_list(mut message: &[u8]) -> Result<Vec<&[u8]>> {
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
}
