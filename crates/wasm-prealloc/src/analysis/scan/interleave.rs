//! Steps through bodies that may hold a site, several at a time.
//!
//! The start of an instruction is known only once the one before it has been measured, so a walk
//! through one body waits for memory most of the time. Walking through several bodies in turn hides
//! the wait, because they do not depend on each other.

use wasmparser::{BinaryReaderError, FunctionBody};

use super::operator_len::operator_len;
use crate::analysis::sections::reader;
use crate::analysis::site::{Body, read_operator};

/// A body that holds bytes that may be a site.
#[derive(Clone, Debug)]
pub(crate) struct CandidateBody {
    /// The body with the sites that were found so far.
    pub(crate) body: Body,
    /// The offset of the last byte that may begin a site.
    pub(crate) last: usize,
    /// The error that ended the walk.
    pub(crate) error: Option<BinaryReaderError>,
}

impl CandidateBody {
    /// Returns the offset of the first instruction, if there may be sites.
    fn start(&mut self, code: &[u8]) -> Option<usize> {
        let body = FunctionBody::new(reader(code, self.body.content.clone()));
        let operators = body.get_binary_reader_for_operators();
        self.settle(operators.map(|operators| operators.original_position() as usize))
    }

    /// Decodes rare instructions from an offset on. Returns the offset of the next common one if there
    /// may be sites from there on.
    fn advance(&mut self, code: &[u8], at: usize) -> Option<usize> {
        let mut at = self.settle(Ok(at))?;
        while operator_len(code, at) == 0 {
            let read = read_operator(code, at..self.body.content.end);
            let next = read.map(|(next, site)| {
                self.body.sites.extend(site);
                next
            });
            at = self.settle(next)?;
        }
        Some(at)
    }

    /// Ends the walk after the last match, or at an error.
    fn settle(&mut self, next: wasmparser::Result<usize>) -> Option<usize> {
        match next {
            Ok(at) => (at <= self.last).then_some(at),
            Err(error) => {
                self.error = Some(error);
                None
            }
        }
    }
}

/// The number of bodies that are walked through in turn.
const LANES: usize = 4;

/// The number of steps between two checks of each lane. In between, a lane waits at a rare
/// instruction, and takes useless steps after the last match of its body.
const STEPS: usize = 8;

/// An offset at which every instruction has the length 0.
const NOWHERE: usize = usize::MAX;

/// Finds the sites of all candidates. `code` ends with the code section.
pub(crate) fn find_sites(code: &[u8], candidates: &mut [CandidateBody]) {
    let mut waiting = candidates.iter_mut();
    let mut next = || waiting.find_map(|body| Some((body.start(code)?, body)));
    let mut offsets = [NOWHERE; LANES];
    let mut lanes: [Option<&mut CandidateBody>; LANES] = Default::default();
    loop {
        for (at, lane) in offsets.iter_mut().zip(&mut lanes) {
            match lane.as_mut().and_then(|body| body.advance(code, *at)) {
                Some(open) => *at = open,
                None => {
                    let (start, body) = next().unzip();
                    (*at, *lane) = (start.unwrap_or(NOWHERE), body);
                }
            }
        }
        if lanes.iter().all(Option::is_none) {
            return;
        }
        for _ in 0..STEPS {
            for at in &mut offsets {
                *at += operator_len(code, *at);
            }
        }
    }
}
