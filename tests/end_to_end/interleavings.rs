//! A model check of the function that replaces `memory.grow` in a shared memory: an interpreter of its
//! instructions runs two and three threads in every order of their accesses to the counter. Engines
//! with real threads run only some orders, see `threads`.

use std::collections::{BTreeMap, BTreeSet};

use wasm_prealloc::{GrowthHandling, Options, rewrite};
use wasmparser::{FunctionBody, Operator, Parser, Payload};

/// The start and the cap of growth, in pages.
const START: u32 = 2;
const CAP: u32 = 7;

/// The way in which the engine executes the compare-exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exchange {
    Atomic,
    /// As a load and a store, between which another thread can run. The check must find this fault.
    Torn,
}

/// One thread: its calls of the function, and the state of the call that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Thread {
    /// The growths still to make, the next one last.
    deltas: Vec<u32>,
    /// The results of the calls so far, each with its delta.
    results: Vec<(u32, u32)>,
    at: usize,
    stack: Vec<u32>,
    locals: Vec<u32>,
    /// The value to store, after the load of a torn exchange.
    pending: Option<u32>,
}

impl Thread {
    fn new(deltas: &[u32]) -> Self {
        Self {
            deltas: deltas.to_vec(),
            ..Self::default()
        }
    }

    fn pop(&mut self) -> u32 {
        self.stack.pop().unwrap()
    }

    fn binary(&mut self, result: impl Fn(u32, u32) -> u32) {
        let right = self.pop();
        let left = self.pop();
        self.stack.push(result(left, right));
    }
}

/// The function's instructions, and for each `if` or `else` the place after it.
struct Code<'a> {
    operators: Vec<Operator<'a>>,
    jumps: BTreeMap<usize, usize>,
    address: u32,
}

impl<'a> Code<'a> {
    fn read(body: &FunctionBody<'a>, address: u32) -> Self {
        let operators = body.get_operators_reader().unwrap().into_iter();
        let operators: Vec<_> = operators.map(Result::unwrap).collect();
        let mut jumps = BTreeMap::new();
        let mut open = Vec::new();
        for (at, operator) in operators.iter().enumerate() {
            match operator {
                Operator::If { .. } | Operator::Loop { .. } | Operator::Block { .. } => {
                    open.push(at)
                }
                Operator::Else => {
                    let start = open.last_mut().unwrap();
                    jumps.insert(*start, at + 1);
                    *start = at;
                }
                Operator::End => {
                    // The last `end` closes the function.
                    if let Some(start) = open.pop() {
                        jumps.insert(start, at);
                    }
                }
                _ => {}
            }
        }
        Self {
            operators,
            jumps,
            address,
        }
    }

    /// Returns the start of the loop that a branch of a given depth continues.
    fn loop_start(&self, at: usize, depth: u32) -> usize {
        let mut open = Vec::new();
        for (at, operator) in self.operators[..at].iter().enumerate() {
            match operator {
                Operator::If { .. } | Operator::Loop { .. } | Operator::Block { .. } => {
                    open.push(at)
                }
                Operator::End => drop(open.pop()),
                _ => {}
            }
        }
        let target = open[open.len() - 1 - depth as usize];
        assert!(matches!(self.operators[target], Operator::Loop { .. }));
        target
    }

    /// Runs a thread until after its next access to the counter, or to the end of its calls.
    fn step(&self, thread: &mut Thread, counter: &mut u32, exchange: Exchange) {
        if let Some(value) = thread.pending.take() {
            *counter = value;
            return;
        }
        loop {
            if thread.at == 0 {
                let Some(delta) = thread.deltas.last() else {
                    return;
                };
                thread.locals = vec![*delta, 0, 0, 0];
            }
            let at = thread.at;
            thread.at += 1;
            match &self.operators[at] {
                Operator::Loop { .. } | Operator::Block { .. } => {}
                Operator::End if thread.at == self.operators.len() => {
                    let result = thread.pop();
                    let delta = thread.deltas.pop().unwrap();
                    thread.results.push((delta, result));
                    thread.at = 0;
                    assert!(thread.stack.is_empty(), "{thread:?}");
                }
                Operator::End => {}
                Operator::If { .. } => {
                    if thread.pop() == 0 {
                        thread.at = self.jumps[&at];
                    }
                }
                Operator::Else => thread.at = self.jumps[&at],
                Operator::BrIf { relative_depth } => {
                    if thread.pop() != 0 {
                        thread.at = self.loop_start(at, *relative_depth);
                        thread.stack.clear();
                    }
                }
                Operator::LocalGet { local_index } => {
                    thread.stack.push(thread.locals[*local_index as usize]);
                }
                Operator::LocalSet { local_index } => {
                    thread.locals[*local_index as usize] = thread.pop();
                }
                Operator::LocalTee { local_index } => {
                    thread.locals[*local_index as usize] = *thread.stack.last().unwrap();
                }
                Operator::I32Const { value } => thread.stack.push(value.cast_unsigned()),
                Operator::I32Add => thread.binary(u32::wrapping_add),
                Operator::I32Sub => thread.binary(u32::wrapping_sub),
                Operator::I32GtU => thread.binary(|left, right| u32::from(left > right)),
                Operator::I32Or => thread.binary(std::ops::BitOr::bitor),
                Operator::I32Ne => thread.binary(|left, right| u32::from(left != right)),
                Operator::I32AtomicLoad { memarg } => {
                    assert_eq!((thread.pop(), memarg.offset), (self.address, 0));
                    thread.stack.push(*counter);
                    return;
                }
                Operator::I32AtomicRmwCmpxchg { memarg } => {
                    let (value, expected) = (thread.pop(), thread.pop());
                    assert_eq!((thread.pop(), memarg.offset), (self.address, 0));
                    thread.stack.push(*counter);
                    match (*counter == expected, exchange) {
                        (false, _) => {}
                        (true, Exchange::Atomic) => *counter = value,
                        (true, Exchange::Torn) => thread.pending = Some(value),
                    }
                    return;
                }
                other => panic!("add {other:?} to the interpreter"),
            }
        }
    }
}

/// Runs all orders. Returns the number of states, or the first state that breaks a rule.
fn explore(code: &Code<'_>, threads: &[&[u32]], exchange: Exchange) -> Result<usize, String> {
    let threads = threads.iter().map(|deltas| Thread::new(deltas)).collect();
    let mut seen: BTreeSet<(Vec<Thread>, u32)> = BTreeSet::new();
    let mut open = vec![(threads, 0)];
    while let Some(state) = open.pop() {
        if !seen.insert(state.clone()) {
            continue;
        }
        let (threads, counter): &(Vec<Thread>, u32) = &state;
        let mut ended = true;
        for index in 0..threads.len() {
            let thread = &threads[index];
            if thread.deltas.is_empty() && thread.pending.is_none() {
                continue;
            }
            ended = false;
            let (mut threads, mut next) = (threads.clone(), *counter);
            code.step(&mut threads[index], &mut next, exchange);
            if next < *counter {
                return Err(format!(
                    "the size falls from {counter} to {next}: {threads:?}"
                ));
            }
            open.push((threads, next));
        }
        if ended {
            check_end(threads, *counter)?;
        }
    }
    Ok(seen.len())
}

/// Checks the results of all calls: no page is in two of the granted ranges, no page is in none, and a
/// growth failed only if it did not fit.
fn check_end(threads: &[Thread], counter: u32) -> Result<(), String> {
    const FAILED: u32 = u32::MAX;
    let results = threads.iter().flat_map(|thread| &thread.results);
    let mut pages = BTreeSet::new();
    for (delta, old) in results.clone().filter(|(_, old)| *old != FAILED) {
        for page in *old..*old + *delta {
            if !pages.insert(page) {
                return Err(format!("page {page} was granted twice: {threads:?}"));
            }
        }
    }
    let expected: BTreeSet<u32> = (START..START + counter).collect();
    let failed = results.filter(|(_, old)| *old == FAILED);
    let needless = failed
        .clone()
        .any(|(delta, _)| START + counter + delta <= CAP);
    match pages == expected && START + counter <= CAP && !needless {
        true => Ok(()),
        false => Err(format!("{counter} pages are counted: {threads:?}")),
    }
}

#[test]
fn no_order_of_threads_grants_a_page_twice() {
    let text = format!(
        r#"(module (memory {START} {CAP} shared)
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#
    );
    let module = wat::parse_str(text).unwrap();
    let rewritten = rewrite(&module, &Options::default()).unwrap();
    let GrowthHandling::Emulated {
        address: Some(address),
        function: Some(function),
        ..
    } = rewritten.report.memories[0].growth
    else {
        panic!("{:?}", rewritten.report.memories[0].growth);
    };
    let payloads = Parser::new(0)
        .parse_all(&rewritten.wasm)
        .map(Result::unwrap);
    let mut bodies = payloads.filter_map(|payload| match payload {
        Payload::CodeSectionEntry(body) => Some(body),
        _ => None,
    });
    let body = bodies.nth(function as usize).unwrap();
    let code = Code::read(&body, address as u32);

    let alone: &[&[u32]] = &[&[1, 2, 0, 5, 1]];
    let two: &[&[u32]] = &[&[1, 2, 0], &[2, 1]];
    let three: &[&[u32]] = &[&[1, 1], &[1, 1], &[2]];
    let beyond_the_cap: &[&[u32]] = &[&[3], &[3], &[4]];
    for threads in [alone, two, three, beyond_the_cap] {
        let states = explore(&code, threads, Exchange::Atomic).unwrap();
        println!("{states} states of {threads:?}");
        // The check itself must be able to fail.
        let found = explore(&code, threads, Exchange::Torn);
        assert_eq!(found.is_err(), threads.len() > 1, "{found:?}");
    }
}
