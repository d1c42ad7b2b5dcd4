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
use crate::folder::{Item, Items, Skipped};
use crate::io::{Inputs, print_json};
use crate::json::{Failure, SCHEMA};

/// A batch that takes less time shows no progress bar.
const PROGRESS_DELAY: Duration = Duration::from_millis(500);

const BAR: &str = "{bar:32} {pos} of {len} modules, {eta} left";

/// The document that `--json` prints.
#[derive(Debug, Serialize)]
struct Document<'a, R> {
    schema: u32,
    command: &'static str,
    exit: u8,
    modules: Vec<Outcome<R>>,
    skipped: &'a [Skipped],
    /// Always `None`: an error of the whole command is printed in a separate document.
    error: Option<Failure>,
}

#[derive(Debug, Serialize)]
struct Outcome<R> {
    input: String,
    input_bytes: Option<String>,
    #[serde(flatten)]
    result: R,
    error: Option<Failure>,
}

/// Runs a command on all items. `print` prints a result for people, and `code` returns its exit
/// code. The exit code of the command is the highest one.
pub(crate) fn run<R: Default + Send + Serialize>(
    command: &'static str,
    inputs: &Inputs,
    json: bool,
    items: &Items,
    work: impl Fn(usize, &Item) -> Result<R> + Sync,
    print: impl Fn(&str, &R) -> io::Result<()>,
    code: impl Fn(&R) -> u8,
) -> Result<u8> {
    let skipped = &items.skipped;
    for skipped in skipped.iter().filter(|_| !json) {
        eprintln!("warning: {}: {}", skipped.input, skipped.message);
    }
    let work = |index: usize| {
        let item = &items.modules[index];
        let (result, error) = match work(index, item) {
            Ok(result) => (result, None),
            Err(error) => (R::default(), Some(Failure::new(&error))),
        };
        Outcome {
            input: item.input.name(),
            input_bytes: item.input.name_bytes(),
            result,
            error,
        }
    };
    let report = |outcome: &Outcome<R>| match &outcome.error {
        Some(failure) => {
            failure.print();
            Ok(())
        }
        None if json => Ok(()),
        None => print(&outcome.input, &outcome.result),
    };
    let (modules, printed) = for_each(inputs, json, items.modules.len(), work, report);
    exit::ignore_broken_pipe(printed)?;
    let codes = modules.iter().map(|outcome| match &outcome.error {
        Some(failure) => failure.exit,
        None => code(&outcome.result),
    });
    let exit = codes.max().unwrap_or(exit::DONE);
    if json {
        exit::ignore_broken_pipe(print_json(&Document {
            schema: SCHEMA,
            command,
            exit,
            modules,
            skipped,
            error: None,
        }))?;
    }
    Ok(exit)
}

/// Works on all items, several at a time, and passes each result to `report` in the order of the
/// items. Returns all results, and the first error of `report`. That error does not stop the work,
/// because a closed pipe must not leave half of a batch undone.
fn for_each<R: Send>(
    inputs: &Inputs,
    json: bool,
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
    let shows_bar = items > 1 && !inputs.quiet && !json;
    let begin = Instant::now();
    let mut reported = Ok(());
    let mut done = Vec::with_capacity(items);
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, results) = mpsc::channel();
        for job in 0..jobs.min(items) {
            let (sender, next, work) = (sender.clone(), &next, &work);
            let job_work = move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= items {
                        break;
                    }
                    // The receiver lives until all senders are dropped.
                    let _ = sender.send((index, work(index)));
                }
            };
            // The system may refuse to start a thread. The other threads do its work, or this thread
            // if there is no other.
            let spawned = thread::Builder::new().spawn_scoped(scope, job_work.clone());
            if spawned.is_err() {
                if job == 0 {
                    job_work();
                }
                break;
            }
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
