//! Arguments and results of a core module's function.

use anyhow::{Context as _, Result, bail};
use wasmtime::{Val, ValType};

use super::check_count;

/// Parses the arguments of a function of a core module.
pub(in crate::run) fn arguments(
    given: &[String],
    types: impl ExactSizeIterator<Item = ValType>,
) -> Result<Vec<Val>> {
    check_count(given, types.len())?;
    let pairs = given.iter().zip(types);
    pairs
        .map(|(text, ty)| {
            Ok(match ty {
                // An integer may be written as signed or as unsigned.
                ValType::I32 => {
                    let unsigned = text.parse().map(u32::cast_signed);
                    Val::I32(unsigned.or_else(|_| text.parse())?)
                }
                ValType::I64 => {
                    let unsigned = text.parse().map(u64::cast_signed);
                    Val::I64(unsigned.or_else(|_| text.parse())?)
                }
                ValType::F32 => Val::F32(text.parse::<f32>()?.to_bits()),
                ValType::F64 => Val::F64(text.parse::<f64>()?.to_bits()),
                other => bail!("takes a {other}, which cannot be written on a command line"),
            })
        })
        .map(|read| read.context("cannot read its arguments"))
        .collect()
}

/// Returns a result of a core module's function as text.
pub(in crate::run) fn show(value: &Val) -> String {
    match value {
        Val::I32(value) => value.to_string(),
        Val::I64(value) => value.to_string(),
        Val::F32(bits) => f32::from_bits(*bits).to_string(),
        Val::F64(bits) => f64::from_bits(*bits).to_string(),
        other => format!("{other:?}"),
    }
}
