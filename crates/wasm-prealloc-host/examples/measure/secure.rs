//! Making 4 GiB resident.

use anyhow::{Result, bail};
use wasm_prealloc_host::{Requirements, SecuredRegion};

use crate::bare::Mapping;
use crate::{Cost, GIB, MIB};

const BYTES: usize = 4 * GIB;

const ROUNDS: usize = 3;

pub(crate) fn measure(contender: &str) -> Result<()> {
    let mut costs = Vec::new();
    for _ in 0..ROUNDS {
        // A virtual machine gives memory that it does not use back to its host after a while, and
        // gets it anew by faults that are no part of what is compared: all begin with memory that
        // was in use a moment ago.
        Mapping::new(BYTES)?.collapse()?;
        costs.push(once(contender)?);
    }
    Cost::median(&costs).print(contender, BYTES / MIB);
    Ok(())
}

/// Makes 4 GiB resident. Giving them back is not measured.
fn once(contender: &str) -> Result<Cost> {
    let mut region = None;
    let mut mapping = None;
    Cost::of(|| {
        if contender == "ours" {
            region = Some(SecuredRegion::secure(&Requirements::default())?);
            return Ok(());
        }
        let bare = mapping.insert(Mapping::new(BYTES)?);
        match contender {
            "bare" => bare.collapse()?,
            "touch" => bare.touch(4096),
            "memset" => bare.fill(BYTES, 0),
            "pattern" => {
                bare.fill(BYTES, 0xa5);
                bare.fill(BYTES, 0);
            }
            other => bail!("no contender {other:?}"),
        }
        Ok(())
    })
}
