//! The benchmarks of the host: securing memory, running blocks in it, and taking it back. Each is
//! compared with the bare system calls or with the engine's own memory.

mod block;
mod memory;
mod report;
mod reset;
mod secure;

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::child::measure_in_child;
use crate::cost::{Cost, Row};

pub(crate) use report::Measured;
use report::{BLOCK, RESET, SECURE};

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
    let parts: [(_, &'static [_]); 3] = [("secure", &SECURE), ("block", &BLOCK), ("reset", &RESET)];
    let parts = parts.iter().flat_map(|(part, contenders)| {
        let contenders = contenders.iter();
        contenders.map(|(contender, _)| (*part, *contender))
    });
    let mut samples: BTreeMap<_, Vec<Cost>> = BTreeMap::new();
    for round in 1..=rounds {
        for (part, contender) in parts.clone() {
            eprintln!("round {round} of {rounds}: {part} {contender}");
            let rows: Vec<Row> =
                measure_in_child(["host".as_ref(), part.as_ref(), contender.as_ref()])?;
            for (mib, cost) in rows {
                let key = (part, contender, mib);
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
