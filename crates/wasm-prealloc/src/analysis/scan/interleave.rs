//! Steps through bodies that may hold a site, several at a time.
//!
//! The start of an instruction is known only once the one before it has been measured, so a walk
//! through one body waits for memory most of the time. Walking through several bodies in turn hides
//! the wait, because they do not depend on each other.

use std::ops::Range;

use wasmparser::{BinaryReaderError, FunctionBody};

use super::operator_len::operator_len;
use crate::analysis::sections::reader;
use crate::analysis::site::{Site, StoredBody, read_operator};

/// A body that holds bytes that may be a site.
#[derive(Clone, Debug)]
pub(crate) struct CandidateBody {
    /// The body, with the range of its sites once they are found.
    pub(crate) body: StoredBody,
    /// The offset within the content of the last byte that may begin a site.
    pub(crate) last: u32,
}

/// A walk through a candidate.
#[derive(Debug, Default)]
struct Lane<'c> {
    candidate: Option<&'c mut CandidateBody>,
    content: Range<usize>,
    /// The offset of the last byte that may begin a site.
    last: usize,
    /// The sites that were found so far.
    sites: Vec<Site>,
    /// The error that ended the walk.
    error: Option<BinaryReaderError>,
}

impl<'c> Lane<'c> {
    /// Begins to walk through a candidate. Returns the offset of its first instruction, if there may
    /// be sites.
    fn start(&mut self, code: &[u8], candidate: &'c mut CandidateBody) -> Option<usize> {
        self.content = candidate.body.content();
        self.last = self.content.start + candidate.last as usize;
        self.candidate = Some(candidate);
        let body = FunctionBody::new(reader(code, self.content.clone()));
        let operators = body.get_binary_reader_for_operators();
        self.settle(operators.map(|operators| operators.original_position() as usize))
    }

    /// Decodes rare instructions from an offset on. Returns the offset of the next common one if there
    /// may be sites from there on.
    fn advance(&mut self, code: &[u8], at: usize) -> Option<usize> {
        let mut at = self.settle(Ok(at))?;
        while operator_len(code, at) == 0 {
            let read = read_operator(code, at..self.content.end);
            let next = read.map(|(next, site)| {
                self.sites.extend(site);
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

    /// Adds the sites and the error of this walk to the results of all walks.
    fn finish(&mut self, found: &mut Found) {
        let Some(candidate) = self.candidate.take() else {
            return;
        };
        let start = found.sites.len() as u32;
        found.sites.append(&mut self.sites);
        candidate.body.sites = start..found.sites.len() as u32;
        if let Some(error) = self.error.take() {
            let first = found
                .error
                .take()
                .filter(|(at, _)| *at < self.content.start);
            found.error = first.or(Some((self.content.start, error)));
        }
    }
}

/// The results of all walks.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The sites of all bodies.
    pub(crate) sites: Vec<Site>,
    /// The offset of the first body with an error, and the error.
    pub(crate) error: Option<(usize, BinaryReaderError)>,
}

/// The number of bodies that are walked through in turn.
const LANES: usize = 4;

/// The number of steps between two checks of each lane. In between, a lane waits at a rare
/// instruction, and takes useless steps after the last match of its body.
const STEPS: usize = 8;

/// An offset at which every instruction has the length 0.
const NOWHERE: usize = usize::MAX;

/// Finds the sites of all candidates. `code` ends with the code section.
pub(crate) fn find_sites(code: &[u8], candidates: &mut [CandidateBody]) -> Found {
    let mut found = Found::default();
    let mut waiting = candidates.iter_mut();
    let mut offsets = [NOWHERE; LANES];
    let mut lanes: [Lane<'_>; LANES] = Default::default();
    loop {
        for (at, lane) in offsets.iter_mut().zip(&mut lanes) {
            let mut open = match lane.candidate {
                Some(_) => lane.advance(code, *at),
                None => None,
            };
            while open.is_none() {
                lane.finish(&mut found);
                let Some(next) = waiting.next() else {
                    break;
                };
                open = lane.start(code, next);
            }
            *at = open.unwrap_or(NOWHERE);
        }
        if lanes.iter().all(|lane| lane.candidate.is_none()) {
            return found;
        }
        for _ in 0..STEPS {
            for at in &mut offsets {
                *at += operator_len(code, *at);
            }
        }
    }
}
