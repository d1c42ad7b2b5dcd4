//! Rewrites a module so that its memory has one size, and growth goes on working within it.
//!
//! The way through: bytes, map, plan, edits, splice, bytes. What no edit names is copied as it is.

mod assemble;
mod body;
mod commit;
mod component;
mod donor;
mod growth;
mod names;
mod options;
mod plan;
mod report;
mod splice;
mod validate;

use std::borrow::Cow;

use crate::error::Error;
use component::{Input, Planned, plan_input};

pub use options::{EmulateFrom, Growth, MemoryImportPolicy, Options, UnknownValue, Validate};
pub use report::{CodeOffsets, GrowthHandling, MemoryReport, Report, Rewritten, Warning};

/// Gives a module's memory the size that `options` ask for, as its minimum and its maximum, and
/// keeps the module working: see [`Growth`] for what becomes of `memory.grow` and `memory.size`.
///
/// What is added stands at the end of its index space, so that nothing is renumbered, and what is
/// not concerned is copied byte for byte. Rewriting the result again changes nothing. One thing
/// differs afterwards: an access between the size that the module sees and the memory's real end
/// no longer traps.
///
/// # Errors
/// The input is refused where it is no valid module or component, where its growth cannot be counted
/// in one place ([`Error::ImportedMemoryGrows`], [`Error::SharedMemoryGrows`],
/// [`Error::ComponentSharesMemory`]), where it has a shape that cannot be handled
/// ([`Error::Unsupported`]), or where the options do not fit it.
///
/// ```
/// use wasm_prealloc::{GrowthHandling, Options, rewrite};
///
/// let module = wat::parse_str(
///     "(module (memory 2 100) (func (result i32) (memory.grow (i32.const 1))))",
/// )?;
/// let rewritten = rewrite(&module, &Options::default())?;
///
/// let memory = &rewritten.report.memories[0];
/// assert_eq!((memory.after.minimum, memory.after.maximum), (65_536, Some(65_536)));
/// let GrowthHandling::Emulated { from_pages, cap_pages, .. } = memory.growth else { panic!() };
/// assert_eq!((from_pages, cap_pages), (2, 100));
///
/// let again = rewrite(&rewritten.wasm, &Options::default())?;
/// assert_eq!(again.wasm, rewritten.wasm);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn rewrite<'a>(wasm: &'a [u8], options: &Options) -> Result<Rewritten<'a>, Error> {
    let planned = plan_checked(wasm, options)?;
    let output = if planned.edits.is_unchanged() {
        Cow::Borrowed(wasm)
    } else {
        let mut output = Vec::new();
        apply_checked(wasm, &planned, options, &mut output)?;
        Cow::Owned(output)
    };
    let report = planned.into_report(wasm.len(), output.len());
    Ok(Rewritten {
        wasm: output,
        report,
    })
}

/// As [`rewrite`], into a buffer of the caller's, in place of what it held. With one buffer for
/// many modules, the memory is taken from the operating system only once, which otherwise is half
/// of the time that a large module takes.
///
/// # Errors
/// As [`rewrite`]; the buffer is empty then.
///
/// ```
/// use wasm_prealloc::{Options, rewrite, rewrite_into};
///
/// let mut output = Vec::new();
/// for text in ["(module (memory 2 100))", "(module (memory 1))"] {
///     let module = wat::parse_str(text)?;
///     let report = rewrite_into(&module, &Options::default(), &mut output)?;
///     assert_eq!(report.bytes_after, output.len());
///     assert_eq!(output, *rewrite(&module, &Options::default())?.wasm);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn rewrite_into(wasm: &[u8], options: &Options, output: &mut Vec<u8>) -> Result<Report, Error> {
    output.clear();
    let planned = plan_checked(wasm, options)?;
    if planned.edits.is_unchanged() {
        output.extend_from_slice(wasm);
    } else if let Err(error) = apply_checked(wasm, &planned, options, output) {
        // What is not valid is for nobody to use.
        output.clear();
        return Err(error);
    }
    Ok(planned.into_report(wasm.len(), output.len()))
}

/// Plans the rewrite of an input that is as valid as the options ask.
fn plan_checked(wasm: &[u8], options: &Options) -> Result<Planned, Error> {
    let input = Input::read(wasm)?;
    if options.validate == Validate::Full {
        validate::validate_all(wasm).map_err(|error| Error::Invalid {
            offset: error.offset(),
            message: error.message().to_owned(),
        })?;
    }
    plan_input(&input, options)
}

/// Appends the output to an empty buffer, and validates it.
fn apply_checked(
    wasm: &[u8],
    planned: &Planned,
    options: &Options,
    output: &mut Vec<u8>,
) -> Result<(), Error> {
    planned.edits.apply_into(wasm, output);
    check_output(wasm, output, &planned.touched, options.validate)
}

/// Never gives an output away that is not valid.
fn check_output(
    input: &[u8],
    output: &[u8],
    touched: &[validate::Touched],
    validate: Validate,
) -> Result<(), Error> {
    let invalid = |error: wasmparser::BinaryReaderError| Error::OutputInvalid {
        offset: error.offset(),
        message: error.message().to_owned(),
    };
    validate::validate_changed(output, touched).map_err(invalid)?;
    if validate == Validate::Full
        && let Some(offset) = validate::first_difference(input, output, touched).map_err(invalid)?
    {
        return Err(Error::OutputInvalid {
            offset,
            message: "a function body differs that should not".to_owned(),
        });
    }
    Ok(())
}

/// What [`rewrite`] would make of each memory, without making it.
pub(crate) fn preview(wasm: &[u8], options: &Options) -> Result<Vec<MemoryReport>, Error> {
    plan_input(&Input::read(wasm)?, options).map(|planned| planned.memories)
}
