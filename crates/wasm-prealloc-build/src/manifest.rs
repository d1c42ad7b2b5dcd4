//! The manifest: what was built, from what, by which compiler, as one JSON file beside the modules.
//! Holds the layout, and reading what earlier builds left. Writing it to disk is in `lib.rs`.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Linking, Toolchain};

/// The version of the layout that [`Manifest`] describes. It rises when a field's meaning changes
/// or a field goes away; a field that is added does not raise it.
pub const SCHEMA: u32 = 1;

/// The name of the manifest's file.
pub const FILE_NAME: &str = "manifest.json";

/// `manifest.json`: one object with `schema` and `guests`, in the order of the guests' names.
///
/// ```json
/// {
///   "schema": 1,
///   "guests": [
///     {
///       "name": "minimal",
///       "package": "minimal",
///       "file": "minimal.wasm",
///       "sha256": "64 hexadecimal digits",
///       "linking": "pinned",
///       "link_args": ["--initial-memory=4294967296", "--max-memory=4294967296"],
///       "bytes_before": 300,
///       "bytes_after": 300,
///       "memories": [
///         {
///           "index": 0,
///           "minimum_pages": 65536,
///           "maximum_pages": 65536,
///           "growth": { "handling": "none" },
///           "size_sites": 0,
///           "grow_sites": 0
///         }
///       ],
///       "warnings": [],
///       "toolchain": {
///         "rustc": "rustc 1.95.0",
///         "host": "x86_64-unknown-linux-gnu",
///         "target": "wasm32-unknown-unknown"
///       }
///     }
///   ]
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Manifest {
    /// The layout's version, [`SCHEMA`].
    pub schema: u32,
    /// The modules, sorted by name.
    pub guests: Vec<BuiltGuest>,
}

/// One module that was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BuiltGuest {
    /// The name of the package's `cdylib`, or of its binary where it has no `cdylib`.
    pub name: String,
    /// The package that it was built from.
    pub package: String,
    /// The module's file, in the manifest's own folder.
    pub file: String,
    /// SHA-256 of that file, in lower-case hexadecimal.
    pub sha256: String,
    /// The way it was linked.
    pub linking: Linking,
    /// The linker arguments that declare the limits of the module's memory. The build passes only
    /// `--max-memory` to the linker, and the rewriter declares the minimum.
    pub link_args: Vec<String>,
    /// The size of the linked module, in bytes.
    pub bytes_before: u64,
    /// The size of the file written, in bytes.
    pub bytes_after: u64,
    /// Its linear memories, by index.
    pub memories: Vec<BuiltMemory>,
    /// What was done and may not be wanted, one line each.
    pub warnings: Vec<String>,
    /// The compiler that built it.
    pub toolchain: Toolchain,
}

/// A linear memory of a module that was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BuiltMemory {
    /// Its index in the module.
    pub index: u32,
    /// The minimum that the written module declares, in pages of 64 KiB.
    pub minimum_pages: u64,
    /// The maximum that the written module declares, in pages of 64 KiB; `null` for none.
    pub maximum_pages: Option<u64>,
    /// What became of the module's growth.
    pub growth: BuiltGrowth,
    /// How many `memory.size` instructions the linked module has for it.
    pub size_sites: u64,
    /// How many `memory.grow` instructions the linked module has for it.
    pub grow_sites: u64,
}

impl BuiltMemory {
    pub(crate) fn new(
        declared: &wasm_prealloc::Memory,
        sites: &wasm_prealloc::Sites,
        growth: BuiltGrowth,
    ) -> Self {
        Self {
            index: declared.id.index,
            minimum_pages: declared.minimum,
            maximum_pages: declared.maximum,
            growth,
            size_sites: sites.size as u64,
            grow_sites: sites.grow as u64,
        }
    }
}

/// What became of a memory's growth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "handling", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum BuiltGrowth {
    /// The module neither reads the size nor grows.
    None,
    /// The module counts its own size, inside a memory that is all there.
    Emulated {
        /// The size in pages that the module sees at its start.
        from_pages: u64,
        /// The size in pages that it can grow to.
        cap_pages: u64,
    },
    /// The module sees a memory that has been grown for it.
    Pregrown {
        /// The size in pages that it sees.
        pages: u64,
    },
    /// The instructions are as they were linked.
    Kept,
    /// A way of handling growth that has no name in this schema.
    Other,
}

impl From<&wasm_prealloc::GrowthHandling> for BuiltGrowth {
    fn from(handling: &wasm_prealloc::GrowthHandling) -> Self {
        use wasm_prealloc::GrowthHandling;
        match *handling {
            GrowthHandling::None => Self::None,
            GrowthHandling::Emulated {
                from_pages,
                cap_pages,
                ..
            } => Self::Emulated {
                from_pages,
                cap_pages,
            },
            GrowthHandling::Pregrown { pages, .. } => Self::Pregrown { pages },
            GrowthHandling::Kept => Self::Kept,
        }
    }
}

impl Manifest {
    /// Reads the manifest in a folder of built modules.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] where there is none or it cannot be read, [`Error::Manifest`] where it does
    /// not parse, and [`Error::ManifestSchema`] where its layout is another one.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(FILE_NAME);
        let text = std::fs::read(&path).map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
        // Before the rest, because another schema may well not parse as this one.
        #[derive(Deserialize)]
        struct Layout {
            schema: u32,
        }
        let invalid = |source| Error::Manifest {
            path: path.clone(),
            source,
        };
        let Layout { schema: found } = serde_json::from_slice(&text).map_err(invalid)?;
        if found != SCHEMA {
            return Err(Error::ManifestSchema {
                path,
                found,
                expected: SCHEMA,
            });
        }
        serde_json::from_slice(&text).map_err(invalid)
    }

    /// The entry of a module by its name.
    pub fn guest(&self, name: &str) -> Option<&BuiltGuest> {
        self.guests.iter().find(|guest| guest.name == name)
    }

    /// What earlier builds left in a folder: the entries whose files are still there.
    pub(crate) fn surviving(folder: &Path) -> Result<Vec<BuiltGuest>, Error> {
        let earlier = match Self::read(folder) {
            Ok(manifest) => manifest,
            Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let mut guests = earlier.guests;
        guests.retain(|guest| folder.join(&guest.file).is_file());
        Ok(guests)
    }

    /// A manifest of what was just built and of what is still there, the former winning.
    pub(crate) fn merged(built: Vec<BuiltGuest>, earlier: Vec<BuiltGuest>) -> Self {
        let mut guests = built;
        for guest in earlier {
            if !guests.iter().any(|other| other.name == guest.name) {
                guests.push(guest);
            }
        }
        guests.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            schema: SCHEMA,
            guests,
        }
    }
}
