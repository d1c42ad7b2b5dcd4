//! The modules of a command line: files, stdin, and the modules below folders.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use crate::io::{Input, Module};

/// The extensions of modules below a folder.
const EXTENSIONS: [&str; 2] = ["wasm", "wat"];

/// A module of the command line.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) input: Input,
    /// Its path relative to the folder that was given, or its file name.
    pub(crate) relative: PathBuf,
    /// The reason why there is nothing to read: the folder cannot be listed, or has no module.
    pub(crate) refusal: Option<String>,
}

impl Item {
    /// Reads the module, or returns the reason why there is none.
    pub(crate) fn read(&self) -> Result<Module> {
        match &self.refusal {
            Some(refusal) => Err(anyhow!("{refusal}")),
            None => self.input.read(),
        }
    }
}

/// Returns all modules in the order of the command line. Those of a folder are sorted.
pub(crate) fn items(inputs: &[Input]) -> Result<Vec<Item>> {
    if inputs.iter().filter(|input| input.is_stdin()).count() > 1 {
        bail!("`-` is given twice, but stdin can be read only once");
    }
    Ok(inputs.iter().flat_map(items_of).collect())
}

fn items_of(input: &Input) -> Vec<Item> {
    let item = |input: Input, relative: &Path| Item {
        input,
        relative: relative.to_owned(),
        refusal: None,
    };
    let path = input.path().unwrap_or(Path::new(""));
    if !path.is_dir() {
        let name = path.file_name().map_or(path, Path::new);
        return vec![item(input.clone(), name)];
    }
    let mut found = Vec::new();
    let walked = walk(path, &mut HashSet::new(), &mut found);
    let refusal = match walked {
        Err(error) => format!("{error:#}"),
        Ok(()) if found.is_empty() => format!(
            "{}: this folder has no *.wasm and no *.wat, nor does any folder below it",
            path.display()
        ),
        Ok(()) => {
            found.sort();
            let items = found.iter().map(|file| {
                let relative = file.strip_prefix(path).unwrap_or(file);
                item(Input::from(file.clone().into_os_string()), relative)
            });
            return items.collect();
        }
    };
    vec![Item {
        input: input.clone(),
        relative: PathBuf::new(),
        refusal: Some(refusal),
    }]
}

/// Collects the modules below a folder. Each folder is entered once, so a cycle of symbolic links
/// ends.
fn walk(folder: &Path, seen: &mut HashSet<PathBuf>, found: &mut Vec<PathBuf>) -> Result<()> {
    let real = fs::canonicalize(folder).with_context(|| folder.display().to_string())?;
    if !seen.insert(real) {
        return Ok(());
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        paths.push(entry.with_context(|| folder.display().to_string())?.path());
    }
    // If two paths lead to one folder, the choice must not depend on the order of the listing.
    paths.sort();
    for path in paths {
        if path.is_dir() {
            walk(&path, seen, found)?;
        } else if is_module(&path) {
            found.push(path);
        }
    }
    Ok(())
}

fn is_module(path: &Path) -> bool {
    let is = |known: &&str| path.extension() == Some(known.as_ref());
    EXTENSIONS.iter().any(is)
}
