//! The reach of each memory: the declaration that gives its limits, the code that can grow it, and
//! the place where its growth is counted.

use std::collections::BTreeSet;

use wasmparser::{ExportSectionReader, ExternalKind};

use super::MemorySites;
use crate::analysis::module_info::ModuleInfo;
use crate::analysis::sections::id;
use crate::analysis::site::Sites;
use crate::analysis::wiring::Wiring;
use crate::analysis::wiring::group::{self, Hidden, Member};
use crate::analysis::{Analysis, Module};
use crate::error::{Error, Unsupported};
use crate::growth::GrowthHandling;
use crate::limits::{Memory, MemoryId};
use crate::rewrite::options::{EmulateFrom, Growth, MemoryImportPolicy, Options};

/// The code outside of the module, or of its component, that can reach a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// None: the module defines the memory and does not export it, or it belongs to a component.
    Private,
    /// The module defines and exports the memory.
    Exported,
    /// A core module imports the memory, and its definition is unknown.
    Imported,
}

/// The facts about a memory that depend on the code that can reach it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access<'m> {
    /// The declaration whose limits hold.
    pub(super) definition: &'m Memory,
    /// The module of that declaration; `None` for the memory's own module.
    pub(super) definer: Option<&'m ModuleInfo<'m>>,
    pub(super) reach: Reach,
    /// True if other modules may grow the memory and count its growth.
    pub(super) grown_elsewhere: bool,
    /// True if the growth is counted in the memory itself.
    pub(super) in_memory: bool,
}

/// The access to the memories of an input.
#[derive(Debug)]
pub(super) enum Sharing<'m> {
    Module {
        exported: BTreeSet<u32>,
        policy: MemoryImportPolicy,
    },
    Component {
        wiring: &'m Wiring,
        /// One entry for each group of the wiring.
        groups: Vec<Group<'m>>,
    },
}

/// The facts about a group of memories that are the same memory in some instance.
#[derive(Debug)]
pub(super) enum Group<'m> {
    /// Nothing is counted: no member is grown or measured, or the instructions stay.
    Unused {
        /// The definition with the smallest minimum; `None` if it is unknown.
        definition: Option<&'m Memory>,
        /// True if the component exports a core module with the memory.
        is_exported: bool,
    },
    /// A member is grown or measured. Its growth cannot be counted, because a member has links that
    /// cannot be seen, or because the definitions have different limits.
    Unsupported { what: Unsupported, offset: u64 },
    Known {
        definition: &'m Memory,
        definer: &'m ModuleInfo<'m>,
        is_grown: bool,
        /// True if one instance alone grows or measures the memory.
        is_alone: bool,
    },
}

impl<'m> Sharing<'m> {
    /// `sites` are those of each core module's memories.
    pub(super) fn read(
        analysis: &'m Analysis<'_>,
        options: &Options,
        sites: &[Vec<MemorySites>],
    ) -> Result<Self, Error> {
        if let [module] = analysis.modules.as_slice()
            && module.info.module.is_none()
        {
            return Ok(Self::Module {
                exported: exported_memories(&module.info)?,
                policy: options.memory_import,
            });
        }
        let modules = &analysis.modules;
        let wiring = analysis.wiring()?;
        if let Some(typed) = &wiring.typed_memory {
            return Err(Error::Unsupported {
                what: Unsupported::CoreModuleType {
                    memory: typed.name.clone(),
                },
                offset: typed.offset,
            });
        }
        let groups = wiring.groups().iter();
        let groups = groups.map(|group| match Group::new(group, modules, sites, options) {
            // The instructions stay, so no counter is needed.
            Group::Unsupported { .. } if options.growth == Growth::Keep => Group::Unused {
                definition: smallest_definition(group, modules),
                is_exported: false,
            },
            group => group,
        });
        Ok(Self::Component {
            groups: groups.collect(),
            wiring,
        })
    }

    pub(super) fn access(&self, memory: &'m Memory) -> Result<Access<'m>, Error> {
        match self {
            Self::Module { exported, policy } => access_in_module(memory, exported, *policy),
            Self::Component { wiring, groups } => {
                let group = wiring.group_of(memory.id);
                group.map_or(Ok(private(memory)), |group| groups[group].access(memory))
            }
        }
    }
}

impl<'m> Group<'m> {
    fn new(
        group: &group::Group,
        modules: &'m [Module<'m>],
        sites: &[Vec<MemorySites>],
        options: &Options,
    ) -> Self {
        let sites_of = |member: &Member| {
            let MemoryId { module, index } = member.memory;
            sites[module.unwrap_or(0) as usize][index as usize].count
        };
        let definition_of = |id: &MemoryId| {
            let info = &modules[id.module.unwrap_or(0) as usize].info;
            (&info.memories[id.index as usize].memory, info)
        };
        let mut used = group
            .members
            .iter()
            .filter(|member| sites_of(member) != Sites::default());
        let Some(first) = used.next() else {
            let is_exported = matches!(group.hidden, Some((_, Hidden::Exported)));
            return Self::Unused {
                definition: smallest_definition(group, modules),
                is_exported,
            };
        };
        if let Some((member, hidden)) = &group.hidden {
            let (memory, reason) = (*member, hidden.to_string());
            return Self::Unsupported {
                what: Unsupported::HiddenMemory { memory, reason },
                offset: definition_of(member).0.offset,
            };
        }
        let counts_already = |member: &Member| {
            let MemoryId { module, index } = member.memory;
            let growth = modules[module.unwrap_or(0) as usize]
                .provenance
                .growth(index);
            matches!(growth, Some(GrowthHandling::Emulated { .. }))
        };
        if group.members.iter().any(counts_already) {
            let memory = first.memory;
            return Self::Unsupported {
                what: Unsupported::HiddenMemory {
                    memory,
                    reason: "a core module that shares it was rewritten before".to_owned(),
                },
                offset: definition_of(&memory).0.offset,
            };
        }
        let mut definitions = group.definitions.iter().map(definition_of);
        let Some((definition, definer)) = definitions.next() else {
            return Self::Unused {
                definition: None,
                is_exported: false,
            };
        };
        let mut definers = definitions.clone();
        let limits = (definition.minimum, definition.maximum);
        if definitions.any(|(other, _)| (other.minimum, other.maximum) != limits) {
            let memory = first.memory;
            return Self::Unsupported {
                what: Unsupported::DifferentMemories { memory },
                offset: definition_of(&memory).0.offset,
            };
        }
        let differs = |info: &ModuleInfo<'_>| heap_base(info) != heap_base(definer);
        if options.emulate_from == EmulateFrom::HeapBase && definers.any(|(_, info)| differs(info))
        {
            let memory = first.memory;
            return Self::Unsupported {
                what: Unsupported::HiddenMemory {
                    memory,
                    reason: "it is linked to memories with different heap bases".to_owned(),
                },
                offset: definition_of(&memory).0.offset,
            };
        }
        Self::Known {
            definition,
            definer,
            is_grown: group.members.iter().any(|member| sites_of(member).grow > 0),
            is_alone: !first.repeated && used.next().is_none(),
        }
    }

    fn access(&self, memory: &'m Memory) -> Result<Access<'m>, Error> {
        match self {
            Self::Unused {
                definition,
                is_exported,
            } => Ok(Access {
                definition: definition.unwrap_or(memory),
                reach: match *is_exported && memory.import.is_none() {
                    true => Reach::Exported,
                    false => Reach::Private,
                },
                ..private(memory)
            }),
            Self::Known {
                definition,
                definer,
                is_grown,
                is_alone,
            } => Ok(Access {
                definition,
                definer: Some(definer),
                reach: Reach::Private,
                grown_elsewhere: *is_grown,
                in_memory: memory.shared || !is_alone,
            }),
            Self::Unsupported { what, offset } => Err(Error::Unsupported {
                what: what.clone(),
                offset: *offset,
            }),
        }
    }
}

fn heap_base(info: &ModuleInfo<'_>) -> Option<u64> {
    info.landmark("__heap_base").ok().flatten()
}

/// The definition of a group's memory with the smallest minimum.
fn smallest_definition<'m>(group: &group::Group, modules: &'m [Module<'m>]) -> Option<&'m Memory> {
    let definitions = group.definitions.iter().map(|id| {
        let info = &modules[id.module.unwrap_or(0) as usize].info;
        &info.memories[id.index as usize].memory
    });
    definitions.min_by_key(|memory| memory.minimum)
}

fn private(memory: &Memory) -> Access<'_> {
    Access {
        definition: memory,
        definer: None,
        reach: Reach::Private,
        grown_elsewhere: false,
        in_memory: memory.shared,
    }
}

fn access_in_module<'m>(
    memory: &'m Memory,
    exported: &BTreeSet<u32>,
    policy: MemoryImportPolicy,
) -> Result<Access<'m>, Error> {
    let is_import = memory.import.is_some();
    let define = policy == MemoryImportPolicy::Define;
    if is_import && define && memory.shared {
        return Err(Error::Unsupported {
            what: Unsupported::DefineShared { memory: memory.id },
            offset: memory.offset,
        });
    }
    let reach = match is_import {
        true if !define => Reach::Imported,
        false if !exported.contains(&memory.id.index) => Reach::Private,
        _ => Reach::Exported,
    };
    let may_be_shared = policy == MemoryImportPolicy::Keep && reach != Reach::Private;
    Ok(Access {
        reach,
        grown_elsewhere: may_be_shared,
        in_memory: memory.shared || may_be_shared,
        ..private(memory)
    })
}

/// The indices of the memories that a module exports.
fn exported_memories(info: &ModuleInfo<'_>) -> Result<BTreeSet<u32>, Error> {
    let Some(section) = info.section(id::EXPORT) else {
        return Ok(BTreeSet::new());
    };
    let read = || {
        let mut exported = BTreeSet::new();
        for export in ExportSectionReader::new(section.reader(info.wasm))? {
            let export = export?;
            if export.kind == ExternalKind::Memory {
                exported.insert(export.index);
            }
        }
        Ok(exported)
    };
    read().map_err(Error::malformed)
}
