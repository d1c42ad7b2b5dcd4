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

/// The number of bytes that [`leb128`] encodes a number in.
pub(crate) fn leb128_len(value: u64, width: usize) -> usize {
    let bits = (u64::BITS - value.leading_zeros()) as usize;
    bits.div_ceil(7).max(width).max(1)
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

    #[test]
    fn the_length_is_that_of_the_encoding() {
        for value in (0..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit]) {
            for width in 0..11 {
                let encoded = leb128(value, width);
                assert_eq!(
                    leb128_len(value, width),
                    encoded.len(),
                    "{value} in {width}"
                );
            }
        }
    }
}
