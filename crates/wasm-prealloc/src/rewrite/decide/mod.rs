//! Decides about each memory: its limits, and the handling of the instructions that grow and measure
//! it. `plan` turns the decisions into edits, and `inspect` shows them.

mod checks;
mod sharing;
mod table;

use super::options::{MemoryImportPolicy, Options};
use super::report::{MemoryReport, Warning};
use crate::analysis::module_info::MappedMemory;
use crate::analysis::site::{FirstSites, Sites};
use crate::analysis::{Analysis, Module};
use crate::error::{Error, Unsupported};
use crate::growth::GrowthHandling;
use crate::limits::Memory;
pub(super) use checks::signature_warning;
use sharing::Sharing;
use table::Subject;

/// The decision about a memory.
#[derive(Debug)]
pub(crate) struct MemoryPlan<'m> {
    pub(crate) before: &'m MappedMemory,
    /// The memory as the output declares it.
    pub(crate) after: Memory,
    pub(crate) growth: GrowthHandling,
    sites: Sites,
}

impl MemoryPlan<'_> {
    pub(crate) fn report(&self) -> MemoryReport {
        MemoryReport {
            before: self.before.memory.clone(),
            after: self.after.clone(),
            growth: self.growth.clone(),
            sites: self.sites,
        }
    }
}

/// The decisions for one core module.
#[derive(Debug)]
pub(crate) struct Decisions<'m> {
    /// One entry for each memory, in index order.
    pub(crate) memories: Vec<MemoryPlan<'m>>,
    pub(crate) warnings: Vec<Warning>,
}

/// The instructions of a module that grow or measure one memory.
#[derive(Clone, Copy, Debug)]
struct MemorySites {
    count: Sites,
    first: FirstSites,
}

pub(crate) fn decide<'m>(
    analysis: &'m Analysis<'_>,
    options: &Options,
) -> Result<Vec<Decisions<'m>>, Error> {
    checks::check_input(analysis, options)?;
    let mut sites = Vec::new();
    for module in &analysis.modules {
        let counts = module.count_sites()?.into_iter();
        let counts = counts.map(|(count, first)| MemorySites { count, first });
        sites.push(counts.collect::<Vec<_>>());
        // Malformed types are reported before any refusal.
        if !module.info.memories.is_empty() {
            module.types()?;
        }
    }
    let sharing = Sharing::read(analysis, options, &sites)?;
    let modules = analysis.modules.iter().zip(&sites);
    modules
        .map(|(module, sites)| decide_module(module, sites, &sharing, options))
        .collect()
}

fn decide_module<'m>(
    module: &'m Module<'_>,
    sites: &[MemorySites],
    sharing: &Sharing<'m>,
    options: &Options,
) -> Result<Decisions<'m>, Error> {
    let mut decisions = Decisions {
        memories: Vec::new(),
        warnings: Vec::new(),
    };
    let mut next_global = module.info.next_global();
    let mut next_function = module.info.next_function();
    for (mapped, sites) in module.info.memories.iter().zip(sites) {
        let memory = &mapped.memory;
        let access = sharing.access(memory)?;
        let subject = Subject {
            module,
            memory,
            target: checks::target(memory, access.definition, options)?,
            sites,
            access,
            options,
            global: next_global,
            function: next_function,
        };
        subject.check_repinning()?;
        if subject.access.definition.minimum != subject.target {
            let unknown = checks::check_data(module, memory, &subject.access)?;
            decisions.warnings.extend(unknown);
        }
        if let Some(start) = subject.given_start() {
            if access.definition.import.is_none() {
                checks::check_start_above_minimum(memory, access.definition, start)?;
            }
            checks::check_start_above_data(module, memory, start)?;
        }
        let (growth, warning) = subject.choose()?;
        let (globals, functions) = growth.additions();
        next_global += globals;
        next_function += functions;
        decisions.warnings.extend(warning);
        decisions.memories.push(MemoryPlan {
            before: mapped,
            after: after(mapped, subject.target, options)?,
            growth,
            sites: sites.count,
        });
    }
    Ok(decisions)
}

/// The memory as the output declares it.
fn after(mapped: &MappedMemory, target: u64, options: &Options) -> Result<Memory, Error> {
    let before = &mapped.memory;
    let mut after = before.clone();
    after.minimum = target;
    after.maximum = Some(target);
    if options.memory_import == MemoryImportPolicy::Define {
        after.import = None;
    }
    let changes = (before.minimum, before.maximum) != (after.minimum, after.maximum);
    if mapped.entry.is_none() && changes {
        return Err(Error::Unsupported {
            what: Unsupported::CompactImport { memory: before.id },
            offset: before.offset,
        });
    }
    Ok(after)
}
