//! The host's half: securing memory, running blocks in it, and taking it back, each beside the bare
//! system calls or beside the engine's own ways. What is measured is in the host crate's example
//! `measure`, which runs anew for each contender and round.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::child::median;
use crate::tables::{Goal, Ratios, right_from, table};

const SECURE: [&str; 5] = ["ours", "bare", "touch", "memset", "pattern"];
const BLOCK: [(&str, &str); 8] = [
    ("on-demand", "wasmtime, on demand"),
    ("pooling", "wasmtime, pooling"),
    ("pooling-tuned", "wasmtime, pooling, 4 GiB kept resident"),
    ("pooling-tuned-scan", "the same, with PAGEMAP_SCAN"),
    ("commit-maximum", "ours, `CommitMaximum`"),
    (
        "commit-maximum-by-page",
        "the same, the guest growing page by page",
    ),
    ("declared", "ours, `Declared`"),
    ("anew", "memory secured anew for each block"),
];
const RESET: [&str; 5] = ["high-water", "watermark", "everything", "memset", "scan"];
const BLOCK_SIZES: [u32; 5] = [0, 1, 10, 100, 1000];

/// Seconds by the clock and on the CPU, and page faults.
#[derive(Clone, Copy, Debug)]
struct Cost {
    seconds: f64,
    cpu_seconds: f64,
    faults: f64,
}

/// What was measured, by part, contender and MiB; medians over all rounds.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    costs: BTreeMap<(&'static str, &'static str, u32), Cost>,
    rounds: usize,
}

/// Measures everything, the contenders taking turns. `program` is the example.
pub(crate) fn measure(program: &Path, rounds: usize) -> Result<Measured> {
    let parts = SECURE.iter().map(|contender| ("secure", *contender));
    let parts = parts.chain(BLOCK.iter().map(|(contender, _)| ("block", *contender)));
    let parts: Vec<_> = parts
        .chain(RESET.iter().map(|contender| ("reset", *contender)))
        .collect();
    let mut samples: BTreeMap<_, Vec<Cost>> = BTreeMap::new();
    for round in 1..=rounds {
        for (part, contender) in &parts {
            eprintln!("round {round} of {rounds}: {part} {contender}");
            let output = Command::new(program)
                .args([part, contender])
                .stderr(Stdio::inherit())
                .output()
                .with_context(|| format!("starting {}", program.display()))?;
            ensure!(output.status.success(), "{part} {contender} failed");
            for line in String::from_utf8(output.stdout)?.lines() {
                let (mib, cost) = read(line).with_context(|| format!("reading {line:?}"))?;
                let place = (*part, *contender, mib);
                samples.entry(place).or_default().push(cost);
            }
        }
    }
    let middle =
        |costs: &[Cost], number: fn(&Cost) -> f64| median(costs.iter().map(number).collect());
    let costs = samples.into_iter().map(|(place, costs)| {
        let cost = Cost {
            seconds: middle(&costs, |cost| cost.seconds),
            cpu_seconds: middle(&costs, |cost| cost.cpu_seconds),
            faults: middle(&costs, |cost| cost.faults),
        };
        (place, cost)
    });
    Ok(Measured {
        costs: costs.collect(),
        rounds,
    })
}

/// A line of the example: what, MiB, seconds, seconds on the CPU, page faults.
fn read(line: &str) -> Result<(u32, Cost)> {
    let mut fields = line.split(' ').skip(1);
    let mut field = || fields.next().context("a field is missing");
    let mib = field()?.parse()?;
    let mut number = || -> Result<f64> { Ok(field()?.parse()?) };
    let cost = Cost {
        seconds: number()?,
        cpu_seconds: number()?,
        faults: number()?,
    };
    Ok((mib, cost))
}

impl Measured {
    fn cost(&self, part: &'static str, contender: &'static str, mib: u32) -> Option<Cost> {
        self.costs.get(&(part, contender, mib)).copied()
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if self.costs.is_empty() {
            return text;
        }
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n## The host: ratios\n\n{}\n\n\
             By time on the CPU; medians of {} rounds in which the contenders take turns, each in a \
             process of its own. What the pool is compared with under `(c)` is the memset, or the \
             memset and the scan for written pages, that it cannot do without.\n\n\
             ## The host: (a) making 4 GiB resident\n\n{}\n\n\
             ## The host: (b) a block\n\n{}\n\n\
             Milliseconds of CPU time to instantiate a module, let it write that many MiB, and drop \
             the instance; `faults` are the page faults that the guest took in doing so at 100 MiB, \
             any of which is where a host can be killed. The guest grows its memory by 1 MiB at a \
             time. Only ours have 4 GiB committed before they start.\n\n\
             ## The host: (c) taking 4 GiB back\n\n{}\n\n\
             Milliseconds of CPU time, by how many MiB were written. A guest that wrote 0 MiB costs \
             the watermark one scan.\n",
            self.ratios(),
            self.rounds,
            self.securing(),
            self.blocks(),
            self.resets(),
        );
        text
    }

    fn ratios(&self) -> String {
        let mut ratios = Ratios::new();
        let mut compare = |what: &str, one: Option<Cost>, other: Option<Cost>, goal| {
            if let (Some(one), Some(other)) = (one, other) {
                let by_clock = one.seconds / other.seconds;
                let is = one.cpu_seconds / other.cpu_seconds;
                ratios.add(what, is, Some(by_clock), goal);
            }
        };
        let secure = |contender| self.cost("secure", contender, 4096);
        let most = Goal::AtMost;
        compare(
            "(a) ours by the bare system calls: time",
            secure("ours"),
            secure("bare"),
            most(1.1),
        );
        compare(
            "(a) pattern, then zero by ours: time",
            secure("pattern"),
            secure("ours"),
            Goal::AtLeast(6.0),
        );
        for mib in [10, 100] {
            let block = |contender| self.cost("block", contender, mib);
            for (other, name, goal) in [
                ("on-demand", "on demand", 6.0),
                ("pooling", "pooling", 6.0),
                ("pooling-tuned", "pooling, tuned", 1.0),
                ("pooling-tuned-scan", "pooling, tuned, with scan", 1.0),
            ] {
                compare(
                    &format!("(b) {mib} MiB: {name} by `CommitMaximum`: time"),
                    block(other),
                    block("commit-maximum"),
                    Goal::AtLeast(goal),
                );
            }
            compare(
                &format!("(b) {mib} MiB: `Declared` by `CommitMaximum`: time"),
                block("declared"),
                block("commit-maximum"),
                most(1.5),
            );
        }
        for mib in [10, 100, 1000] {
            let memset = self.cost("reset", "memset", mib);
            compare(
                &format!("(c) {mib} MiB: high-water reset by memset: time"),
                self.cost("reset", "high-water", mib),
                memset,
                most(1.2),
            );
            let needed = memset.zip(self.cost("reset", "scan", 4096));
            let needed = needed.map(|(memset, scan)| Cost {
                seconds: memset.seconds + scan.seconds,
                cpu_seconds: memset.cpu_seconds + scan.cpu_seconds,
                faults: 0.0,
            });
            compare(
                &format!("(c) {mib} MiB: watermark reset by memset and scan: time"),
                self.cost("reset", "watermark", mib),
                needed,
                most(1.2),
            );
        }
        compare(
            "(c) 4096 MiB: full reset by memset: time",
            self.cost("reset", "everything", 4096),
            self.cost("reset", "memset", 4096),
            most(1.2),
        );
        ratios.text()
    }

    fn securing(&self) -> String {
        let mut table = table(&["way", "ms by the clock", "ms of CPU"]);
        for (contender, name) in SECURE.iter().zip([
            "ours: lock, checks, commit, look back",
            "the bare system calls of it",
            "one write per 4 KiB",
            "memset",
            "a pattern, then zeros",
        ]) {
            if let Some(cost) = self.cost("secure", contender, 4096) {
                table.add_row([
                    name.to_owned(),
                    milliseconds(cost.seconds),
                    milliseconds(cost.cpu_seconds),
                ]);
            }
        }
        right_from(&mut table, 1);
        table.to_string()
    }

    fn blocks(&self) -> String {
        let sizes = BLOCK_SIZES.map(|mib| format!("{mib} MiB"));
        let mut header = vec!["host"];
        header.extend(sizes.iter().map(String::as_str));
        header.push("faults");
        let mut table = table(&header);
        for (contender, name) in BLOCK {
            let mut row = vec![name.to_owned()];
            row.extend(BLOCK_SIZES.map(|mib| {
                let cost = self.cost("block", contender, mib);
                cost.map_or(String::new(), |cost| milliseconds(cost.cpu_seconds))
            }));
            let faults = self.cost("block", contender, 100).map(|cost| cost.faults);
            // The blocks of the last are over before they could be told from securing.
            let faults = faults.filter(|_| contender != "anew");
            row.push(faults.map_or(String::new(), |faults| format!("{faults:.0}")));
            table.add_row(row);
        }
        right_from(&mut table, 1);
        table.to_string()
    }

    fn resets(&self) -> String {
        let sizes = [0, 10, 100, 1000, 4096];
        let titles = sizes.map(|mib| format!("{mib} MiB"));
        let mut header = vec!["way"];
        header.extend(titles.iter().map(String::as_str));
        let mut table = table(&header);
        for (contender, name) in RESET.iter().zip([
            "ours, up to an enforced size",
            "ours, watermark and tracking",
            "ours, everything",
            "memset",
            "one scan of 4 GiB for written pages",
        ]) {
            let mut row = vec![name.to_owned()];
            row.extend(sizes.map(|mib| {
                let cost = self.cost("reset", contender, mib);
                cost.map_or(String::new(), |cost| milliseconds(cost.cpu_seconds))
            }));
            table.add_row(row);
        }
        right_from(&mut table, 1);
        table.to_string()
    }
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.3}", seconds * 1e3)
}
