//! Code that can be written in fewer bytes and means the same, so that a longer instruction near by
//! finds room without anything else moving.
//!
//! Linkers that keep debug information leave numbers padded to five bytes, for relocations that
//! they have applied. Compilers compare with zero in three bytes where two will do.

use std::ops::Range;

use wasmparser::FunctionBody;

use crate::error::Error;
use crate::map::reader;
use crate::scan::Body;

/// Opcodes of the binary format (core specification, "Instructions").
mod opcode {
    pub(super) const CALL: u8 = 0x10;
    pub(super) const RETURN_CALL: u8 = 0x12;
    pub(super) const GLOBAL_GET: u8 = 0x23;
    pub(super) const GLOBAL_SET: u8 = 0x24;
    pub(super) const FIRST_LOAD: u8 = 0x28;
    pub(super) const LAST_STORE: u8 = 0x3e;
    pub(super) const I32_CONST: u8 = 0x41;
    pub(super) const I32_EQZ: u8 = 0x45;
    pub(super) const I32_NE: u8 = 0x47;
}

const CONTINUED: u8 = 0x80;

/// A stretch of code that has bytes to spare.
#[derive(Clone, Debug)]
pub(crate) enum Donor {
    /// An unsigned LEB128 that is longer by some bytes than it needs to be.
    Number { at: Range<usize>, spare: usize },
    /// `i32.const 0` and `i32.ne`, which `i32.eqz` done twice replaces.
    NotZero { at: Range<usize> },
}

impl Donor {
    pub(crate) fn at(&self) -> &Range<usize> {
        match self {
            Self::Number { at, .. } | Self::NotZero { at } => at,
        }
    }

    /// How many bytes it can be shorter.
    pub(crate) fn spare(&self) -> usize {
        match self {
            Self::Number { spare, .. } => *spare,
            Self::NotZero { .. } => 1,
        }
    }

    /// What it becomes, `by` bytes shorter.
    pub(crate) fn shortened(self, wasm: &[u8], by: usize) -> (Range<usize>, Vec<u8>) {
        debug_assert!(by <= self.spare(), "a donor gives what it has");
        match self {
            Self::Number { at, .. } => {
                let mut bytes = wasm[at.start..at.end - by].to_vec();
                if let Some(last) = bytes.last_mut() {
                    *last &= !CONTINUED;
                }
                (at, bytes)
            }
            Self::NotZero { at } => (at, vec![opcode::I32_EQZ; 2]),
        }
    }

    /// The number that ends where a range does, if it has bytes to spare. The range holds nothing
    /// but unsigned numbers.
    fn number_at_end_of(wasm: &[u8], range: Range<usize>) -> Option<Self> {
        let (_, before) = wasm[range.clone()].split_last()?;
        let start = before.iter().rposition(|byte| byte & CONTINUED == 0);
        let at = range.start + start.map_or(0, |end_of_other| end_of_other + 1)..range.end;
        // Every group of seven zero bits at the end but the first group can go.
        let groups = wasm[at.clone()].iter().rev();
        let zero = groups.take_while(|byte| *byte & !CONTINUED == 0).count();
        let spare = zero.min(at.len() - 1);
        (spare > 0).then_some(Self::Number { at, spare })
    }
}

/// The donors in a body, in order.
pub(crate) fn donors(wasm: &[u8], body: &Body) -> Result<Vec<Donor>, Error> {
    let read = || {
        let mut donors = Vec::new();
        let content = FunctionBody::new(reader(wasm, body.content.clone()));
        let mut operators = content.get_operators_reader()?;
        let mut before = 0..0;
        while !operators.eof() {
            let start = operators.original_position() as usize;
            operators.read()?;
            let at = start..operators.original_position() as usize;
            match wasm[start] {
                // What these end in is an unsigned number.
                opcode::CALL
                | opcode::RETURN_CALL
                | opcode::GLOBAL_GET
                | opcode::GLOBAL_SET
                | opcode::FIRST_LOAD..=opcode::LAST_STORE => {
                    donors.extend(Donor::number_at_end_of(wasm, start + 1..at.end));
                }
                opcode::I32_NE if wasm[before.clone()] == [opcode::I32_CONST, 0] => {
                    let at = before.start..at.end;
                    donors.push(Donor::NotZero { at });
                }
                _ => {}
            }
            before = at;
        }
        Ok(donors)
    };
    read().map_err(|error| Error::malformed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_gives_what_its_value_does_not_need() {
        let bytes = [0x10, 0x85, 0x81, 0x80, 0x80, 0x00];
        let donor = Donor::number_at_end_of(&bytes, 1..6).unwrap();
        assert_eq!((donor.at(), donor.spare()), (&(1..6), 3));
        assert_eq!(
            donor.clone().shortened(&bytes, 1).1,
            [0x85, 0x81, 0x80, 0x00]
        );
        assert_eq!(donor.shortened(&bytes, 3).1, [0x85, 0x01]);
        // A memory argument: the flags stand before, and are not part of the number.
        let bytes = [0x28, 0x02, 0x80, 0x80, 0x00];
        let donor = Donor::number_at_end_of(&bytes, 1..5).unwrap();
        assert_eq!((donor.at(), donor.spare()), (&(2..5), 2));
        assert_eq!(donor.shortened(&bytes, 2).1, [0x00]);
        for tight in [&[0x10, 0x05][..], &[0x10, 0x85, 0x01]] {
            assert!(Donor::number_at_end_of(tight, 1..tight.len()).is_none());
        }
    }
}
