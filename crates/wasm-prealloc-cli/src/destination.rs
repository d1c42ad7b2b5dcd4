//! Where rewritten modules go. What would lose a module is refused here, before anything is read.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::folder::Item;
use crate::io::Output;

/// The flags that say where modules go.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Destination {
    /// Write the one module to FILE; `-` is stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Write each module to DIR, under its own name; those of a folder keep their places below it
    #[arg(long, value_name = "DIR")]
    out_dir: Option<PathBuf>,

    /// Write each module back to where it was read
    #[arg(long)]
    in_place: bool,
}

impl Destination {
    /// Where each item goes.
    pub(crate) fn outputs(&self, items: &[Item]) -> Result<Vec<Output>> {
        if let Some(output) = &self.output {
            if items.len() > 1 {
                bail!("`-o` takes one input: use `--out-dir` or `--in-place` for several");
            }
            return Ok(vec![Output::from_path(output)]);
        }
        let outputs: Vec<Output> = items
            .iter()
            .map(|item| self.output_of(item))
            .collect::<Result<_>>()?;
        refuse_losses(items, &outputs)?;
        if let Some(dir) = &self.out_dir {
            make(dir)?;
        }
        Ok(outputs)
    }

    fn output_of(&self, item: &Item) -> Result<Output> {
        let flag = match self.out_dir {
            Some(_) => "--out-dir",
            None => "--in-place",
        };
        let path = item
            .input
            .path()
            .with_context(|| format!("stdin has no name for `{flag}`: use `-o`"))?;
        let Some(dir) = &self.out_dir else {
            return Ok(Output::File(path.to_owned()));
        };
        let mut name = item.relative.clone();
        if name.extension().is_some_and(|extension| extension == "gz") {
            name.set_extension("");
        }
        // What is written is binary, whatever was read.
        Ok(Output::File(dir.join(name).with_extension("wasm")))
    }

    /// Makes the folders that an output stands in, where the user has named one above them all.
    pub(crate) fn prepare(&self, output: &Output) -> Result<()> {
        match (&self.out_dir, output.path().and_then(Path::parent)) {
            (Some(_), Some(folder)) => make(folder),
            _ => Ok(()),
        }
    }
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}

/// Refuses two modules that would be written to one place, and one that would be written over
/// another that is yet to be read. A hard link is a place of its own: writing to one of its names
/// leaves the file under the others as it is.
fn refuse_losses(items: &[Item], outputs: &[Output]) -> Result<()> {
    let jobs = || {
        let read = items.iter().zip(outputs);
        read.filter(|(item, _)| item.refusal.is_none())
    };
    let mut sources = HashMap::new();
    for (item, _) in jobs() {
        if let Some(path) = item.input.path() {
            sources.insert(real(path), item);
        }
    }
    let mut written = HashMap::new();
    for (item, output) in jobs() {
        let Some(path) = output.path() else { continue };
        let place = real(path);
        if let Some(earlier) = written.insert(place.clone(), item) {
            bail!(
                "two inputs would both be written to {}: {} and {}",
                output.name(),
                earlier.input.name(),
                item.input.name()
            );
        }
        let own = item.input.path().map(real);
        if let Some(other) = sources.get(&place).filter(|_| own.as_ref() != Some(&place)) {
            bail!(
                "{} would be written to {}, over the input {}: choose another `--out-dir`",
                item.input.name(),
                output.name(),
                other.input.name()
            );
        }
    }
    Ok(())
}

/// A path without links and dots, as far as what it names is there.
pub(crate) fn real(path: &Path) -> PathBuf {
    if let Ok(real) = fs::canonicalize(path) {
        return real;
    }
    let folder = match path.parent() {
        Some(folder) if folder == Path::new("") => Path::new("."),
        Some(folder) => folder,
        None => return path.to_owned(),
    };
    match path.file_name() {
        Some(name) => real(folder).join(name),
        None => path.to_owned(),
    }
}
