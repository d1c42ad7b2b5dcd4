//! Rewrites a module so that every memory has one size, and growth still works within it.
//!
//! The steps: `decide` about each memory, `plan` the edits, apply them as one patch, and `validate`
//! the result. Bytes that no edit names are copied unchanged.

pub(crate) mod decide;
pub(crate) mod options;
pub(crate) mod plan;
pub(crate) mod report;
mod validate;

use std::borrow::Cow;

use wasmparser::BinaryReaderError;

use crate::analysis::Analysis;
use crate::error::Error;
use options::{Options, Validate};
use plan::Plan;
use report::{Report, Rewritten};

/// Declares the size in `options` as the minimum and the maximum of every memory, and keeps the
/// module working. [`Growth`](crate::Growth) describes the handling of `memory.grow` and
/// `memory.size`.
///
/// Additions are at the end of their index spaces, so nothing is renumbered, and everything else is
/// copied byte for byte. Rewriting the result again changes nothing. One thing differs afterwards:
/// an access between the size that the module sees and the end of the memory no longer traps.
///
/// # Errors
/// Returns an error if the input is not a valid module or component, if the start of its growth is
/// unknown ([`Error::ImportedMemoryGrows`], [`Error::ImportedStartUnknown`]), if its data does not
/// fit into the memory at instantiation ([`Error::DataAboveMinimum`]), if its shape is unsupported
/// ([`Error::Unsupported`]), or if the options do not fit it.
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
    Analysis::new(wasm)?.rewrite(options)
}

/// Rewrites like [`rewrite()`] and replaces the contents of `output` with the result. With one
/// buffer for many modules, the operating system provides the memory only once. For a large module,
/// providing it takes half of the time.
///
/// # Errors
/// Returns the same errors as [`rewrite()`]; the buffer is empty then.
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
    Analysis::new(wasm)?.rewrite_into(options, output)
}

impl<'a> Analysis<'a> {
    /// Rewrites the input, like [`rewrite()`].
    ///
    /// # Errors
    /// Returns the same errors as [`rewrite()`].
    pub fn rewrite(&self, options: &Options) -> Result<Rewritten<'a>, Error> {
        let mut plan = self.plan(options)?;
        let output = if plan.patch.is_unchanged() {
            Cow::Borrowed(self.wasm)
        } else {
            let mut output = Vec::new();
            self.apply(&plan, options, &mut output)?;
            Cow::Owned(output)
        };
        let offset_map = std::mem::take(&mut plan.offset_map);
        let report = plan.into_report(self.wasm.len(), output.len());
        Ok(Rewritten {
            wasm: output,
            report,
            offset_map,
        })
    }

    /// Rewrites the input into a buffer, like [`rewrite_into()`].
    ///
    /// # Errors
    /// Returns the same errors as [`rewrite()`]; the buffer is empty then.
    pub fn rewrite_into(&self, options: &Options, output: &mut Vec<u8>) -> Result<Report, Error> {
        output.clear();
        let plan = self.plan(options)?;
        if plan.patch.is_unchanged() {
            output.extend_from_slice(self.wasm);
        } else if let Err(error) = self.apply(&plan, options, output) {
            // An invalid output is discarded.
            output.clear();
            return Err(error);
        }
        Ok(plan.into_report(self.wasm.len(), output.len()))
    }

    /// Validates the input as far as the options require, and plans its rewrite.
    fn plan(&self, options: &Options) -> Result<Plan<'_>, Error> {
        self.validate(options)?;
        Plan::new(self, options)
    }

    /// Validates the input as far as the options require.
    pub(crate) fn validate(&self, options: &Options) -> Result<(), Error> {
        match options.validate {
            Validate::Full => validate::validate_input(self.wasm, options),
            Validate::Changed => Ok(()),
        }
    }

    /// Appends the output to an empty buffer, and validates it.
    fn apply(&self, plan: &Plan<'_>, options: &Options, output: &mut Vec<u8>) -> Result<(), Error> {
        plan.patch.apply_into(self.wasm, output);
        match self.check(plan, options, output) {
            // An invalid part may have been copied from an input that was not validated.
            Err(_) if options.validate == Validate::Changed => {
                validate::validate_input(self.wasm, options)?;
                self.check(plan, options, output)
            }
            checked => checked,
        }
    }

    /// Validates the output as far as the options require.
    fn check(&self, plan: &Plan<'_>, options: &Options, output: &[u8]) -> Result<(), Error> {
        let invalid = |error: BinaryReaderError| Error::OutputInvalid {
            offset: error.offset(),
            message: error.message().to_owned(),
        };
        let changed = &plan.changed;
        validate::validate_changed(output, changed, options.features).map_err(invalid)?;
        if options.validate == Validate::Full {
            let difference = validate::first_difference(self.wasm, output, changed);
            if let Some(offset) = difference.map_err(invalid)? {
                return Err(Error::OutputInvalid {
                    offset,
                    message: "a function body differs that must not change".to_owned(),
                });
            }
        }
        Ok(())
    }
}
