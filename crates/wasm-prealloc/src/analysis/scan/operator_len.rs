//! The lengths of common instructions, from one table of opcodes. Nothing is validated.

/// The operands of an opcode.
#[derive(Clone, Copy)]
#[repr(align(4))]
struct Operands {
    /// The length of the whole instruction, if its operands are no LEB128 numbers. 0 for rare
    /// opcodes, and for `memory.size` and `memory.grow`.
    bytes: u8,
    /// The number of LEB128 numbers.
    numbers: u8,
    /// The largest second byte. One above it makes an instruction rare.
    most: u8,
}

impl Operands {
    const fn of(opcode: usize) -> Self {
        /// A larger block type can have two parts.
        const MOST_BLOCK_TYPE: u8 = 0x5f;
        /// Flags in a larger alignment announce more operands.
        const MOST_ALIGNMENT: u8 = 0x0f;

        let (bytes, numbers, most) = match opcode {
            // unreachable, nop; else; end; return; drop, select; comparisons and arithmetic;
            // ref.is_null
            0x00 | 0x01 | 0x05 | 0x0b | 0x0f | 0x1a | 0x1b | 0x45..=0xc4 | 0xd1 => (1, 0, 0xff),
            // f32.const, f64.const
            0x43 => (5, 0, 0xff),
            0x44 => (9, 0, 0xff),
            // block, loop, if
            0x02..=0x04 => (0, 1, MOST_BLOCK_TYPE),
            // throw; br, br_if; call, return_call; locals, globals, tables; i32.const, i64.const;
            // ref.func
            0x08 | 0x0c | 0x0d | 0x10 | 0x12 | 0x20..=0x26 | 0x41 | 0x42 | 0xd2 => (0, 1, 0xff),
            // call_indirect, return_call_indirect
            0x11 | 0x13 => (0, 2, 0xff),
            // loads and stores
            0x28..=0x3e => (0, 2, MOST_ALIGNMENT),
            _ => (0, 0, 0xff),
        };
        Self {
            bytes,
            numbers,
            most,
        }
    }
}

static OPERANDS: [Operands; 256] = {
    let mut operands = [Operands::of(0); 256];
    let mut opcode = 0;
    while opcode < operands.len() {
        operands[opcode] = Operands::of(opcode);
        opcode += 1;
    }
    operands
};

/// Returns the length of the instruction at an offset if it is a common one. Returns 0 for
/// `memory.size`, `memory.grow` and rare instructions, for long ones, and for those with fewer than
/// eight bytes from their start to the end of the code.
///
/// No branch depends on the instruction, because the processor would predict it wrongly.
#[inline(always)]
pub(super) fn operator_len(code: &[u8], at: usize) -> usize {
    const WORD: usize = size_of::<u64>();
    const HIGHEST_BITS: u64 = 0x8080_8080_8080_8080;

    let bytes = code.get(at..at.wrapping_add(WORD));
    let Some(bytes) = bytes.and_then(<[u8]>::first_chunk) else {
        return 0;
    };
    let word = u64::from_le_bytes(*bytes);
    let Operands {
        bytes,
        numbers,
        most,
    } = OPERANDS[word as usize & 0xff];
    // The highest bit of each byte after the opcode at which a LEB128 ends.
    let ends = !word & HIGHEST_BITS & !0xff;
    let end = if numbers == 2 {
        ends & ends.wrapping_sub(1)
    } else {
        ends
    };
    let numbers_end = if end == 0 {
        0
    } else {
        end.trailing_zeros() / 8 + 1
    };
    let length = if numbers == 0 {
        bytes.into()
    } else {
        numbers_end
    };
    let is_common = (word >> 8) as u8 <= most;
    length as usize * usize::from(is_common)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use wasmparser::{BinaryReader, OperatorsReader, Parser, Payload};

    use super::*;

    /// Each length is the one that the parser finds, and the instructions without one are those
    /// listed here.
    #[test]
    fn lengths_are_those_that_the_parser_finds() {
        let text = r#"(module
            (type $t (func (param i32) (result i32)))
            (memory 1) (table 5 funcref) (tag $e) (global $g (mut i32) (i32.const 0))
            (data "passive") (elem func 0)
            (func $f (type $t)
              (block (loop (if (local.get 0) (then nop) (else unreachable))))
              (block (result i32) (i32.const -1)) drop
              (block (br_table 0 0 0 0 0 0 0 0 0 (local.get 0)))
              (block (br_if 0 (local.get 0)) (br 0))
              (i32.const 2147483647) drop (i64.const -9223372036854775808) drop
              (f32.const 1.5) drop (f64.const -0.25) drop
              (select (i32.const 1) (i32.const 2) (i32.const 3)) drop
              (local.set 0 (local.tee 0 (i32.const 300)))
              (global.set $g (global.get $g))
              (i32.store offset=4000000000 (i32.const 1) (i32.load8_u offset=3 (i32.const 2)))
              (f32.store offset=8 (i32.const 1) (f32.sqrt (f32.demote_f64 (f64.neg (f64.const 1)))))
              (i32.store8 (i32.const 200) (i32.eqz (i64.lt_s (i64.const 128) (i64.const 1))))
              (i64.store16 align=1 (i32.const 1) (i64.extend32_s (i64.const 2)))
              (call_indirect (type $t) (i32.const 1) (i32.const 0)) drop
              (drop (call $f (memory.grow (memory.size))))
              (drop (i32.trunc_sat_f64_u (f64.const 3)))
              (memory.init 0 (i32.const 0) (i32.const 0) (i32.const 0)) (data.drop 0)
              (memory.copy (i32.const 0) (i32.const 0) (i32.const 0))
              (memory.fill (i32.const 0) (i32.const 0) (i32.const 0))
              (table.init 0 (i32.const 0) (i32.const 0) (i32.const 0)) (elem.drop 0)
              (table.copy (i32.const 0) (i32.const 0) (i32.const 0))
              (drop (table.grow (ref.func $f) (i32.const 1))) (drop (table.size))
              (table.fill (i32.const 0) (ref.func $f) (i32.const 0))
              (table.set (i32.const 0) (table.get (i32.const 0)))
              (drop (ref.is_null (ref.func $f)))
              (drop (v128.const i64x2 1 2))
              (drop (i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
                (v128.load offset=16 (i32.const 0)) (v128.load32_zero (i32.const 0))))
              (drop (i8x16.extract_lane_s 5 (i8x16.splat (i32.const 1))))
              (v128.store8_lane offset=9 3 (i32.const 0) (v128.load64_lane 1 (i32.const 0)
                (i32x4.add (v128.const i64x2 1 2) (v128.const i64x2 1 2))))
              (drop (f64x2.relaxed_madd (v128.const i64x2 1 2) (v128.const i64x2 1 2)
                (v128.const i64x2 1 2)))
              (block (throw $e))
              (return (i32.const 1)))
            (func $tail (type $t) (return_call $f (local.get 0)))
            (func $tail_indirect (type $t)
              (return_call_indirect (type $t) (i32.const 1) (i32.const 0)))
            (func $unknown (result funcref)
              (drop (select (result i32) (i32.const 1) (i32.const 2) (i32.const 3)))
              (drop (block (result (ref func)) (ref.func $f)))
              (ref.null func))
          )"#;
        let mut wasm = wat::parse_str(text).unwrap();
        // The last instructions have eight bytes after their start, too.
        wasm.extend([0; 8]);
        let (mut known, mut rare) = (0, BTreeSet::new());
        for payload in Parser::new(0).parse_all(&wasm[..wasm.len() - 8]) {
            let Payload::CodeSectionEntry(body) = payload.unwrap() else {
                continue;
            };
            let mut operators = body.get_operators_reader().unwrap();
            while !operators.eof() {
                let start = operators.original_position() as usize;
                let operator = operators.read().unwrap();
                match operator_len(&wasm, start) {
                    0 => {
                        rare.insert(wasm[start]);
                    }
                    length => {
                        let end = (start + length) as u64;
                        assert_eq!(end, operators.original_position(), "{operator:?}");
                        known += 1;
                    }
                }
            }
        }
        assert!(known > 120, "{known}");
        // A block with a reference type, br_table, select with a type, memory.size, memory.grow, a
        // constant of ten bytes, ref.null, and everything with a prefix.
        let expected = [0x02, 0x0e, 0x1c, 0x3f, 0x40, 0x42, 0xd0, 0xfc, 0xfd];
        assert_eq!(rare, BTreeSet::from(expected));
    }

    /// Random bytes have the length that the parser finds, if it accepts them.
    #[test]
    fn lengths_of_random_bytes_are_those_that_the_parser_finds() {
        let mut random = fastrand::Rng::with_seed(11);
        let (mut seen, mut compared) = ([false; 256], 0);
        for _ in 0..200_000 {
            let mut bytes = [0; 10].map(|_: u8| random.u8(..));
            if random.bool() {
                // Numbers of several bytes.
                bytes[1..].fill_with(|| random.u8(..) | (random.u8(..4).min(1) << 7));
            }
            let bytes = &bytes[..random.usize(8..=bytes.len())];
            let length = operator_len(bytes, 0);
            seen[usize::from(bytes[0])] |= length > 0;
            let mut parser = OperatorsReader::new(BinaryReader::new(bytes, 0));
            if length > 0 && parser.read().is_ok() {
                assert_eq!(parser.original_position(), length as u64, "{bytes:x?}");
                compared += 1;
            }
            assert!(length <= bytes.len() || bytes[0] == 0x44, "{bytes:x?}");
        }
        assert!(compared > 50_000, "{compared}");
        for (opcode, seen) in seen.iter().enumerate() {
            let is_rare = matches!(
                opcode,
                0x06 | 0x07 | 0x09 | 0x0a | 0x0e | 0x14..=0x19 | 0x1c..=0x1f | 0x27 | 0x3f
                    | 0x40 | 0xc5..=0xd0 | 0xd3..=0xff
            );
            assert_eq!(*seen, !is_rare, "{opcode:#x}");
        }
        assert_eq!(operator_len(&[0x01; 7], 0), 0);
        assert_eq!(operator_len(&[0x01; 8], 9), 0);
        assert_eq!(operator_len(&[0x01; 8], usize::MAX), 0);
    }

    #[test]
    fn instructions_that_are_cut_off_have_no_length() {
        for cut in [
            &[0x41][..],
            &[0x41, 0x80],
            &[0x43, 0, 0, 0],
            &[0x0e, 0x7f, 0],
            &[0x28, 2],
            &[0xfd, 12],
        ] {
            assert_eq!(operator_len(cut, 0), 0, "{cut:?}");
            let read = crate::analysis::site::read_operator(cut, 0..cut.len());
            assert!(read.is_err(), "{cut:?}");
        }
    }
}
