//! Arguments and results of a component's function: numbers and booleans.

use anyhow::{Context as _, Result, bail};
use wasmtime::component::{Type, Val};

use super::check_count;

/// Parses the arguments of a component's function.
pub(in crate::run) fn arguments(
    given: &[String],
    types: impl ExactSizeIterator<Item = Type>,
) -> Result<Vec<Val>> {
    check_count(given, types.len())?;
    let pairs = given.iter().zip(types);
    pairs
        .map(|(text, ty)| parse(text, &ty).context("cannot read its arguments"))
        .collect()
}

fn parse(text: &str, ty: &Type) -> Result<Val> {
    Ok(match ty {
        Type::Bool => Val::Bool(text.parse()?),
        Type::S8 => Val::S8(text.parse()?),
        Type::U8 => Val::U8(text.parse()?),
        Type::S16 => Val::S16(text.parse()?),
        Type::U16 => Val::U16(text.parse()?),
        Type::S32 => Val::S32(text.parse()?),
        Type::U32 => Val::U32(text.parse()?),
        Type::S64 => Val::S64(text.parse()?),
        Type::U64 => Val::U64(text.parse()?),
        Type::Float32 => Val::Float32(text.parse()?),
        Type::Float64 => Val::Float64(text.parse()?),
        _ => bail!("takes a value that is no number, which `run` cannot pass"),
    })
}

/// Returns a result of a component's function as text.
pub(in crate::run) fn show(value: &Val) -> String {
    match value {
        Val::Bool(value) => value.to_string(),
        Val::S8(value) => value.to_string(),
        Val::U8(value) => value.to_string(),
        Val::S16(value) => value.to_string(),
        Val::U16(value) => value.to_string(),
        Val::S32(value) => value.to_string(),
        Val::U32(value) => value.to_string(),
        Val::S64(value) => value.to_string(),
        Val::U64(value) => value.to_string(),
        Val::Float32(value) => value.to_string(),
        Val::Float64(value) => value.to_string(),
        Val::String(value) => value.clone(),
        other => format!("{other:?}"),
    }
}
