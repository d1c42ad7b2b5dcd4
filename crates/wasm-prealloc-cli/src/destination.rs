//! The outputs of rewritten modules. An output that would lose a module is refused before any module
//! is read.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::folder::Item;
use crate::io::Output;

/// The flags for the outputs.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Destination {
    /// Write a single module to FILE; `-` is stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Write each module to DIR under its own name; modules of a folder keep their relative paths
    #[arg(long, value_name = "DIR")]
    out_dir: Option<PathBuf>,

    /// Replace each module by its output
    #[arg(long)]
    in_place: bool,
}

impl Destination {
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
            create(dir)?;
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
        // The output is binary, also if the input is text.
        Ok(Output::File(dir.join(name).with_extension("wasm")))
    }

    /// Creates the folders of an output below `--out-dir`.
    pub(crate) fn prepare(&self, output: &Output) -> Result<()> {
        match (&self.out_dir, output.path().and_then(Path::parent)) {
            (Some(_), Some(folder)) => create(folder),
            _ => Ok(()),
        }
    }
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Refuses two inputs with one output, and an output that would replace another input before it is
/// read. The names of a hard link are different outputs: replacing one leaves the others unchanged.
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

/// Returns a path without symbolic links and dots, as far as the path exists.
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
