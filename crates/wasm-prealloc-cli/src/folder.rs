//! The modules of a command line: files, stdin, and the modules below folders.

use std::collections::HashSet;
use std::fs::{self, FileType};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use serde::Serialize;

use crate::input::{Input, Limit, Module, special_kind};

/// The extensions of modules below a folder.
const EXTENSIONS: [&str; 2] = ["wasm", "wat"];

/// All modules, in the order of the command line, and the special files in folders that have the name
/// of a module.
#[derive(Debug, Default)]
pub(crate) struct Items {
    pub(crate) modules: Vec<Item>,
    pub(crate) skipped: Vec<Skipped>,
}

/// A module of the command line.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) input: Input,
    /// Its path relative to the folder that was given, or its file name.
    pub(crate) relative: PathBuf,
    /// The reason why it is not processed: a folder cannot be listed or has no module, or the output
    /// would replace another file.
    pub(crate) refusal: Option<String>,
}

/// A pipe, a socket or a device in a folder. Reading it could wait forever.
#[derive(Debug, Serialize)]
pub(crate) struct Skipped {
    pub(crate) input: String,
    input_bytes: Option<String>,
    pub(crate) message: String,
}

impl Item {
    /// Reads the module, or returns the reason why there is none.
    pub(crate) fn read(&self, limit: Limit) -> Result<Module> {
        match &self.refusal {
            Some(refusal) => Err(anyhow!("{}: {refusal}", self.input.name())),
            None => self.input.read(limit),
        }
    }
}

/// Returns all modules in the order of the command line. Those of a folder are sorted.
pub(crate) fn items(inputs: &[Input]) -> Result<Items> {
    if inputs.iter().filter(|input| input.is_stdin()).count() > 1 {
        bail!("`-` is given twice, but stdin can be read only once");
    }
    let mut items = Items::default();
    for input in inputs {
        let path = input.path().unwrap_or(Path::new(""));
        if path.is_dir() {
            items.add_folder(input, path);
        } else {
            items.modules.push(Item {
                input: input.clone(),
                relative: path.file_name().map_or(path, Path::new).to_owned(),
                refusal: None,
            });
        }
    }
    Ok(items)
}

impl Items {
    fn add_folder(&mut self, input: &Input, folder: &Path) {
        let mut found = walk(folder);
        if found.is_empty() {
            let refusal = "neither this folder nor any folder below it has a *.wasm or *.wat file";
            found.push((folder.to_owned(), Found::Refused(refusal.to_owned())));
        }
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (path, found) in found {
            let relative = path.strip_prefix(folder).unwrap_or(&path).to_owned();
            let input = match relative == Path::new("") {
                true => input.clone(),
                false => Input::from(path.into_os_string()),
            };
            let refusal = match found {
                Found::Module => None,
                Found::Refused(why) => Some(why),
                Found::Special(kind) => {
                    self.skipped.push(Skipped {
                        input: input.name(),
                        input_bytes: input.name_bytes(),
                        message: format!(
                            "skipped, because it is {kind} in a folder: give it by its own name to \
                             read it"
                        ),
                    });
                    continue;
                }
            };
            self.modules.push(Item {
                input,
                relative,
                refusal,
            });
        }
    }
}

/// A module in a folder, or the reason for which a folder or file is not read.
enum Found {
    Module,
    /// A folder that cannot be listed, and the reason.
    Refused(String),
    /// An entry with a module's name that is neither a file nor a folder, and its kind.
    Special(&'static str),
}

/// Returns what is found below a folder. Each folder is entered once, so a cycle of symbolic links
/// ends.
fn walk(folder: &Path) -> Vec<(PathBuf, Found)> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    // A list instead of recursion, because a folder may be deeper than the stack.
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = identity(&folder).and_then(|identity| match seen.insert(identity) {
            true => list(&folder),
            false => Ok(Vec::new()),
        });
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                found.push((folder, Found::Refused(error.to_string())));
                continue;
            }
        };
        let mut below = Vec::new();
        for (path, kind) in entries {
            if kind.is_dir() || kind.is_symlink() && path.is_dir() {
                below.push(path);
            } else if is_module(&path) {
                // A link has the kind of its target.
                let target = fs::metadata(&path).map_or(kind, |metadata| metadata.file_type());
                found.push((
                    path,
                    special_kind(target).map_or(Found::Module, Found::Special),
                ));
            }
        }
        // The first folder is entered next.
        folders.extend(below.into_iter().rev());
    }
    found
}

/// Returns the device and the number of a folder. That takes one system call. Resolving the symbolic
/// links of a path would take one for each of its parts.
#[cfg(unix)]
fn identity(folder: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(folder)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Returns the path of a folder without symbolic links.
#[cfg(not(unix))]
fn identity(folder: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(folder)
}

/// Returns the paths in a folder and their kinds, sorted: if two paths lead to one folder, the choice
/// must not depend on the order of the listing.
fn list(folder: &Path) -> io::Result<Vec<(PathBuf, FileType)>> {
    let entries = fs::read_dir(folder)?.map(|entry| {
        let entry = entry?;
        Ok((entry.path(), entry.file_type()?))
    });
    let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(entries)
}

fn is_module(path: &Path) -> bool {
    let is = |known: &&str| path.extension() == Some(known.as_ref());
    EXTENSIONS.iter().any(is)
}
