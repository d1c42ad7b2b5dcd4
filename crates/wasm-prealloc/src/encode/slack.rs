//! Slack: code that has a shorter form with the same meaning. A longer instruction near by can take
//! the bytes, so that nothing else moves.
//!
//! Linkers that keep debug information leave numbers padded to five bytes, for relocations that
//! they have applied. Compilers compare with zero in three bytes where two are enough.

use std::ops::Range;

use wasmparser::FunctionBody;

use crate::analysis::sections::reader;
use crate::analysis::site::Body;
use crate::error::Error;

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

/// Code that can be shortened.
#[derive(Clone, Debug)]
pub(crate) enum Slack {
    /// An unsigned LEB128 that is longer than necessary by some bytes.
    Number { at: Range<usize>, spare: usize },
    /// `i32.const 0` and `i32.ne`, which two `i32.eqz` replace.
    NotZero { at: Range<usize> },
}

impl Slack {
    pub(crate) fn at(&self) -> &Range<usize> {
        match self {
            Self::Number { at, .. } | Self::NotZero { at } => at,
        }
    }

    /// The number of bytes by which the code can be shortened.
    pub(crate) fn spare(&self) -> usize {
        match self {
            Self::Number { spare, .. } => *spare,
            Self::NotZero { .. } => 1,
        }
    }

    /// The replacements that make the code `by` bytes shorter. Each instruction has its own, so that
    /// the place of each is known.
    pub(crate) fn shortened(self, wasm: &[u8], by: usize) -> Vec<(Range<usize>, Vec<u8>)> {
        debug_assert!(by <= self.spare(), "no more than the spare bytes are taken");
        match self {
            Self::Number { at, .. } => {
                let mut bytes = wasm[at.start..at.end - by].to_vec();
                if let Some(last) = bytes.last_mut() {
                    *last &= !CONTINUED;
                }
                vec![(at, bytes)]
            }
            Self::NotZero { at } => {
                let compare = at.end - 1;
                let eqz = || vec![opcode::I32_EQZ];
                vec![(at.start..compare, eqz()), (compare..at.end, eqz())]
            }
        }
    }

    /// The number at the end of a range, if it has bytes to spare. The range holds nothing but
    /// unsigned numbers.
    fn number_at_end_of(wasm: &[u8], range: Range<usize>) -> Option<Self> {
        let (_, before) = wasm[range.clone()].split_last()?;
        let start = before.iter().rposition(|byte| byte & CONTINUED == 0);
        let at = range.start + start.map_or(0, |end_of_other| end_of_other + 1)..range.end;
        // Every trailing group of seven zero bits but the first group can be dropped.
        let groups = wasm[at.clone()].iter().rev();
        let zero = groups.take_while(|byte| *byte & !CONTINUED == 0).count();
        let spare = zero.min(at.len() - 1);
        (spare > 0).then_some(Self::Number { at, spare })
    }
}

/// Returns the slack in a body, in order.
pub(crate) fn slack(wasm: &[u8], body: &Body) -> Result<Vec<Slack>, Error> {
    let read = || {
        let mut found = Vec::new();
        let content = FunctionBody::new(reader(wasm, body.content.clone()));
        let mut operators = content.get_operators_reader()?;
        let mut before = 0..0;
        while !operators.eof() {
            let start = operators.original_position() as usize;
            operators.read()?;
            let at = start..operators.original_position() as usize;
            match wasm[start] {
                // These end with an unsigned number.
                opcode::CALL
                | opcode::RETURN_CALL
                | opcode::GLOBAL_GET
                | opcode::GLOBAL_SET
                | opcode::FIRST_LOAD..=opcode::LAST_STORE => {
                    found.extend(Slack::number_at_end_of(wasm, start + 1..at.end));
                }
                opcode::I32_NE if wasm[before.clone()] == [opcode::I32_CONST, 0] => {
                    let at = before.start..at.end;
                    found.push(Slack::NotZero { at });
                }
                _ => {}
            }
            before = at;
        }
        Ok(found)
    };
    read().map_err(Error::malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_can_be_shortened_to_what_its_value_needs() {
        let bytes = [0x10, 0x85, 0x81, 0x80, 0x80, 0x00];
        let slack = Slack::number_at_end_of(&bytes, 1..6).unwrap();
        assert_eq!((slack.at(), slack.spare()), (&(1..6), 3));
        let shortened = |by| slack.clone().shortened(&bytes, by).remove(0).1;
        assert_eq!(shortened(1), [0x85, 0x81, 0x80, 0x00]);
        assert_eq!(shortened(3), [0x85, 0x01]);
        // A memory argument: the flags come first and are not part of the number.
        let bytes = [0x28, 0x02, 0x80, 0x80, 0x00];
        let slack = Slack::number_at_end_of(&bytes, 1..5).unwrap();
        assert_eq!((slack.at(), slack.spare()), (&(2..5), 2));
        assert_eq!(slack.shortened(&bytes, 2), [(2..5, vec![0x00])]);
        for tight in [&[0x10, 0x05][..], &[0x10, 0x85, 0x01]] {
            assert!(Slack::number_at_end_of(tight, 1..tight.len()).is_none());
        }
    }
}
