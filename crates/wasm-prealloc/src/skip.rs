//! Steps over instructions without decoding them, for bodies that only might hold a site.
//!
//! It knows the common instructions by the shape of what follows their opcode; at any other it
//! gives up, and the caller decodes the body with the parser instead. It validates nothing.

/// The offset behind the instruction at an offset, or `None` where the instruction is not known or
/// the bytes end within it.
pub(crate) fn instruction(wasm: &[u8], at: usize) -> Option<usize> {
    let next = at + 1;
    let end = match *wasm.get(at)? {
        // unreachable, nop; else; end; return; drop, select; comparisons and arithmetic; ref.is_null
        0x00 | 0x01 | 0x05 | 0x0b | 0x0f | 0x1a | 0x1b | 0x45..=0xc4 | 0xd1 => next,
        // block, loop, if: with a type of one number, but not one of two parts
        0x02..=0x04 => match *wasm.get(next)? {
            0x63 | 0x64 => return None,
            _ => number(wasm, next)?,
        },
        // throw; br, br_if; call, return_call; locals, globals, tables; memory.size and .grow;
        // i32.const, i64.const; ref.func
        0x08 | 0x0c | 0x0d | 0x10 | 0x12 | 0x20..=0x26 | 0x3f..=0x42 | 0xd2 => number(wasm, next)?,
        // call_indirect, return_call_indirect
        0x11 | 0x13 => numbers(wasm, next, 2)?,
        // br_table: a count, that many labels, and the default
        0x0e => {
            let (count, labels) = small_number(wasm, next)?;
            numbers(wasm, labels, count.checked_add(1)?)?
        }
        // loads and stores
        0x28..=0x3e => memory_argument(wasm, next)?,
        // f32.const, f64.const
        0x43 => next + 4,
        0x44 => next + 8,
        0xfc => {
            let (operation, operands) = small_number(wasm, next)?;
            match operation {
                // saturating conversions
                0..=7 => operands,
                // data.drop, memory.fill; elem.drop, table.grow, table.size, table.fill
                9 | 11 | 13 | 15..=17 => number(wasm, operands)?,
                // memory.init, memory.copy, table.init, table.copy
                8 | 10 | 12 | 14 => numbers(wasm, operands, 2)?,
                _ => return None,
            }
        }
        0xfd => {
            let (operation, operands) = small_number(wasm, next)?;
            match operation {
                // loads and stores of vectors
                0..=11 | 92 | 93 => memory_argument(wasm, operands)?,
                // v128.const, i8x16.shuffle
                12 | 13 => operands + 16,
                // lanes
                21..=34 => operands + 1,
                84..=91 => memory_argument(wasm, operands)? + 1,
                // arithmetic, relaxed too
                14..=20 | 35..=83 | 94..=275 => operands,
                _ => return None,
            }
        }
        _ => return None,
    };
    (end <= wasm.len()).then_some(end)
}

/// What follows the opcodes of common instructions.
#[derive(Clone, Copy)]
enum Shape {
    /// All others, and those that are looked for.
    Rare,
    Nothing,
    Number,
    TwoNumbers,
    /// Two numbers, of which the first says whether there are more.
    MemoryArgument,
    /// A number, or one of the types that begin like it and have two parts.
    BlockType,
    FourBytes,
    EightBytes,
}

impl Shape {
    const COUNT: usize = 8;

    const fn of(opcode: usize) -> Self {
        match opcode {
            0x00 | 0x01 | 0x05 | 0x0b | 0x0f | 0x1a | 0x1b | 0x45..=0xc4 | 0xd1 => Self::Nothing,
            0x02..=0x04 => Self::BlockType,
            0x08 | 0x0c | 0x0d | 0x10 | 0x12 | 0x20..=0x26 | 0x41 | 0x42 | 0xd2 => Self::Number,
            0x11 | 0x13 => Self::TwoNumbers,
            0x28..=0x3e => Self::MemoryArgument,
            0x43 => Self::FourBytes,
            0x44 => Self::EightBytes,
            _ => Self::Rare,
        }
    }

    /// How long an instruction is, or 0 where that takes a closer look. Known of it are bits 4 to 6
    /// of its second byte, and of each of its first eight bytes whether a LEB128 goes on behind it.
    const fn length(self, second: usize, continued: usize) -> u8 {
        let numbers = match self {
            Self::Rare => return 0,
            Self::Nothing => 0,
            Self::Number => 1,
            Self::TwoNumbers => 2,
            Self::MemoryArgument if second >= 4 || continued & 2 != 0 => return 0,
            Self::MemoryArgument => 2,
            Self::BlockType if second == 6 => return 0,
            Self::BlockType => 1,
            Self::FourBytes => return 5,
            Self::EightBytes => return 9,
        };
        let mut length = 1;
        let mut ended = 0;
        while ended < numbers && length < WORD {
            ended += (continued >> length & 1 == 0) as usize;
            length += 1;
        }
        if ended == numbers { length as u8 } else { 0 }
    }
}

/// How many bytes are looked at together.
const WORD: usize = size_of::<u64>();

/// Where the lengths of an opcode's shape begin in [`LENGTHS`].
static SHAPES: [u16; 256] = {
    let mut shapes = [0; 256];
    let mut opcode = 0;
    while opcode < shapes.len() {
        shapes[opcode] = (Shape::of(opcode) as u16) << 11;
        opcode += 1;
    }
    shapes
};

/// Lengths by shape (bits 11 to 13), second byte (8 to 10) and continuations (0 to 7).
static LENGTHS: [u8; Shape::COUNT << 11] = {
    use Shape::*;
    const ALL: [Shape; Shape::COUNT] = [
        Rare,
        Nothing,
        Number,
        TwoNumbers,
        MemoryArgument,
        BlockType,
        FourBytes,
        EightBytes,
    ];
    let mut lengths = [0; Shape::COUNT << 11];
    let mut i = 0;
    while i < lengths.len() {
        lengths[i] = ALL[i >> 11].length(i >> 8 & 7, i & 0xff);
        i += 1;
    }
    lengths
};

/// How long the instruction at an offset is, if it is a common one; 0 where that is for
/// [`instruction`] to say: the rest of the bytes is short, the instruction is long, or rare, or one
/// of those that are looked for.
///
/// There is no branch in it that depends on which instruction it is: such are guessed wrong.
#[inline(always)]
pub(crate) fn common(wasm: &[u8], at: usize) -> usize {
    const HIGHEST_BITS: u64 = 0x8080_8080_8080_8080;
    /// Brings eight bits, the lowest of each byte, together in the highest byte, in order.
    const TOGETHER: u64 = 0x0102_0408_1020_4080;
    let Some(bytes) = wasm.get(at..at.wrapping_add(WORD)) else {
        return 0;
    };
    let Some(bytes) = bytes.first_chunk() else {
        return 0;
    };
    let word = u64::from_le_bytes(*bytes);
    let continued = ((word & HIGHEST_BITS) >> 7).wrapping_mul(TOGETHER) >> 56;
    let second = word >> 4 & 0x700;
    let shape = u64::from(SHAPES[word as usize & 0xff]);
    let place = (shape | second | continued) as usize;
    usize::from(LENGTHS[place & (LENGTHS.len() - 1)])
}

/// The offset behind a LEB128.
fn number(wasm: &[u8], at: usize) -> Option<usize> {
    const LONGEST: usize = 10;
    let groups = wasm.get(at..)?.iter().take(LONGEST);
    let last = groups.take_while(|group| **group >= 0x80).count();
    (last < LONGEST).then_some(at + last + 1)
}

fn numbers(wasm: &[u8], mut at: usize, count: usize) -> Option<usize> {
    for _ in 0..count {
        at = number(wasm, at)?;
        // A count that lies would go on for ever.
        if at > wasm.len() {
            return None;
        }
    }
    Some(at)
}

/// A LEB128 of at most three groups, with the offset behind it.
fn small_number(wasm: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut value = 0;
    for (position, group) in wasm.get(at..)?.iter().take(3).enumerate() {
        value |= usize::from(group & 0x7f) << (7 * position);
        if *group < 0x80 {
            return Some((value, at + position + 1));
        }
    }
    None
}

/// The offset behind an alignment and an offset. Flags that announce more are not known.
fn memory_argument(wasm: &[u8], at: usize) -> Option<usize> {
    match *wasm.get(at)? {
        0..0x40 => number(wasm, at + 1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use wasmparser::{Parser, Payload};

    use super::*;

    /// Every instruction that it steps over ends where the parser says; what it does not know is
    /// what this test says that it does not know.
    #[test]
    fn steps_end_where_the_parser_says() {
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
        let wasm = wat::parse_str(text).unwrap();
        let (mut known, mut unknown) = (0, Vec::new());
        for payload in Parser::new(0).parse_all(&wasm) {
            let Payload::CodeSectionEntry(body) = payload.unwrap() else {
                continue;
            };
            let mut operators = body.get_operators_reader().unwrap();
            while !operators.eof() {
                let start = operators.original_position() as usize;
                let operator = operators.read().unwrap();
                match instruction(&wasm, start) {
                    Some(end) => {
                        assert_eq!(end as u64, operators.original_position(), "{operator:?}");
                        known += 1;
                    }
                    None => unknown.push(wasm[start]),
                }
            }
        }
        assert!(known > 120, "{known}");
        // Typed select, a block with a type of two parts, ref.null.
        assert_eq!(unknown, [0x1c, 0x02, 0xd0]);
    }

    /// Wherever the quick look knows a length, the closer one gives the same, whatever the bytes
    /// are and however few are left.
    #[test]
    fn the_quick_look_agrees_with_the_closer_one() {
        let mut random = fastrand::Rng::with_seed(11);
        let mut seen = [false; 256];
        for _ in 0..200_000 {
            let mut bytes = [0; 10].map(|_: u8| random.u8(..));
            if random.bool() {
                // Numbers of several groups.
                bytes[1..].fill_with(|| random.u8(..) | (random.u8(..4).min(1) << 7));
            }
            let bytes = &bytes[..random.usize(8..=bytes.len())];
            let length = common(bytes, 0);
            seen[usize::from(bytes[0])] |= length > 0;
            if length > 0 && length <= bytes.len() {
                assert_eq!(instruction(bytes, 0), Some(length), "{bytes:x?}");
            }
            assert!(length <= bytes.len() || bytes[0] == 0x44, "{bytes:x?}");
        }
        // All but br_table, what is looked for, and what has a prefix.
        let known = (0..=0xff).filter(|&opcode| instruction(&[opcode; 32], 0).is_some());
        let rare: Vec<u8> = known.filter(|&opcode| !seen[usize::from(opcode)]).collect();
        assert_eq!(rare, [0x0e, 0x3f, 0x40]);
        assert_eq!(common(&[0x01; 7], 0), 0);
        assert_eq!(common(&[0x01; 8], 9), 0);
        assert_eq!(common(&[0x01; 8], usize::MAX), 0);
    }

    #[test]
    fn what_ends_too_early_is_not_stepped_over() {
        for cut in [
            &[0x41][..],
            &[0x41, 0x80],
            &[0x43, 0, 0, 0],
            &[0x0e, 0x7f, 0],
            &[0x28, 2],
            &[0xfd, 12],
        ] {
            assert_eq!(instruction(cut, 0), None, "{cut:?}");
        }
    }
}
