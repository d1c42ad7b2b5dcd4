//! Many modules at once: work in parallel, reports in the order of the command line.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::exit;
use crate::folder::Item;
use crate::io::{Inputs, print_json};
use crate::json::{Failure, SCHEMA};

/// A batch that takes less time shows no progress bar.
const PROGRESS_DELAY: Duration = Duration::from_millis(500);

const BAR: &str = "{bar:32} {pos} of {len} modules, {eta} left";

/// The document that `--json` prints.
#[derive(Debug, Serialize)]
struct Document<R> {
    schema: u32,
    command: &'static str,
    exit: u8,
    modules: Vec<Outcome<R>>,
}

#[derive(Debug, Serialize)]
struct Outcome<R> {
    input: String,
    #[serde(flatten)]
    result: R,
    error: Option<Failure>,
}

/// Runs a command on all items. `print` prints a result for people, and `code` returns its exit
/// code. The exit code of the command is the highest one.
pub(crate) fn run<R: Default + Send + Serialize>(
    command: &'static str,
    inputs: &Inputs,
    items: &[Item],
    work: impl Fn(usize, &Item) -> Result<R> + Sync,
    print: impl Fn(&str, &R) -> io::Result<()>,
    code: impl Fn(&R) -> u8,
) -> Result<u8> {
    let work = |index: usize| {
        let item = &items[index];
        let (result, error) = match work(index, item) {
            Ok(result) => (result, None),
            Err(error) => (R::default(), Some(Failure::new(&error))),
        };
        Outcome {
            input: item.input.name(),
            result,
            error,
        }
    };
    let report = |outcome: &Outcome<R>| match &outcome.error {
        Some(failure) => {
            failure.print();
            Ok(())
        }
        None if inputs.json => Ok(()),
        None => print(&outcome.input, &outcome.result),
    };
    let (modules, printed) = for_each(inputs, items.len(), work, report);
    exit::ignore_broken_pipe(printed)?;
    let codes = modules.iter().map(|outcome| match &outcome.error {
        Some(_) => exit::USAGE,
        None => code(&outcome.result),
    });
    let exit = codes.max().unwrap_or(exit::DONE);
    if inputs.json {
        exit::ignore_broken_pipe(print_json(&Document {
            schema: SCHEMA,
            command,
            exit,
            modules,
        }))?;
    }
    Ok(exit)
}

/// Works on all items, several at a time, and passes each result to `report` in the order of the
/// items. Returns all results, and the first error of `report`. That error does not stop the work,
/// because a closed pipe must not leave half of a batch undone.
fn for_each<R: Send>(
    inputs: &Inputs,
    items: usize,
    work: impl Fn(usize) -> R + Sync,
    report: impl Fn(&R) -> io::Result<()>,
) -> (Vec<R>, io::Result<()>) {
    let jobs = match inputs.jobs {
        Some(jobs) => jobs.get(),
        None => thread::available_parallelism().map_or(1, usize::from),
    };
    let bar = ProgressBar::with_draw_target(Some(items as u64), ProgressDrawTarget::hidden());
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    let shows_bar = items > 1 && !inputs.quiet && !inputs.json;
    let begin = Instant::now();
    let mut reported = Ok(());
    let mut done = Vec::with_capacity(items);
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, results) = mpsc::channel();
        for _ in 0..jobs.min(items) {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= items {
                        break;
                    }
                    // The receiver lives until all senders are dropped.
                    let _ = sender.send((index, work(index)));
                }
            });
        }
        drop(sender);
        // Results whose predecessors are not done yet.
        let mut early = BTreeMap::new();
        for (index, result) in results {
            early.insert(index, result);
            while let Some(result) = early.remove(&done.len()) {
                if reported.is_ok() {
                    reported = bar.suspend(|| report(&result));
                }
                done.push(result);
            }
            if shows_bar && bar.is_hidden() && begin.elapsed() > PROGRESS_DELAY {
                // This target draws nothing if stderr is not a terminal.
                bar.set_draw_target(ProgressDrawTarget::stderr());
            }
            bar.inc(1);
        }
    });
    bar.finish_and_clear();
    (done, reported)
}
