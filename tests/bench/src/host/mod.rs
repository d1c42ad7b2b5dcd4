//! The benchmarks of the host: securing memory, running blocks in it, and taking it back. Each is
//! compared with the bare system calls or with the engine's own memory.

mod block;
mod memory;
mod report;
mod reset;
mod secure;

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::cost::Cost;
use crate::measure_in_child;

pub(crate) use report::Measured;

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// A size in MiB, and the cost of the work at that size.
type Row = (usize, Cost);

const SECURE: [&str; 5] = ["ours", "bare", "touch", "memset", "pattern"];
const BLOCK: [(&str, &str); 8] = [
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
    ("anew", "memory secured again for each block"),
];
const RESET: [&str; 5] = ["high-water", "watermark", "everything", "memset", "scan"];

/// Measures one contender in this process.
pub(crate) fn measure_one(part: &str, contender: &str) -> Result<Vec<Row>> {
    match part {
        "secure" => secure::measure(contender),
        "block" => block::measure(contender),
        "reset" => reset::measure(contender),
        other => bail!("no part {other:?}"),
    }
}

/// Measures every contender, each in a separate process. The contenders take turns.
pub(crate) fn measure(rounds: usize) -> Result<Measured> {
    let parts = SECURE.iter().map(|contender| ("secure", *contender));
    let parts = parts.chain(BLOCK.iter().map(|(contender, _)| ("block", *contender)));
    let parts: Vec<_> = parts
        .chain(RESET.iter().map(|contender| ("reset", *contender)))
        .collect();
    let mut samples: BTreeMap<_, Vec<Cost>> = BTreeMap::new();
    for round in 1..=rounds {
        for (part, contender) in &parts {
            eprintln!("round {round} of {rounds}: {part} {contender}");
            let rows: Vec<Row> =
                measure_in_child(["host".as_ref(), part.as_ref(), contender.as_ref()])?;
            for (mib, cost) in rows {
                let key = (*part, *contender, mib);
                samples.entry(key).or_default().push(cost);
            }
        }
    }
    let medians = samples.into_iter();
    let costs = medians.map(|(key, costs)| (key, Cost::median(&costs)));
    Ok(Measured {
        costs: costs.collect(),
        rounds,
    })
}
