//! Steps through bodies that might hold a site, several at a time.
//!
//! Where an instruction begins is known only once the one before it has been measured, so a walk
//! through one body waits for memory most of the time. Bodies do not wait for each other: their
//! walks are interleaved.

use std::ops::Range;

use wasmparser::{BinaryReader, FunctionBody};

use crate::map::reader;
use crate::scan::{Site, SiteKind};
use crate::skip;

/// A body that may hold a site.
#[derive(Clone, Debug)]
pub(crate) struct Suspect {
    /// Position among the functions that the module defines.
    pub(crate) defined: u32,
    /// Offset of the LEB128 that says how long the content is.
    pub(crate) length: usize,
    pub(crate) content: Range<usize>,
    /// The last place that can be a site.
    pub(crate) last: usize,
    /// What was found up to there; `None` where there is something that cannot be stepped over.
    pub(crate) sites: Option<Vec<Site>>,
}

impl Suspect {
    pub(crate) fn new(defined: u32, length: usize, content: Range<usize>, last: usize) -> Self {
        Self {
            defined,
            length,
            content,
            last,
            sites: None,
        }
    }

    /// Offset of the first instruction; `None` where the locals before it cannot be read.
    fn first_instruction(&self, wasm: &[u8]) -> Option<usize> {
        let body = FunctionBody::new(reader(wasm, self.content.clone()));
        let operators = body.get_binary_reader_for_operators().ok()?;
        Some(operators.original_position() as usize)
    }
}

/// How many bodies are walked through in turn: enough to hide the wait for each, and few enough
/// for their states to stay in registers.
const LANES: usize = 4;

/// Finds the sites of all suspects. `wasm` ends where the code section does.
pub(crate) fn step_through(wasm: &[u8], suspects: &mut [Suspect]) {
    let mut suspects = suspects.iter_mut();
    let mut lanes: Vec<Lane<'_>> = Vec::with_capacity(LANES);
    while lanes.len() < LANES
        && let Some(lane) = Lane::next(wasm, &mut suspects)
    {
        lanes.push(lane);
    }
    if let Ok(lanes) = <&mut [Lane<'_>; LANES]>::try_from(lanes.as_mut_slice()) {
        abreast(wasm, lanes, &mut suspects);
    }
    for mut lane in lanes {
        while lane.is_open() {
            match skip::common(wasm, lane.at) {
                0 => lane.take_care(wasm),
                length => lane.at += length,
            }
        }
        lane.close();
    }
}

/// Walks through as many bodies as there are lanes, until there is none left to take the place of
/// one that is done.
fn abreast<'s>(
    wasm: &[u8],
    lanes: &mut [Lane<'s>; LANES],
    suspects: &mut impl Iterator<Item = &'s mut Suspect>,
) {
    let mut at = lanes.each_ref().map(|lane| lane.at);
    let mut last = lanes.each_ref().map(|lane| lane.last);
    loop {
        let mut moved = [1; LANES];
        while !moved.contains(&0) {
            for i in 0..LANES {
                let length = skip::common(wasm, at[i]);
                moved[i] = if at[i] > last[i] { 0 } else { length };
                at[i] += moved[i];
            }
        }
        for i in (0..LANES).filter(|i| moved[*i] == 0) {
            let lane = &mut lanes[i];
            lane.at = at[i];
            if lane.is_open() {
                lane.take_care(wasm);
            }
            if !lane.is_open() {
                let Some(next) = Lane::next(wasm, suspects) else {
                    for (lane, at) in lanes.iter_mut().zip(at) {
                        lane.at = lane.at.max(at);
                    }
                    return;
                };
                std::mem::replace(lane, next).close();
                last[i] = lane.last;
            }
            at[i] = lane.at;
        }
    }
}

/// A body that is being walked through.
struct Lane<'s> {
    at: usize,
    last: usize,
    suspect: &'s mut Suspect,
    sites: Vec<Site>,
    /// Something stands there that is not known.
    gave_up: bool,
}

impl<'s> Lane<'s> {
    /// The next of the suspects that can be walked through.
    fn next(wasm: &[u8], suspects: &mut impl Iterator<Item = &'s mut Suspect>) -> Option<Self> {
        suspects.find_map(|suspect| {
            Some(Self {
                at: suspect.first_instruction(wasm)?,
                last: suspect.last,
                suspect,
                sites: Vec::new(),
                gave_up: false,
            })
        })
    }

    /// Whether there can be sites ahead.
    fn is_open(&self) -> bool {
        self.at <= self.last && !self.gave_up
    }

    /// Steps over one instruction, and notes it where it is a site.
    fn take_care(&mut self, wasm: &[u8]) {
        let body = &wasm[..self.suspect.content.end];
        match skip::instruction(body, self.at) {
            Some(next) => {
                let at = self.at..next;
                if let Some(kind) = SiteKind::of_opcode(body[self.at]) {
                    match BinaryReader::new(&body[self.at + 1..next], 0).read_var_u32() {
                        Ok(memory) => self.sites.push(Site { kind, memory, at }),
                        Err(_) => self.gave_up = true,
                    }
                }
                self.at = next;
            }
            None => self.gave_up = true,
        }
    }

    fn close(self) {
        // An instruction that is cut off by the end of the body is for the parser to refuse.
        let is_known = !self.gave_up && self.at <= self.suspect.content.end;
        self.suspect.sites = is_known.then_some(self.sites);
    }
}
