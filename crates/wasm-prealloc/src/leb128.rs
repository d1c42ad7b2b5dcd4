//! Unsigned LEB128 numbers of a chosen width.

/// Encodes a number in at least `width` bytes, so that a number can keep the width that it had.
pub(crate) fn leb128(mut value: u64, width: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(width.max(5));
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        let more = value != 0 || bytes.len() + 1 < width;
        bytes.push(if more { low | 0x80 } else { low });
        if !more {
            return bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leb128_keeps_its_width_or_widens() {
        assert_eq!(leb128(5, 1), [5]);
        assert_eq!(leb128(5, 3), [0x85, 0x80, 0]);
        assert_eq!(leb128(128, 1), [0x80, 1]);
        assert_eq!(leb128(0xffff_ffff, 1), [0xff, 0xff, 0xff, 0xff, 0x0f]);
    }
}
