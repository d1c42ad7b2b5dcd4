//! Goes through many modules at once, and tells of them in the order of the command line.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::folder::Item;
use crate::io::Inputs;

/// A batch that is done sooner needs no bar.
const PATIENCE: Duration = Duration::from_millis(500);

/// Works on all items, several at a time, and hands each result to `tell` in the order of the
/// items. Where telling fails the work goes on, because a reader that has gone must not leave
/// half of a batch undone; the first failure is given back at the end.
pub(crate) fn run<R: Send>(
    inputs: &Inputs,
    items: &[Item],
    work: impl Fn(usize, &Item) -> R + Sync,
    mut tell: impl FnMut(&R) -> Result<()>,
) -> (Vec<R>, Result<()>) {
    let jobs = match inputs.jobs {
        Some(jobs) => jobs.get(),
        None => thread::available_parallelism().map_or(1, usize::from),
    };
    let mut bar = Bar::new(inputs, items.len());
    let mut told = Ok(());
    let mut done = Vec::with_capacity(items.len());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, results) = mpsc::channel();
        for _ in 0..jobs.min(items.len()) {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    // The receiver is there until all senders have gone.
                    let _ = sender.send((index, work(index, item)));
                }
            });
        }
        drop(sender);
        // What came before its turn.
        let mut early = BTreeMap::new();
        for (index, result) in results {
            early.insert(index, result);
            while let Some(result) = early.remove(&done.len()) {
                if told.is_ok() {
                    told = bar.aside(|| tell(&result));
                }
                done.push(result);
            }
            bar.step();
        }
    });
    bar.finish();
    (done, told)
}

/// A progress bar on stderr, where that is a terminal and nobody asked for silence.
struct Bar {
    bar: ProgressBar,
    begin: Instant,
    wanted: bool,
}

impl Bar {
    fn new(inputs: &Inputs, items: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(items as u64), ProgressDrawTarget::hidden());
        if let Ok(style) =
            ProgressStyle::with_template("{bar:32} {pos} of {len} modules, {eta} left")
        {
            bar.set_style(style);
        }
        Self {
            bar,
            begin: Instant::now(),
            wanted: items > 1 && !inputs.quiet && !inputs.json,
        }
    }

    fn step(&mut self) {
        if self.wanted && self.begin.elapsed() > PATIENCE {
            self.wanted = false;
            // This target draws nothing where stderr is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.inc(1);
    }

    /// Does something that prints while the bar is out of the way.
    fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
