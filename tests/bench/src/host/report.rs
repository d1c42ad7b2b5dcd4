//! The benchmarks of the host as Markdown: ratios first, then the numbers they are made of.

use std::collections::BTreeMap;

use crate::cost::Cost;
use crate::tables::Goal::{AtLeast, AtMost, Shown};
use crate::tables::{Ratios, milliseconds, table};

/// The contenders of each part, with their names in the tables.
pub(super) const SECURE: [(&str, &str); 5] = [
    ("ours", "ours: lock, checks, commit, residency check"),
    ("bare", "the bare system calls"),
    ("touch", "one write per 4 KiB"),
    ("memset", "memset"),
    ("pattern", "a pattern, then zeros"),
];
pub(super) const BLOCK: [(&str, &str); 12] = [
    ("on-demand", "wasmtime, on demand"),
    ("pooling", "wasmtime, pooling"),
    ("pooling-tuned", "wasmtime, pooling, 4 GiB kept resident"),
    ("pooling-tuned-scan", "the same, with PAGEMAP_SCAN"),
    ("commit-maximum", "ours, `CommitMaximum`"),
    (
        "commit-maximum-by-page",
        "the same, the guest grows page by page",
    ),
    ("declared", "ours, `Declared`"),
    (
        "declared-background",
        "the same, two slots, resets in the background",
    ),
    (
        "commit-maximum-background",
        "ours, `CommitMaximum`, two slots, resets in the background",
    ),
    ("denied", "ours, `Declared`, without write tracking"),
    (
        "denied-background",
        "the same, two slots, resets in the background",
    ),
    ("anew", "memory secured again for each block"),
];
pub(super) const RESET: [(&str, &str); 6] = [
    ("high-water", "ours, up to an enforced size"),
    ("watermark", "ours, watermark and tracking"),
    (
        "after-large",
        "the same, the slowest of the blocks after one of 1000 MiB",
    ),
    ("everything", "ours, everything"),
    ("memset", "memset"),
    ("scan", "one scan of 4 GiB for written pages"),
];
const BLOCK_SIZES: [usize; 5] = [0, 1, 10, 100, 1000];
const RESET_SIZES: [usize; 6] = [0, 1, 10, 100, 1000, 4096];

/// Medians over all rounds, by part, contender and size in MiB.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(super) costs: BTreeMap<(&'static str, &'static str, usize), Cost>,
    pub(super) rounds: usize,
}

impl Measured {
    fn cost(&self, part: &'static str, contender: &'static str, mib: usize) -> Option<Cost> {
        self.costs.get(&(part, contender, mib)).copied()
    }

    pub(crate) fn text(&self) -> String {
        if self.costs.is_empty() {
            return String::new();
        }
        format!(
            "\n## The host: ratios\n\n{}\n\n\
             Ratios are of CPU time. Times are medians of {} rounds. In each round the contenders \
             take turns, each in a separate process. The resets in (c) are compared with the \
             work that they cannot avoid: zeroing the written memory, and with a watermark also \
             one scan for written pages.\n\n\
             ## The host: (a) making 4 GiB resident\n\n{}\n\n\
             ## The host: (b) a block\n\n{}\n\n\
             CPU time in milliseconds to instantiate a module, to let it write that many MiB, and \
             to drop the instance. `faults` is the number of page faults that the guest takes at \
             100 MiB; the OOM killer can end a host at any of them. The guest grows its memory by \
             1 MiB at a time. Only the hosts marked \"ours\" have 4 GiB committed before they \
             start. A reset in the background ends before the next block is measured, and its time \
             is not counted.\n\n\
             ## The host: (c) taking 4 GiB back\n\n{}\n\n\
             CPU time in milliseconds, by the number of MiB that were written. If a guest wrote \
             0 MiB, a reset with a watermark costs one scan.\n",
            self.ratios(),
            self.rounds,
            self.securing(),
            self.blocks(),
            self.resets(),
        )
    }

    fn ratios(&self) -> String {
        let block = |contender, mib| self.cost("block", contender, mib);
        let reset = |contender, mib| self.cost("reset", contender, mib);
        let secure = |contender| self.cost("secure", contender, 4096);
        let mut ratios = Ratios::default();
        let mut row = |label: &str, one: Option<Cost>, other: Option<Cost>, goal| {
            if let (Some(one), Some(other)) = (one, other) {
                let wall_clock = one.seconds / other.seconds;
                let cpu = one.cpu_seconds / other.cpu_seconds;
                ratios.add(label, cpu, Some(wall_clock), goal);
            }
        };
        let label = "(a) ours / the bare system calls";
        row(label, secure("ours"), secure("bare"), AtMost(1.1));
        let label = "(a) a pattern, then zeros / ours";
        row(label, secure("pattern"), secure("ours"), AtLeast(6.0));
        for mib in [10, 100] {
            let ours = block("commit-maximum", mib);
            for (contender, name, goal) in [
                ("on-demand", "on demand", AtLeast(6.0)),
                ("pooling", "pooling", AtLeast(6.0)),
                ("pooling-tuned", "pooling, tuned", AtLeast(1.0)),
                (
                    "pooling-tuned-scan",
                    "pooling, tuned, with scan",
                    AtLeast(1.0),
                ),
                ("declared", "`Declared`", AtMost(1.5)),
            ] {
                let label = format!("(b) {mib} MiB: {name} / `CommitMaximum`");
                row(&label, block(contender, mib), ours, goal);
            }
        }
        for mib in [0, 1] {
            for (contender, name) in [
                ("declared", "`Declared`"),
                ("declared-background", "`Declared`, background"),
                ("commit-maximum", "`CommitMaximum`"),
                ("commit-maximum-background", "`CommitMaximum`, background"),
                ("denied", "`Declared` without tracking"),
                (
                    "denied-background",
                    "`Declared` without tracking, background",
                ),
            ] {
                let label = format!("(b) {mib} MiB: {name} / pooling");
                let pooling = block("pooling", mib);
                row(&label, block(contender, mib), pooling, Shown);
            }
        }
        for mib in [10, 100, 1000] {
            let memset = reset("memset", mib);
            let label = format!("(c) {mib} MiB: high-water reset / memset");
            row(&label, reset("high-water", mib), memset, AtMost(1.2));
            let both = memset.zip(reset("scan", 4096)).map(|(memset, scan)| Cost {
                seconds: memset.seconds + scan.seconds,
                cpu_seconds: memset.cpu_seconds + scan.cpu_seconds,
                ..memset
            });
            let label = format!("(c) {mib} MiB: watermark reset / memset and scan");
            row(&label, reset("watermark", mib), both, AtMost(1.2));
        }
        let label = "(c) 1 MiB: slowest reset after a block of 1000 MiB / watermark reset";
        row(
            label,
            reset("after-large", 1),
            reset("watermark", 1),
            AtMost(3.0),
        );
        let (label, memset) = ("(c) 4096 MiB: full reset / memset", reset("memset", 4096));
        row(label, reset("everything", 4096), memset, AtMost(1.2));
        ratios.text()
    }

    fn securing(&self) -> String {
        let rows = SECURE.iter().filter_map(|(contender, name)| {
            let cost = self.cost("secure", contender, 4096)?;
            let times = [cost.seconds, cost.cpu_seconds].map(milliseconds);
            Some([&[(*name).to_owned()], &times[..]].concat())
        });
        table(&["way", "wall-clock ms", "CPU ms"], rows)
    }

    fn blocks(&self) -> String {
        let rows = BLOCK.map(|(contender, name)| {
            let mut row = self.row("block", contender, name, &BLOCK_SIZES);
            let faults = self.cost("block", contender, 100).map(|cost| cost.faults);
            // With `anew`, the faults of securing are not counted apart from the guest's.
            let faults = faults.filter(|_| contender != "anew");
            row.push(faults.map_or(String::new(), |faults| format!("{faults:.0}")));
            row
        });
        table_by_size("host", &BLOCK_SIZES, &["faults"], rows)
    }

    fn resets(&self) -> String {
        let rows = RESET.map(|(contender, name)| self.row("reset", contender, name, &RESET_SIZES));
        table_by_size("way", &RESET_SIZES, &[], rows)
    }

    /// A contender's name, and its CPU time at each size.
    fn row(
        &self,
        part: &'static str,
        contender: &'static str,
        name: &str,
        sizes: &[usize],
    ) -> Vec<String> {
        let times = sizes.iter().map(|&mib| {
            let cost = self.cost(part, contender, mib);
            cost.map_or(String::new(), |cost| milliseconds(cost.cpu_seconds))
        });
        [name.to_owned()].into_iter().chain(times).collect()
    }
}

/// A table with a column for each size.
fn table_by_size<const N: usize>(
    first: &str,
    sizes: &[usize],
    last: &[&str],
    rows: [Vec<String>; N],
) -> String {
    let sizes: Vec<_> = sizes.iter().map(|mib| format!("{mib} MiB")).collect();
    let mut header = vec![first];
    header.extend(sizes.iter().map(String::as_str));
    header.extend(last);
    table(&header, rows)
}
