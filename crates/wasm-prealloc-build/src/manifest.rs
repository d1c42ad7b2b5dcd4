//! The manifest: a JSON file beside the modules that records each module, its source and its
//! compiler. This file holds the layout, and reads what earlier builds have left.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use wasm_prealloc::Report;

use crate::{Error, Linking, Toolchain};

/// The version of the layout that [`Manifest`] describes. It rises when a field is removed or
/// changes its meaning, and not when a field is added.
pub const SCHEMA: u32 = 2;

/// The name of the manifest's file.
pub const FILE_NAME: &str = "manifest.json";

/// `manifest.json`. The rewrite of a module has the same fields as in the output of
/// `wasm-prealloc rewrite --json`, and `docs/json.md` describes all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Manifest {
    /// The layout's version, [`SCHEMA`].
    pub schema: u32,
    /// The modules, sorted by name.
    pub guests: Vec<BuiltGuest>,
}

/// A module that was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BuiltGuest {
    /// The name of the package's `cdylib`, or of its binary if it has no `cdylib`.
    pub name: String,
    /// The package that it was built from.
    pub package: String,
    /// The module's file, relative to the manifest's folder.
    pub file: String,
    /// The SHA-256 digest of the file, in lower-case hexadecimal.
    pub sha256: String,
    /// The way it was linked.
    pub linking: Linking,
    /// The linker arguments that ask for the limits of the module's memory. Only `--max-memory`
    /// reaches the linker, and the rewriter declares the minimum.
    pub link_args: Vec<String>,
    /// The rewrite of the linked module. Without a rewrite, nothing differs before and after.
    #[serde(flatten)]
    pub report: Report,
    /// The compiler that built it.
    pub toolchain: Toolchain,
}

impl Manifest {
    /// Reads the manifest in a folder of built modules.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Read`] if it does not exist or cannot be read, [`Error::Manifest`] if it
    /// does not parse, and [`Error::ManifestSchema`] if its layout has another version.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(FILE_NAME);
        let text = std::fs::read(&path).map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
        // The schema is read first, because another layout may not parse as this one.
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

    /// Returns the entry of a module by its name.
    pub fn guest(&self, name: &str) -> Option<&BuiltGuest> {
        self.guests.iter().find(|guest| guest.name == name)
    }

    /// Returns the entries of earlier builds whose files still exist.
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

    /// Returns a manifest of a build and of earlier builds. The new entry of a module replaces the
    /// earlier one.
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
