//! Validates inputs and outputs, as much of them as is needed to know that the output is valid.
//!
//! The changed parts of an output are validated, with the sections that they need. The other parts
//! are valid because the input is, and because all additions are at the end of their index spaces.
//! To validate the whole output it is therefore enough to validate the whole input, and to compare
//! the bodies that must not change. That is one pass over the code instead of two.

use std::num::NonZero;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread::Builder;

use wasmparser::{
    BinaryReaderError, Chunk, Encoding, FuncToValidate, FuncValidatorAllocations, FunctionBody,
    Parser, Payload, ValidPayload, Validator, ValidatorResources, WasmFeatures,
    WasmModuleResources as _,
};

use super::options::{Features, Options};
use crate::analysis::sections::{reader, sized, to_range};
use crate::error::Error;

/// The changes of a core module that validation depends on.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChangedBodies {
    /// The number of functions that the input defines.
    pub(crate) known: u32,
    /// The positions among the defined functions of those whose bodies change, ascending.
    pub(crate) bodies: Vec<u32>,
    /// The number of bytes of unchanged bodies before each changed body, and after the last.
    pub(crate) gaps: Vec<usize>,
    /// True if exports are added.
    pub(crate) exports_added: bool,
}

impl Features {
    fn of_validator(self) -> WasmFeatures {
        match self {
            Self::Stable => WasmFeatures::default() | WasmFeatures::LEGACY_EXCEPTIONS,
            Self::All => WasmFeatures::all(),
        }
    }
}

fn validator(features: Features) -> Validator {
    Validator::new_with_features(features.of_validator())
}

/// Validates a whole module or component, with the features and threads of the options.
pub(crate) fn validate_input(wasm: &[u8], options: &Options) -> Result<(), Error> {
    let validate = |features| validate_all(wasm, features, options.threads);
    let Err(error) = validate(options.features) else {
        return Ok(());
    };
    let offset = error.offset();
    let message = error.message().to_owned();
    // An input that is invalid in any case is reported as such.
    let is_unstable = options.features != Features::All && validate(Features::All).is_ok();
    Err(match is_unstable {
        true => Error::UnstableFeature { offset, message },
        false => Error::Invalid { offset, message },
    })
}

/// A function whose body is not validated yet.
type Pending<'a> = (FuncToValidate<ValidatorResources>, FunctionBody<'a>);

/// The most functions, and the most bytes of code, that are validated together. More would need
/// memory for each function of the module.
const BATCH_FUNCTIONS: usize = 1 << 16;
const BATCH_BYTES: usize = 64 << 20;

/// Validates a whole module or component. The functions are validated by several threads, where
/// there are threads.
fn validate_all(
    wasm: &[u8],
    features: Features,
    threads: Option<NonZero<usize>>,
) -> wasmparser::Result<()> {
    let mut validator = validator(features);
    let mut pending: Vec<Pending<'_>> = Vec::new();
    let mut bytes = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        if let ValidPayload::Func(function, body) = validator.payload(&payload?)? {
            bytes += body.as_bytes().len();
            pending.push((function, body));
            if pending.len() == BATCH_FUNCTIONS || bytes >= BATCH_BYTES {
                validate_functions(std::mem::take(&mut pending), bytes, threads)?;
                bytes = 0;
            }
        }
    }
    validate_functions(pending, bytes, threads)
}

/// The amount of code that is validated faster than a thread is started.
const BYTES_A_THREAD: usize = 256 << 10;

/// Validates functions with `bytes` bytes of code. `threads` is the most threads that work on them;
/// `None` for as many as there are processors.
fn validate_functions(
    pending: Vec<Pending<'_>>,
    bytes: usize,
    threads: Option<NonZero<usize>>,
) -> wasmparser::Result<()> {
    let threads = match (cfg!(target_family = "wasm"), threads) {
        (true, _) => 1,
        (false, Some(threads)) => threads.get(),
        (false, None) => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let threads = threads.min(bytes / BYTES_A_THREAD).max(1);
    let queue = Mutex::new(pending.into_iter());
    let work = || {
        const BATCH: usize = 64;
        let mut allocations = FuncValidatorAllocations::default();
        loop {
            let mut pending = queue.lock().unwrap_or_else(PoisonError::into_inner);
            let batch: Vec<_> = pending.by_ref().take(BATCH).collect();
            drop(pending);
            if batch.is_empty() {
                return Ok(());
            }
            for (function, body) in batch {
                validate_body(function, &body, &mut allocations)?;
            }
        }
    };
    let results = std::thread::scope(|scope| {
        // This thread does the work of those that the system refuses to start.
        let start = |_| Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads).map_while(start).collect();
        let mut results = vec![work()];
        for other in others {
            results.push(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        results
    });
    // Batches are taken in order, and each thread stops at the first error in its batch. So the
    // first error of the module is among those found.
    let errors = results.into_iter().filter_map(Result::err);
    let first = errors.min_by_key(BinaryReaderError::offset);
    first.map_or(Ok(()), Err)
}

fn validate_body(
    function: FuncToValidate<ValidatorResources>,
    body: &FunctionBody<'_>,
    allocations: &mut FuncValidatorAllocations,
) -> wasmparser::Result<()> {
    let mut function = function.into_validator(std::mem::take(allocations));
    function.validate(body)?;
    *allocations = function.into_allocations();
    Ok(())
}

/// Validates the parts of an output that may have changed: its sections, and the changed bodies.
/// `modules` has an entry for each core module, in order.
///
/// For a core module, sections that no edit changes and that bodies seldom need are left out at
/// first, because validation looks at each of their entries. If that fails, everything is validated.
pub(crate) fn validate_changed(
    wasm: &[u8],
    modules: &[ChangedBodies],
    features: Features,
) -> wasmparser::Result<()> {
    if Parser::is_core_wasm(wasm)
        && let [module] = modules
        && let Ok(true) = is_valid_module(wasm, module, features)
    {
        return Ok(());
    }
    validate_sections(wasm, modules, features)
}

/// Returns true if a core module is valid without the sections that are seldom needed.
fn is_valid_module(
    wasm: &[u8],
    module: &ChangedBodies,
    features: Features,
) -> wasmparser::Result<bool> {
    let mut validator = validator(features);
    let mut parser = Parser::new(0);
    let mut at = 0;
    loop {
        let Chunk::Parsed { consumed, payload } = parser.parse(&wasm[at..], true)? else {
            return Ok(false);
        };
        at += consumed;
        match &payload {
            // The validator would compare the data segments with their declared number.
            Payload::End(_) => return Ok(true),
            Payload::CodeSectionStart {
                unchecked_range, ..
            } => {
                validator.payload(&payload)?;
                let range = to_range(unchecked_range);
                at = range.end;
                if at > wasm.len() || !are_valid_bodies(&mut validator, wasm, range, module)? {
                    return Ok(false);
                }
                parser.skip_section();
            }
            Payload::ExportSection(_) if !module.exports_added => {}
            Payload::ElementSection(_) | Payload::DataSection(_) => {}
            _ => {
                validator.payload(&payload)?;
            }
        }
    }
}

/// Returns true if the changed bodies of a code section are valid. The others are skipped by the
/// gaps between the changed ones. Their lengths are not read, because there may be tens of thousands
/// and the output is not in the processor's caches.
fn are_valid_bodies(
    validator: &mut Validator,
    wasm: &[u8],
    section: Range<usize>,
    module: &ChangedBodies,
) -> wasmparser::Result<bool> {
    let mut section_reader = reader(wasm, section.clone());
    let count = section_reader.read_var_u32()?;
    let mut at = section_reader.original_position() as usize;
    let mut gaps = module.gaps.iter();
    let mut first = None;
    let mut allocations = FuncValidatorAllocations::default();
    for defined in module.bodies.iter().copied().chain(module.known..count) {
        if let Some(gap) = gaps.next() {
            at = at.saturating_add(*gap);
        }
        let content = sized(&wasm[..section.end], at)?;
        at = content.end;
        let body = FunctionBody::new(reader(wasm, content));
        // The validator takes the first body that it gets for the first of the module.
        let first: &FuncToValidate<_> = match &first {
            Some(first) => first,
            None => first.insert(validator.code_section_entry(&body)?),
        };
        let index = first.index + defined;
        let Some(ty) = first.resources.type_index_of_function(index) else {
            return Ok(false);
        };
        let function = FuncToValidate {
            resources: first.resources.clone(),
            index,
            ty,
            features: first.features,
        };
        validate_body(function, &body, &mut allocations)?;
    }
    Ok(gaps.fold(at, |at, gap| at.saturating_add(*gap)) == section.end)
}

/// Validates all sections, and the changed bodies.
fn validate_sections(
    wasm: &[u8],
    modules: &[ChangedBodies],
    features: Features,
) -> wasmparser::Result<()> {
    let mut validator = validator(features);
    let mut allocations = FuncValidatorAllocations::default();
    let mut states = BodyStates::new(modules);
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        let state = states.next(&payload);
        if let ValidPayload::Func(function, body) = validator.payload(&payload)?
            && state != Some(BodyState::Unchanged)
        {
            validate_body(function, &body, &mut allocations)?;
        }
    }
    Ok(())
}

/// Returns the offset in the output of the first body that must not change and differs from the
/// input's.
pub(crate) fn first_difference(
    input: &[u8],
    output: &[u8],
    modules: &[ChangedBodies],
) -> wasmparser::Result<Option<u64>> {
    let mut originals = code_bodies(input);
    let mut states = BodyStates::new(modules);
    for payload in Parser::new(0).parse_all(output) {
        let payload = payload?;
        let state = states.next(&payload);
        let Payload::CodeSectionEntry(body) = payload else {
            continue;
        };
        if state == Some(BodyState::Added) {
            continue;
        }
        let original = originals.next().transpose()?;
        let same = original.is_some_and(|original| original.as_bytes() == body.as_bytes());
        if state == Some(BodyState::Unchanged) && !same {
            return Ok(Some(body.range().start));
        }
    }
    Ok(None)
}

fn code_bodies(wasm: &[u8]) -> impl Iterator<Item = wasmparser::Result<FunctionBody<'_>>> {
    let payloads = Parser::new(0).parse_all(wasm);
    payloads.filter_map(|payload| match payload {
        Ok(Payload::CodeSectionEntry(body)) => Some(Ok(body)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

/// A body of an output, compared with the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    Unchanged,
    Changed,
    Added,
}

/// Gives the state of each body of an output, in order.
struct BodyStates<'t> {
    modules: std::slice::Iter<'t, ChangedBodies>,
    module: Option<&'t ChangedBodies>,
    next: u32,
}

impl<'t> BodyStates<'t> {
    fn new(modules: &'t [ChangedBodies]) -> Self {
        Self {
            modules: modules.iter(),
            module: None,
            next: 0,
        }
    }

    /// The state of the body in a payload. Restarts the count where a core module begins.
    fn next(&mut self, payload: &Payload<'_>) -> Option<BodyState> {
        let index = self.next;
        match payload {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } => {
                self.module = self.modules.next();
                self.next = 0;
                return None;
            }
            Payload::CodeSectionEntry(_) => self.next += 1,
            _ => return None,
        }
        Some(match self.module {
            Some(module) if module.bodies.binary_search(&index).is_ok() => BodyState::Changed,
            Some(module) if index < module.known => BodyState::Unchanged,
            _ => BodyState::Added,
        })
    }
}
