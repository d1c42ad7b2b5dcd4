//! The result as text that is Markdown too: ratios first, then what they are made of. The host's
//! part is in `host`.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::Result;

use crate::child::{Sample, median};
use crate::command::{Comparison, Taken};
use crate::contenders::Contender;
use crate::corpus::Module;
use crate::host;
use crate::tables::{Goal, Ratios, right_from, table};

const MB: f64 = 1e6;
/// Below this, a process's own pages outweigh the module's.
const LARGE: usize = 1 << 20;

/// One contender on one module, over all rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    seconds: f64,
    cpu_seconds: f64,
    peak_bytes: f64,
}

impl Measured {
    pub(crate) fn median(samples: &[Sample]) -> Self {
        Self {
            seconds: median(samples.iter().map(|sample| sample.seconds).collect()),
            cpu_seconds: median(samples.iter().map(|s| s.cpu_seconds).collect()),
            peak_bytes: median(samples.iter().map(|s| s.peak_bytes as f64).collect()),
        }
    }
}

/// All that was measured in one run.
pub(crate) struct Report<'a> {
    pub(crate) modules: &'a [Module],
    pub(crate) contenders: &'a [Contender],
    /// By module, then by contender.
    pub(crate) measured: &'a [Vec<Measured>],
    pub(crate) whole: Option<(&'a Module, Comparison)>,
    pub(crate) rounds: usize,
    pub(crate) host: &'a host::Measured,
}

/// One contender on all modules.
#[derive(Clone, Copy)]
struct Total {
    seconds: f64,
    cpu_seconds: f64,
    /// Peak as a multiple of the input: of all large modules together, and of the worst.
    memory: f64,
    worst_memory: f64,
}

impl Report<'_> {
    pub(crate) fn text(&self) -> Result<String> {
        let mut text = String::new();
        writeln!(text, "# Benchmarks\n")?;
        writeln!(
            text,
            "Written by `cargo xtask bench --write`; do not edit. {}\n",
            machine()
        )?;
        if self.modules.is_empty() {
            text.push_str(&self.host.text());
            return Ok(text);
        }
        writeln!(text, "## The rewriter: ratios\n\n{}\n", self.ratios())?;
        writeln!(
            text,
            "`changed` and `full` are this project's rewrite with `Validate::Changed` and \
             `Validate::Full`; the whole command validates in full. `changed` writes into a buffer \
             that is resident already, as memcpy does; `changed`, fresh, and all others take \
             theirs from the allocator anew each time. Speeds are compared by time on the CPU, \
             because that leaves out what other programs took of it, and the whole command by the \
             clock.\n"
        )?;
        writeln!(text, "## The rewriter: totals\n\n{}\n", self.totals())?;
        writeln!(
            text,
            "{} modules, {:.1} MB, medians of {} rounds in which the contenders take turns, each \
             measurement in a process of its own. Throughput is the sum of all bytes by the sum of \
             all times. Memory is the peak of resident memory above that of the \
             process before it read the module, as a multiple of the module: the module itself \
             counts as 1. Only modules of 1 MiB and more count there.\n",
            self.modules.len(),
            self.bytes() / MB,
            self.rounds
        )?;
        if let Some((module, comparison)) = &self.whole {
            writeln!(
                text,
                "## The rewriter: the whole command\n\n{}\n",
                whole(comparison)
            )?;
            writeln!(
                text,
                "`wasm-prealloc rewrite` as it is released, and a program of the same shape that \
                 goes through walrus, on the module of `{}` ({:.1} MB). Both read a file, and \
                 write one that appears whole and is synced to the disk. Memory is all that the \
                 process had resident.\n",
                module.name,
                module.bytes as f64 / MB
            )?;
        }
        writeln!(text, "## The rewriter: modules\n\n{}\n", self.by_module())?;
        writeln!(
            text,
            "Milliseconds of CPU time for each contender; `fresh` is `changed`, fresh. The modules' \
             versions are in `tests/corpus/package.json`.\n"
        )?;
        text.push_str(&self.host.text());
        Ok(text)
    }

    fn bytes(&self) -> f64 {
        self.modules.iter().map(|module| module.bytes as f64).sum()
    }

    fn total(&self, contender: Contender) -> Option<Total> {
        let place = self.contenders.iter().position(|c| *c == contender)?;
        let mine = || {
            self.modules
                .iter()
                .zip(self.measured.iter().map(|m| m[place]))
        };
        let large = || mine().filter(|(module, _)| module.bytes >= LARGE);
        let peaks: f64 = large().map(|(_, m)| m.peak_bytes).sum();
        let bytes: f64 = large().map(|(module, _)| module.bytes as f64).sum();
        let worst = large().map(|(module, m)| m.peak_bytes / module.bytes as f64);
        Some(Total {
            seconds: mine().map(|(_, m)| m.seconds).sum(),
            cpu_seconds: mine().map(|(_, m)| m.cpu_seconds).sum(),
            memory: peaks / bytes,
            worst_memory: worst.fold(0.0, f64::max),
        })
    }

    fn ratios(&self) -> String {
        let mut ratios = Ratios::new();
        let mut row = |what: &str, is: f64, by_clock: Option<f64>, goal: Goal| {
            ratios.add(what, is, by_clock, goal);
        };
        let speed = |ours: Total, theirs: Total| {
            let by_clock = theirs.seconds / ours.seconds;
            (theirs.cpu_seconds / ours.cpu_seconds, Some(by_clock))
        };
        for (contender, name) in [
            (Contender::Changed, "`changed`"),
            (Contender::ChangedFresh, "`changed`, fresh"),
        ] {
            let Some(changed) = self.total(contender) else {
                continue;
            };
            for (other, goal) in [(Contender::Memcpy, 0.125), (Contender::Walrus, 80.0)] {
                if let Some(total) = self.total(other) {
                    let (is, by_clock) = speed(changed, total);
                    let other = match other {
                        Contender::Memcpy => "memcpy",
                        _ => "walrus",
                    };
                    let what = format!("{name}: speed by {other}'s");
                    row(&what, is, by_clock, Goal::AtLeast(goal));
                }
            }
            let what = format!("{name}: peak memory by input");
            row(&what, changed.memory, None, Goal::AtMost(2.2));
        }
        if let Some(full) = self.total(Contender::Full) {
            row(
                "`full`: peak memory by input",
                full.memory,
                None,
                Goal::AtMost(2.2),
            );
        }
        if let Some((_, whole)) = &self.whole {
            let time = whole.ours_full.seconds / whole.walrus.seconds;
            row(
                "whole command: time by walrus's",
                time,
                None,
                Goal::AtMost(0.1),
            );
            let memory = whole.ours_full.peak_bytes as f64 / whole.walrus.peak_bytes as f64;
            let goal = Goal::AtMost(1.0 / 3.0);
            row("whole command: memory by walrus's", memory, None, goal);
        }
        ratios.text()
    }

    fn totals(&self) -> String {
        let mut table = table(&[
            "contender",
            "MB/s",
            "by the clock",
            "speed by ours",
            "memory by input",
            "worst module",
        ]);
        let ours = self
            .total(Contender::Changed)
            .map(|total| total.cpu_seconds);
        for contender in self.contenders {
            if let Some(total) = self.total(*contender) {
                table.add_row([
                    contender.title().to_owned(),
                    format!("{:.0}", self.bytes() / MB / total.cpu_seconds),
                    format!("{:.0}", self.bytes() / MB / total.seconds),
                    format!("{:.3}", ours.unwrap_or(f64::NAN) / total.cpu_seconds),
                    format!("{:.2}", total.memory),
                    format!("{:.2}", total.worst_memory),
                ]);
            }
        }
        right_from(&mut table, 1);
        table.to_string()
    }

    fn by_module(&self) -> String {
        let mut header = vec!["module", "bytes", "functions", "grow", "size"];
        header.extend(self.contenders.iter().map(|contender| match contender {
            Contender::Memcpy => "memcpy",
            Contender::Changed => "changed",
            Contender::ChangedFresh => "fresh",
            Contender::Full => "full",
            Contender::Wasmparser => "wasmparser",
            Contender::WasmEncoder => "wasm-encoder",
            Contender::Walrus => "walrus",
        }));
        let mut table = table(&header);
        for (module, measured) in self.modules.iter().zip(self.measured) {
            let mut row = vec![
                module.name.clone(),
                module.bytes.to_string(),
                module.functions.to_string(),
                module.grow_sites.to_string(),
                module.size_sites.to_string(),
            ];
            row.extend(
                measured
                    .iter()
                    .map(|m| format!("{:.3}", m.cpu_seconds * 1e3)),
            );
            table.add_row(row);
        }
        right_from(&mut table, 1);
        table.to_string()
    }
}

fn whole(comparison: &Comparison) -> String {
    let mut table = table(&["program", "seconds", "peak MB"]);
    for (name, taken) in [
        ("wasm-prealloc rewrite", comparison.ours_full),
        (
            "wasm-prealloc rewrite --validate changed",
            comparison.ours_changed,
        ),
        ("walrus round trip", comparison.walrus),
    ] {
        let Taken {
            seconds,
            peak_bytes,
        } = taken;
        table.add_row([
            name.to_owned(),
            format!("{seconds:.3}"),
            format!("{:.1}", peak_bytes as f64 / MB),
        ]);
    }
    right_from(&mut table, 1);
    table.to_string()
}

/// Where and when, in one sentence. What cannot be found out is left out.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let said = |program: &str, arg: &str| {
        let output = Command::new(program).arg(arg).output().ok();
        let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        said.unwrap_or_default()
    };
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("a CPU without a name", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "Measured on {} with {model}, {cores} cores, Linux {}, {}.",
        said("date", "+%F"),
        read("/proc/sys/kernel/osrelease").trim(),
        said("rustc", "--version")
    )
}
