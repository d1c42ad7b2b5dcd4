//! The results of the evaluation: groups of memories that are linked.

use std::fmt;

use crate::limits::MemoryId;

/// Memories of core modules that are the same memory in some instance, directly or through others.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// The members that a module defines, sorted. Empty if all members are imported.
    pub(crate) definitions: Vec<MemoryId>,
    /// All members, sorted.
    pub(crate) members: Vec<Member>,
    /// The first member with a link that cannot be seen, and the reason.
    pub(crate) hidden: Option<(MemoryId, Hidden)>,
}

/// A memory of a core module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) memory: MemoryId,
    /// True if the module is instantiated more than once with the same memory for this import.
    pub(crate) repeated: bool,
}

/// A reason for which a link of a memory cannot be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// It is linked to a core module that the component imports, or that an imported component
    /// contains.
    ImportedModule {
        /// The name of the component's import.
        name: String,
        /// The offset of the import.
        offset: u64,
    },
    /// The component exports the core module that imports or exports it.
    Exported,
    /// It is an import of a core module that the component does not instantiate.
    NotInstantiated,
    /// The component has too many instances to evaluate them all.
    TooManyInstances,
}

impl fmt::Display for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ImportedModule { name, offset } => write!(
                f,
                "it is linked to a core module that the component imports (`{name}` at offset \
                 {offset:#x})"
            ),
            Self::Exported => f.write_str("the component exports its core module"),
            Self::NotInstantiated => {
                f.write_str("the component does not instantiate the core module that imports it")
            }
            Self::TooManyInstances => f.write_str("the component has too many instances"),
        }
    }
}

/// A memory that the type of a core module imports or exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TypedMemory {
    /// The name of the export, or the two names of the import.
    pub(crate) name: String,
    /// The offset of the type that contains the module's type.
    pub(crate) offset: u64,
}
