//! The benchmarks of the rewriter as Markdown: ratios first, then the numbers they are made of.

use super::command::{Comparison, PROGRAMS};
use super::contenders::Contender;
use super::corpus::Module;
use super::shapes::{self, MeasuredShape};
use crate::cost::Cost;
use crate::tables::Goal::{AtLeast, AtMost};
use crate::tables::{Ratios, milliseconds, table};

const MB: f64 = 1e6;
/// Below this size, the memory of the process itself outweighs that of the module.
const LARGE: usize = 1 << 20;

/// The result of one run.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(super) modules: Vec<Module>,
    pub(super) contenders: Vec<Contender>,
    /// Medians over all rounds, by module, then by contender.
    pub(super) costs: Vec<Vec<Cost>>,
    pub(super) whole: Option<(Module, Comparison)>,
    pub(super) shapes: Vec<MeasuredShape>,
    pub(super) rounds: usize,
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

impl Measured {
    pub(crate) fn text(&self) -> String {
        if self.modules.is_empty() {
            return String::new();
        }
        let mut text = format!(
            "## The rewriter: ratios\n\n{}\n\n\
             `changed` and `full` are this project's rewrite with `Validate::Changed` and \
             `Validate::Full`. The whole command uses full validation. `changed` writes into a \
             buffer that is already resident, as memcpy does. All others, `changed`, fresh, \
             included, allocate a new buffer each time. Speeds are ratios of CPU time, which \
             excludes the time that other programs had the CPU. The whole command is compared by \
             wall-clock time.\n\n\
             ## The rewriter: totals\n\n{}\n\n\
             {} modules, {:.1} MB. Times are medians of {} rounds. In each round the contenders \
             take turns, and each measurement is a separate process. Throughput is the sum of \
             all bytes divided by the sum of all times. Memory is the peak of resident memory \
             minus the peak before the process read the module, as a multiple of the module's \
             size: the module itself counts as 1. Only modules of at least 1 MiB count for \
             memory.\n\n",
            self.ratios(),
            self.totals(),
            self.modules.len(),
            self.bytes() / MB,
            self.rounds
        );
        if let Some((module, comparison)) = &self.whole {
            text += &format!(
                "## The rewriter: the whole command\n\n{}\n\n\
                 The release build of `wasm-prealloc rewrite`, and a program that does the same \
                 work with walrus, on the module of `{}` ({:.1} MB). Both read a file, and write \
                 the output atomically and sync it to the disk. Memory is all resident memory of \
                 the process.\n\n",
                whole(comparison),
                module.name,
                module.bytes as f64 / MB
            );
        }
        text += &format!(
            "## The rewriter: shapes\n\n{}\n\n\
             Modules that are made to take much time, rewritten with full validation, and \
             validated by wasmparser alone. The second column of times compares a module with one \
             of a quarter of the size: 4 is work in proportion to the input, and 16 is work in \
             proportion to its square. Times are CPU time.\n\n",
            shapes::text(&self.shapes)
        );
        text += &format!(
            "## The rewriter: modules\n\n{}\n\n\
             CPU time in milliseconds of each contender; `fresh` is `changed`, fresh. The versions \
             of the modules are in `tests/fixtures/corpus/package.json`.\n\n",
            self.by_module()
        );
        text
    }

    fn bytes(&self) -> f64 {
        self.modules.iter().map(|module| module.bytes as f64).sum()
    }

    fn total(&self, contender: Contender) -> Option<Total> {
        let index = self.contenders.iter().position(|c| *c == contender)?;
        let all = || {
            let costs = self.costs.iter().map(|costs| costs[index]);
            self.modules.iter().zip(costs)
        };
        let large = || all().filter(|(module, _)| module.bytes >= LARGE);
        let peaks: f64 = large().map(|(_, cost)| cost.peak_bytes).sum();
        let bytes: f64 = large().map(|(module, _)| module.bytes as f64).sum();
        let worst = large().map(|(module, cost)| cost.peak_bytes / module.bytes as f64);
        Some(Total {
            seconds: all().map(|(_, cost)| cost.seconds).sum(),
            cpu_seconds: all().map(|(_, cost)| cost.cpu_seconds).sum(),
            memory: peaks / bytes,
            worst_memory: worst.fold(0.0, f64::max),
        })
    }

    fn ratios(&self) -> String {
        let mut ratios = Ratios::default();
        let rivals = [
            (Contender::Memcpy, "memcpy", 0.125),
            (Contender::Walrus, "walrus", 80.0),
        ];
        for (contender, name) in [
            (Contender::Changed, "`changed`"),
            (Contender::ChangedFresh, "`changed`, fresh"),
            (Contender::Full, "`full`"),
        ] {
            let Some(ours) = self.total(contender) else {
                continue;
            };
            for (rival, rival_name, goal) in rivals {
                if contender != Contender::Full
                    && let Some(rival) = self.total(rival)
                {
                    let label = format!("{name}: speed / speed of {rival_name}");
                    let speed = rival.cpu_seconds / ours.cpu_seconds;
                    let wall_clock = rival.seconds / ours.seconds;
                    ratios.add(&label, speed, Some(wall_clock), AtLeast(goal));
                }
            }
            let label = format!("{name}: peak memory / size of the input");
            ratios.add(&label, ours.memory, None, AtMost(2.2));
        }
        if let Some((_, [ours, _, walrus])) = &self.whole {
            let time = ours.seconds / walrus.seconds;
            let label = "whole command: time / time of walrus";
            ratios.add(label, time, None, AtMost(0.1));
            let memory = ours.peak_bytes / walrus.peak_bytes;
            let label = "whole command: memory / memory of walrus";
            ratios.add(label, memory, None, AtMost(1.0 / 3.0));
        }
        ratios.text()
    }

    fn totals(&self) -> String {
        let header = [
            "contender",
            "MB/s",
            "MB/s, wall clock",
            "speed / ours",
            "memory / input",
            "worst module",
        ];
        let ours = self.total(Contender::Changed);
        let ours = ours.map_or(f64::NAN, |ours| ours.cpu_seconds);
        let rows = self.contenders.iter().filter_map(|contender| {
            let total = self.total(*contender)?;
            Some(vec![
                contender.names().0.to_owned(),
                format!("{:.0}", self.bytes() / MB / total.cpu_seconds),
                format!("{:.0}", self.bytes() / MB / total.seconds),
                format!("{:.3}", ours / total.cpu_seconds),
                format!("{:.2}", total.memory),
                format!("{:.2}", total.worst_memory),
            ])
        });
        table(&header, rows)
    }

    fn by_module(&self) -> String {
        let mut header = vec!["module", "bytes", "functions", "grow", "size"];
        header.extend(self.contenders.iter().map(|contender| contender.names().1));
        let modules = self.modules.iter().zip(&self.costs);
        let rows = modules.map(|(module, costs)| {
            let mut row = vec![
                module.name.clone(),
                module.bytes.to_string(),
                module.functions.to_string(),
                module.grow_sites.to_string(),
                module.size_sites.to_string(),
            ];
            row.extend(costs.iter().map(|cost| milliseconds(cost.cpu_seconds)));
            row
        });
        table(&header, rows)
    }
}

fn whole(comparison: &Comparison) -> String {
    let rows = PROGRAMS.iter().zip(comparison).map(|(name, cost)| {
        let peak = format!("{:.1}", cost.peak_bytes / MB);
        vec![(*name).to_owned(), format!("{:.3}", cost.seconds), peak]
    });
    table(&["program", "seconds", "peak MB"], rows)
}
