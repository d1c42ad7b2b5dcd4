//! Making 4 GiB resident, once.

use anyhow::{Result, bail};
use wasm_prealloc_host::{Requirements, SecuredRegion};

use crate::bare::Mapping;
use crate::{Cost, GIB, MIB};

const BYTES: usize = 4 * GIB;

pub(crate) fn measure(contender: &str) -> Result<()> {
    let mut region = None;
    let mut mapping = None;
    let cost = Cost::of(|| {
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
    })?;
    cost.print(contender, BYTES / MIB);
    Ok(())
}
