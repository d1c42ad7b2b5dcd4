//! Refusals: inputs whose output would not behave as the input does, however growth is handled.

use super::sharing::Access;
use crate::analysis::module_info::ModuleInfo;
use crate::analysis::{Analysis, Module};
use crate::error::{Error, Unsupported};
use crate::limits::{Memory, WASM_PAGE_SIZE};
use crate::rewrite::options::Options;
use crate::rewrite::report::Warning;

/// The custom sections that only object files have (tool conventions, "Linking").
const LINKING: &str = "linking";
const RELOCATIONS: &str = "reloc.";

/// The custom sections of module signatures, as wasmsign and its successors write them.
const SIGNATURES: [&str; 2] = ["signature", "signature_delimiter"];

/// Refuses inputs that would not work after any rewrite.
pub(super) fn check_input(analysis: &Analysis<'_>, options: &Options) -> Result<(), Error> {
    for module in &analysis.modules {
        check_linked(&module.info)?;
    }
    for memory in options.memory_pages.keys() {
        analysis.check_has(*memory)?;
    }
    if options.export_commit.is_none() {
        return Ok(());
    }
    let component = analysis.modules.iter().find(|m| m.info.module.is_some());
    match component {
        Some(module) => Err(Error::Unsupported {
            what: Unsupported::CommitInComponent,
            offset: module.info.range.start as u64,
        }),
        None if analysis.memories().next().is_none() => Err(Error::NothingToCommit),
        None => Ok(()),
    }
}

fn check_linked(info: &ModuleInfo<'_>) -> Result<(), Error> {
    let is_of_object = |name: &str| name == LINKING || name.starts_with(RELOCATIONS);
    match info.customs().find(|(_, name, _)| is_of_object(name)) {
        Some((section, name, _)) => Err(Error::Unsupported {
            what: Unsupported::RelocatableObject {
                section: name.to_owned(),
            },
            offset: section.start() as u64,
        }),
        None => Ok(()),
    }
}

/// The warning for a module that has a signature.
pub(in crate::rewrite) fn signature_warning(info: &ModuleInfo<'_>) -> Option<Warning> {
    let mut names = info.customs().map(|(_, name, _)| name);
    let section = names.find(|name| SIGNATURES.contains(name))?.to_owned();
    Some(Warning::SignatureInvalidated { section })
}

/// The size that a memory will have, in its own pages: that of its definition. The limits are
/// checked here, because no validation of the output sees limits that are overwritten.
pub(super) fn target(
    memory: &Memory,
    definition: &Memory,
    options: &Options,
) -> Result<u64, Error> {
    let invalid = |message: String| {
        Err(Error::Invalid {
            offset: memory.offset,
            message: format!("{}: {message}", memory.id),
        })
    };
    let pages = options.pages_of(definition.id);
    let most = memory.most_pages();
    let minimum = memory.minimum;
    let maximum = memory.maximum.unwrap_or(most);
    if minimum > maximum {
        return invalid(format!(
            "its minimum of {minimum} pages exceeds its maximum of {maximum}"
        ));
    }
    if maximum > most {
        return invalid(format!("its maximum of {maximum} pages exceeds {most}"));
    }
    if let Some(own) = options.memory_pages.get(&memory.id)
        && *own != pages
    {
        return Err(Error::LinkedMemoryPages {
            memory: memory.id,
            definition: definition.id,
            pages,
        });
    }
    let Some(target) = memory.in_own_pages(pages).filter(|_| pages > 0) else {
        let most = u128::from(most) << memory.page_log2() >> WASM_PAGE_SIZE.ilog2();
        return Err(Error::PagesOutOfRange {
            memory: definition.id,
            pages,
            most: most as u64,
        });
    };
    let minimum = minimum.max(definition.minimum);
    if minimum > target {
        let bytes = u128::from(minimum) << memory.page_log2();
        return Err(Error::MinimumExceedsTarget {
            memory: definition.id,
            offset: definition.offset,
            pages,
            least: bytes.div_ceil(WASM_PAGE_SIZE.into()) as u64,
        });
    }
    Ok(target)
}

/// Refuses active data above the size that the memory has at instantiation. Returns a warning for
/// data whose address is unknown.
pub(super) fn check_data(
    module: &Module<'_>,
    memory: &Memory,
    access: &Access<'_>,
) -> Result<Option<Warning>, Error> {
    let definition = access.definition;
    let is_foreign = definition.import.is_some();
    // The definition is unknown. It may provide more pages than an import's minimum, but no more than
    // its maximum.
    let most = match is_foreign {
        true => definition.maximum,
        false => Some(definition.minimum),
    };
    let Some(pages) = most else {
        return Ok(None);
    };
    let bytes = u128::from(pages) << memory.page_log2();
    let mut unknown = None;
    for (index, segment) in (0..).zip(module.data()?) {
        if segment.memory != Some(memory.id.index) {
            continue;
        }
        match segment.address {
            None if unknown.is_none() && !is_foreign => {
                unknown = Some(Warning::DataAddressUnknown {
                    memory: memory.id,
                    segment: index,
                });
            }
            None => {}
            Some(address) => {
                let end = u128::from(address) + segment.bytes as u128;
                if end > bytes {
                    return Err(Error::DataAboveMinimum {
                        memory: memory.id,
                        segment: index,
                        data_end: u64::try_from(end).unwrap_or(u64::MAX),
                        pages,
                    });
                }
            }
        }
    }
    Ok(unknown)
}

/// Refuses to let growth start below the minimum that is declared where the memory is defined. The
/// minimum of a pinned memory says nothing about where growth started before it was pinned.
pub(super) fn check_start_above_minimum(
    memory: &Memory,
    definition: &Memory,
    start: u64,
) -> Result<(), Error> {
    match start < definition.minimum && !definition.is_pinned() {
        true => Err(Error::StartBelowMinimum {
            memory: memory.id,
            from: start,
            minimum: definition.minimum,
        }),
        false => Ok(()),
    }
}

/// Refuses to let growth start below the end of the module's data.
pub(super) fn check_start_above_data(
    module: &Module<'_>,
    memory: &Memory,
    start: u64,
) -> Result<(), Error> {
    let segments = module.data()?.iter();
    let placed = segments.filter(|segment| segment.memory == Some(memory.id.index));
    let ends = placed.filter_map(|segment| segment.end());
    let data_end = ends.max().unwrap_or(0);
    let least = data_end.div_ceil(1 << memory.page_log2());
    match start < least {
        true => Err(Error::StartBelowData {
            memory: memory.id,
            from: start,
            data_end,
            least,
        }),
        false => Ok(()),
    }
}
