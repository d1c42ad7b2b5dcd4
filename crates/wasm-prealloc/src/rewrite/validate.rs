//! Validates inputs and outputs, as much of them as is needed to know that the output is valid.
//!
//! What changed in an output is validated as it stands, with the sections that it needs. What did
//! not change is valid because the input is, and because all that was added stands at the end of
//! its index space: so for the whole output it suffices to validate the whole input, and to compare
//! the bodies that should be its own with those that are. That is one pass over the code and not
//! two.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use wasmparser::{
    Chunk, Encoding, FuncToValidate, FuncValidatorAllocations, FunctionBody, Parser, Payload,
    ValidPayload, Validator, ValidatorResources, WasmFeatures, WasmModuleResources as _,
};

use crate::map::{self, sized, to_range};

/// What of a core module changed, as far as validation asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touched {
    /// Functions that the input defines.
    pub(crate) known: u32,
    /// Those of them whose bodies change, by position among the defined ones, ascending.
    pub(crate) bodies: Vec<u32>,
    /// Bytes of other bodies in front of each of them, and behind the last.
    pub(crate) gaps: Vec<usize>,
    /// Whether exports are added.
    pub(crate) exports_added: bool,
}

/// Whatever can be read can be rewritten, so every proposal is allowed.
fn validator() -> Validator {
    Validator::new_with_features(WasmFeatures::all())
}

/// A function whose body is still to be validated.
type Pending<'a> = (FuncToValidate<ValidatorResources>, FunctionBody<'a>);

/// Validates a whole module or component, functions on all processors where there are threads.
pub(crate) fn validate_all(wasm: &[u8]) -> wasmparser::Result<()> {
    let mut validator = validator();
    let mut pending: VecDeque<Pending<'_>> = VecDeque::new();
    for payload in Parser::new(0).parse_all(wasm) {
        if let ValidPayload::Func(function, body) = validator.payload(&payload?)? {
            pending.push_back((function, body));
        }
    }
    validate_functions(pending)
}

/// Less code than this is validated faster than a thread is started.
const BYTES_A_THREAD: usize = 256 << 10;

fn validate_functions(pending: VecDeque<Pending<'_>>) -> wasmparser::Result<()> {
    let bytes: usize = pending.iter().map(|(_, body)| body.as_bytes().len()).sum();
    let threads = match cfg!(target_family = "wasm") {
        true => 1,
        false => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let threads = threads.min(bytes / BYTES_A_THREAD).max(1);
    let queue = Mutex::new(Queue {
        pending,
        first_error: None,
    });
    let work = || {
        let mut allocations = FuncValidatorAllocations::default();
        while let Some(batch) = next_batch(&queue) {
            for (function, body) in batch {
                let mut function = function.into_validator(allocations);
                let result = function.validate(&body);
                allocations = function.into_allocations();
                if let Err(error) = result {
                    report(&queue, error);
                    return;
                }
            }
        }
    };
    if threads == 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
    }
    let queue = queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    queue.first_error.map_or(Ok(()), Err)
}

/// What the threads share.
struct Queue<'a> {
    pending: VecDeque<Pending<'a>>,
    /// Of the errors found, that at the least offset.
    first_error: Option<wasmparser::BinaryReaderError>,
}

/// Some functions to validate; `None` where there are no more.
fn next_batch<'a>(queue: &Mutex<Queue<'a>>) -> Option<Vec<Pending<'a>>> {
    const FUNCTIONS: usize = 64;
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    let count = queue.pending.len().min(FUNCTIONS);
    let batch: Vec<_> = queue.pending.drain(..count).collect();
    (!batch.is_empty()).then_some(batch)
}

/// Notes an error, and lets the others stop once what stands before it is done: batches are handed
/// out in order, so the first error of all is among those noted.
fn report(queue: &Mutex<Queue<'_>>, error: wasmparser::BinaryReaderError) {
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    queue.pending.clear();
    let first = queue.first_error.as_ref();
    if first.is_none_or(|first| error.offset() < first.offset()) {
        queue.first_error = Some(error);
    }
}

/// Validates what may have changed in an output: its sections, and the bodies that are not as they
/// were. The core modules are given in order.
///
/// Of a core module, sections that no edit touches are first left out where changed bodies seldom
/// need them; each of their entries would be looked at. Where that finds fault, the whole decides.
pub(crate) fn validate_changed(wasm: &[u8], modules: &[Touched]) -> wasmparser::Result<()> {
    if Parser::is_core_wasm(wasm)
        && let [module] = modules
        && let Ok(true) = is_valid_module(wasm, module)
    {
        return Ok(());
    }
    validate_sections(wasm, modules)
}

/// Whether a core module is found valid without its seldom needed sections.
fn is_valid_module(wasm: &[u8], module: &Touched) -> wasmparser::Result<bool> {
    let mut validator = validator();
    let mut parser = Parser::new(0);
    let mut at = 0;
    loop {
        let Chunk::Parsed { consumed, payload } = parser.parse(&wasm[at..], true)? else {
            return Ok(false);
        };
        at += consumed;
        match &payload {
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
            _ if is_needed(&payload, module) => {
                validator.payload(&payload)?;
            }
            _ => {}
        }
    }
}

/// Whether those bodies of a code section that are not as they were are found valid. All others are
/// passed over: not even their lengths are read, because what was just written is far from the
/// processor, and there are tens of thousands.
fn are_valid_bodies(
    validator: &mut Validator,
    wasm: &[u8],
    section: Range<usize>,
    module: &Touched,
) -> wasmparser::Result<bool> {
    let mut reader = map::reader(wasm, section.clone());
    let count = reader.read_var_u32()?;
    let mut at = reader.original_position() as usize;
    let mut gaps = module.gaps.iter();
    let mut first = None;
    let mut allocations = FuncValidatorAllocations::default();
    for defined in module.bodies.iter().copied().chain(module.known..count) {
        if let Some(gap) = gaps.next() {
            at = at.saturating_add(*gap);
        }
        let content = sized(&wasm[..section.end], at)?;
        at = content.end;
        let body = FunctionBody::new(map::reader(wasm, content));
        // The validator takes the first that it is shown for the first of all.
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
        let mut function = function.into_validator(allocations);
        function.validate(&body)?;
        allocations = function.into_allocations();
    }
    Ok(gaps.fold(at, |at, gap| at.saturating_add(*gap)) == section.end)
}

/// Whether a part of a module is needed to validate bodies, or may have changed. The end compares
/// data segments with their announced number.
fn is_needed(payload: &Payload<'_>, module: &Touched) -> bool {
    match payload {
        Payload::ExportSection(_) => module.exports_added,
        Payload::ElementSection(_) | Payload::DataSection(_) => false,
        _ => true,
    }
}

/// Validates all sections, and the bodies that are not as they were.
fn validate_sections(wasm: &[u8], modules: &[Touched]) -> wasmparser::Result<()> {
    let mut validator = validator();
    let mut allocations = FuncValidatorAllocations::default();
    let mut bodies = Bodies::new(modules);
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        bodies.see(&payload);
        if let ValidPayload::Func(function, body) = validator.payload(&payload)?
            && bodies.next_is_changed()
        {
            let mut function = function.into_validator(allocations);
            function.validate(&body)?;
            allocations = function.into_allocations();
        }
    }
    Ok(())
}

/// The first body, by its offset in the output, that should be as it was in the input and is not.
pub(crate) fn first_difference(
    input: &[u8],
    output: &[u8],
    modules: &[Touched],
) -> wasmparser::Result<Option<u64>> {
    let mut originals = code_bodies(input);
    let mut bodies = Bodies::new(modules);
    for payload in Parser::new(0).parse_all(output) {
        let payload = payload?;
        bodies.see(&payload);
        let Payload::CodeSectionEntry(body) = payload else {
            continue;
        };
        let is_added = bodies.next_is_added();
        let changed = bodies.next_is_changed();
        if is_added {
            continue;
        }
        let original = originals.next().transpose()?;
        let same = original.is_some_and(|original| original.as_bytes() == body.as_bytes());
        if !changed && !same {
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

/// Tells, body by body in the order of an output, what is known of each.
struct Bodies<'t> {
    modules: std::slice::Iter<'t, Touched>,
    known: u32,
    touched: &'t [u32],
    next: u32,
}

impl<'t> Bodies<'t> {
    fn new(modules: &'t [Touched]) -> Self {
        Self {
            modules: modules.iter(),
            known: 0,
            touched: &[],
            next: 0,
        }
    }

    /// A new module begins its count anew.
    fn see(&mut self, payload: &Payload<'_>) {
        if let Payload::Version {
            encoding: Encoding::Module,
            ..
        } = payload
            && let Some(module) = self.modules.next()
        {
            self.known = module.known;
            self.touched = &module.bodies;
            self.next = 0;
        }
    }

    /// Whether the next body is that of an added function.
    fn next_is_added(&self) -> bool {
        self.next >= self.known
    }

    /// Whether the next body is not as it was; counts it.
    fn next_is_changed(&mut self) -> bool {
        let index = self.next;
        self.next += 1;
        match self.touched.split_first() {
            Some((first, rest)) if *first == index => {
                self.touched = rest;
                true
            }
            _ => index >= self.known,
        }
    }
}
