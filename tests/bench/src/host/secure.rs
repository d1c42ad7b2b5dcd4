//! (a) Making 4 GiB resident.

use anyhow::{Result, bail};
use wasm_prealloc_host::bare::collapse;
use wasm_prealloc_host::{Requirements, SecuredRegion};

use super::memory::{GIB, MIB, Memory};
use crate::cost::{Cost, Row};

const BYTES: usize = 4 * GIB;
const ROUNDS: usize = 3;

pub(super) fn measure(contender: &str) -> Result<Vec<Row>> {
    let cost = Cost::repeated(0, ROUNDS, || {
        // A virtual machine returns unused memory to its host after a while. The faults that get it
        // back are not part of the comparison, so each round starts with memory that was in use a
        // moment ago.
        collapse(Memory::new(BYTES).bytes())?;
        once(contender)
    });
    Ok(vec![(BYTES / MIB, cost?)])
}

/// Makes 4 GiB resident. Releasing them is not measured.
fn once(contender: &str) -> Result<Cost> {
    let mut region = None;
    let mut memory = None;
    Cost::of(|| {
        if contender == "ours" {
            region = Some(SecuredRegion::secure(&Requirements::default())?);
            return Ok(());
        }
        let memory = memory.insert(Memory::new(BYTES));
        match contender {
            "bare" => collapse(memory.bytes())?,
            "touch" => memory.touch(4096),
            "memset" => memory.fill(BYTES, 0),
            "pattern" => {
                memory.fill(BYTES, 0xa5);
                memory.fill(BYTES, 0);
            }
            other => bail!("no contender {other:?}"),
        }
        Ok(())
    })
}
