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

/// A range of the input, and the bytes that replace it.
pub(super) type Replacement = (Range<usize>, Short);

/// The bytes of a short instruction or of a number. A function may need very many, so they are not
/// on the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Short {
    bytes: [u8; Self::MOST],
    len: u8,
}

impl Short {
    /// The length of the longest number, one of 64 bits.
    const MOST: usize = 10;

    /// Keeps at most as many bytes as the longest number has.
    pub(super) fn new(from: impl AsRef<[u8]>) -> Self {
        let mut bytes = [0; Self::MOST];
        let mut len = 0;
        for (to, from) in bytes.iter_mut().zip(from.as_ref()) {
            *to = *from;
            len += 1;
        }
        Self { bytes, len }
    }
}

impl AsRef<[u8]> for Short {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

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

/// Code that can be shortened. A function may hold very many, so this is small.
#[derive(Clone, Copy, Debug)]
struct Slack {
    start: usize,
    /// The length of the code in bytes.
    len: u8,
    /// The number of bytes by which the code can be shortened.
    spare: u8,
    form: Form,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    /// An unsigned LEB128 that is longer than necessary.
    Number,
    /// `i32.const 0` and `i32.ne`, which two `i32.eqz` replace.
    NotZero,
}

impl Slack {
    fn at(self) -> Range<usize> {
        self.start..self.start + usize::from(self.len)
    }

    /// The replacements that make the code `by` bytes shorter. Each instruction has its own, so that
    /// the place of each is known.
    fn shortened(self, wasm: &[u8], by: usize) -> impl Iterator<Item = Replacement> {
        debug_assert!(
            by <= self.spare.into(),
            "no more than the spare bytes are taken"
        );
        let at = self.at();
        let replacements = match self.form {
            Form::Number => {
                let mut bytes = wasm[at.start..at.end - by].to_vec();
                if let Some(last) = bytes.last_mut() {
                    *last &= !CONTINUED;
                }
                [Some((at, Short::new(bytes))), None]
            }
            Form::NotZero => {
                let compare = at.end - 1;
                let eqz = Short::new([opcode::I32_EQZ]);
                [Some((at.start..compare, eqz)), Some((compare..at.end, eqz))]
            }
        };
        replacements.into_iter().flatten()
    }

    /// The number at the end of a range, if it has bytes to spare. The range holds nothing but
    /// unsigned numbers.
    fn number_at_end_of(wasm: &[u8], range: Range<usize>) -> Option<Self> {
        let (_, before) = wasm[range.clone()].split_last()?;
        let start = before.iter().rposition(|byte| byte & CONTINUED == 0);
        let start = range.start + start.map_or(0, |end_of_other| end_of_other + 1);
        let len = range.end - start;
        // Every trailing group of seven zero bits but the first group can be dropped.
        let groups = wasm[start..range.end].iter().rev();
        let zero = groups.take_while(|byte| *byte & !CONTINUED == 0).count();
        let spare = zero.min(len - 1) as u8;
        (spare > 0).then_some(Self {
            start,
            len: len as u8,
            spare,
            form: Form::Number,
        })
    }
}

/// The most bytes that a replacement can lack: an opcode with an index of five bytes replaces one
/// with an index of one byte.
const MOST_MISSING: usize = 4;

/// Slack with the same number of spare bytes, in order.
///
/// Sites are looked at in ascending order, and each takes the nearest slack before or after it.
/// So the nearest slack after a site is the first that is left after it, and the nearest before it is
/// the last that is left before it. A queue and a stack find both without a search.
#[derive(Debug, Default)]
struct Spare {
    /// The first `before` entries are the stack, and those from `after` on are the queue.
    slack: Vec<Slack>,
    before: usize,
    after: usize,
}

impl Spare {
    /// Moves slack that is before an offset from the queue to the stack.
    fn advance(&mut self, to: usize) {
        while self.slack.get(self.after).is_some_and(|s| s.start < to) {
            self.slack[self.before] = self.slack[self.after];
            self.before += 1;
            self.after += 1;
        }
    }

    /// The distance from an offset to the nearest slack, and true if the slack is before the offset.
    fn nearest(&self, to: usize) -> Option<(usize, bool)> {
        let before = self.before.checked_sub(1).map(|last| self.slack[last]);
        let before = before.map(|slack| (to - slack.start, true));
        let after = self.slack.get(self.after);
        let after = after.map(|slack| (slack.start - to, false));
        before
            .into_iter()
            .chain(after)
            .min_by_key(|(distance, _)| *distance)
    }

    fn take(&mut self, is_before: bool) -> Slack {
        if is_before {
            self.before -= 1;
            self.slack[self.before]
        } else {
            self.after += 1;
            self.slack[self.after - 1]
        }
    }
}

/// Shortens code in a body by as much as the edits lengthen it. For each edit, the nearest slack
/// that is large enough is taken; `None` if there is not enough. The edits are in order.
pub(super) fn take_slack(
    wasm: &[u8],
    body: &Body<'_>,
    edits: impl Iterator<Item = Replacement>,
) -> Result<Option<Vec<Replacement>>, Error> {
    let mut available = slack(wasm, body).map_err(Error::malformed)?;
    let mut taken = Vec::new();
    for (at, with) in edits {
        let missing = with.as_ref().len() - at.len();
        if missing == 0 {
            continue;
        }
        let large = available.iter_mut().skip(missing - 1);
        let nearest = large.filter_map(|spare| {
            spare.advance(at.end);
            let (distance, is_before) = spare.nearest(at.end)?;
            Some((distance, is_before, spare))
        });
        let nearest = nearest.min_by_key(|(distance, is_before, _)| (*distance, !is_before));
        let Some((_, is_before, spare)) = nearest else {
            return Ok(None);
        };
        taken.extend(spare.take(is_before).shortened(wasm, missing));
    }
    Ok(Some(taken))
}

/// Returns the slack in a body with 1, 2, 3, and 4 or more spare bytes.
fn slack(wasm: &[u8], body: &Body<'_>) -> wasmparser::Result<[Spare; MOST_MISSING]> {
    let mut found: [Spare; MOST_MISSING] = Default::default();
    let mut add = |slack: Slack| {
        let spare = usize::from(slack.spare).min(MOST_MISSING);
        found[spare - 1].slack.push(slack);
    };
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
                if let Some(number) = Slack::number_at_end_of(wasm, start + 1..at.end) {
                    add(number);
                }
            }
            opcode::I32_NE if wasm[before.clone()] == [opcode::I32_CONST, 0] => add(Slack {
                start: before.start,
                len: 3,
                spare: 1,
                form: Form::NotZero,
            }),
            _ => {}
        }
        before = at;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_can_be_shortened_to_what_its_value_needs() {
        let bytes = [0x10, 0x85, 0x81, 0x80, 0x80, 0x00];
        let slack = Slack::number_at_end_of(&bytes, 1..6).unwrap();
        assert_eq!((slack.at(), slack.spare), (1..6, 3));
        let shortened = |by| slack.shortened(&bytes, by).next().unwrap().1;
        assert_eq!(shortened(1), Short::new([0x85, 0x81, 0x80, 0x00]));
        assert_eq!(shortened(3), Short::new([0x85, 0x01]));
        // A memory argument: the flags come first and are not part of the number.
        let bytes = [0x28, 0x02, 0x80, 0x80, 0x00];
        let slack = Slack::number_at_end_of(&bytes, 1..5).unwrap();
        assert_eq!((slack.at(), slack.spare), (2..5, 2));
        let shortened: Vec<_> = slack.shortened(&bytes, 2).collect();
        assert_eq!(shortened, [(2..5, Short::new([0x00]))]);
        for tight in [&[0x10, 0x05][..], &[0x10, 0x85, 0x01]] {
            assert!(Slack::number_at_end_of(tight, 1..tight.len()).is_none());
        }
    }

    /// A body with sites and slack in random order, and for each site the bytes that it lacks.
    fn random_body(random: &mut fastrand::Rng) -> (Vec<u8>, Vec<Replacement>) {
        let mut code = vec![0x00];
        let mut edits = Vec::new();
        for _ in 0..random.usize(1..40) {
            match random.u8(..8) {
                0..=3 => {
                    let at = code.len()..code.len() + 2;
                    code.extend([0x3f, 0x00, 0x1a]);
                    edits.push((at, Short::new(vec![0; 2 + random.usize(..=MOST_MISSING)])));
                }
                4 => code.extend([0x41, 0x00, 0x47]),
                5 => code.extend([0x01; 3]),
                _ => {
                    let padding = random.usize(..=MOST_MISSING);
                    code.extend([&[0x10][..], &vec![0x80; padding], &[0x00]].concat());
                }
            }
        }
        code.push(0x0b);
        (code, edits)
    }

    /// Each edit takes the slack that a search through all of it finds nearest.
    #[test]
    fn the_nearest_slack_is_taken() {
        let mut random = fastrand::Rng::with_seed(5);
        let (mut enough, mut lacking) = (0, 0);
        for _ in 0..10_000 {
            let (code, edits) = random_body(&mut random);
            let body = Body {
                defined: 0,
                length: 0..0,
                content: 0..code.len(),
                sites: &[],
            };
            let mut all: Vec<Slack> = slack(&code, &body)
                .unwrap()
                .into_iter()
                .flat_map(|spare| spare.slack)
                .collect();
            let mut expected = Some(Vec::new());
            for (at, with) in &edits {
                let missing = with.as_ref().len() - at.len();
                if missing == 0 {
                    continue;
                }
                let large = all.iter().enumerate();
                let large = large.filter(|(_, slack)| usize::from(slack.spare) >= missing);
                // Of two at the same distance, the one before the site is taken.
                let nearest = large
                    .min_by_key(|(_, slack)| (slack.start.abs_diff(at.end), slack.start))
                    .map(|(position, _)| position);
                expected = match (expected, nearest) {
                    (Some(mut taken), Some(nearest)) => {
                        taken.extend(all.remove(nearest).shortened(&code, missing));
                        Some(taken)
                    }
                    _ => None,
                };
            }
            let taken = take_slack(&code, &body, edits.iter().cloned()).unwrap();
            match &expected {
                Some(taken) if !taken.is_empty() => enough += 1,
                Some(_) => {}
                None => lacking += 1,
            }
            assert_eq!(taken, expected, "{code:x?}");
        }
        assert!(enough > 500 && lacking > 500, "{enough}, {lacking}");
    }
}
