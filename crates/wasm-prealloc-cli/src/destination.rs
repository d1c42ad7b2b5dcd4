//! The outputs of rewritten modules. An output that would lose a module is refused before any module
//! is read.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::folder::Item;
use crate::input::shown_name;
use crate::io::{Output, check_length};

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
    /// Returns the output of each item, and refuses the items whose outputs would lose a module.
    pub(crate) fn outputs(&self, items: &mut [Item]) -> Result<Vec<Output>> {
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
        refuse_losses(items, &outputs);
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
        let path = item.input.path().with_context(|| {
            format!("stdin has no name for `{flag}`: rewrite it alone, with `-o`")
        })?;
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
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", shown_name(folder)))
}

/// Refuses inputs with one output, and an output that would replace another input before it is read.
/// The names of a hard link are different outputs: replacing one leaves the others unchanged.
fn refuse_losses(items: &mut [Item], outputs: &[Output]) {
    let own: Vec<_> = items
        .iter()
        .map(|item| item.input.path().map(real))
        .collect();
    let places: Vec<_> = outputs
        .iter()
        .map(|output| output.path().map(real))
        .collect();
    let is_read = |item: &Item| item.refusal.is_none();
    let mut sources = HashMap::new();
    let mut written: HashMap<_, Vec<usize>> = HashMap::new();
    for (index, _) in items.iter().enumerate().filter(|(_, item)| is_read(item)) {
        if let Some(own) = &own[index] {
            sources.insert(own, index);
        }
        if let Some(place) = &places[index] {
            written.entry(place).or_default().push(index);
        }
    }
    let mut refusals = Vec::new();
    for (place, writers) in written {
        for (position, &index) in writers.iter().enumerate() {
            let output = outputs[index].name();
            // The writer before it, or for the first one the last.
            let other = writers[(position + writers.len() - 1) % writers.len()];
            let source = sources.get(place).filter(|source| **source != index);
            let refusal = if other != index && own[other] == own[index] {
                format!("it is given twice, and would be written to {output} twice: give it once")
            } else if other != index {
                let other = items[other].input.name();
                format!(
                    "it and {other} would both be written to {output}: rewrite one of them alone, \
                     with `-o`"
                )
            } else if let (Some(&source), true) = (source, own[index].as_ref() != Some(place)) {
                let source = items[source].input.name();
                format!(
                    "it would be written to {output}, over the input {source}: choose another \
                     `--out-dir`"
                )
            } else {
                continue;
            };
            refusals.push((index, refusal));
        }
    }
    for (index, refusal) in refusals {
        items[index].refusal = Some(refusal);
    }
}

/// Returns a path without symbolic links and dots, as far as the path exists.
pub(crate) fn real(path: &Path) -> PathBuf {
    if check_length(path).is_err() {
        return path.to_owned();
    }
    let mut missing = Vec::new();
    for ancestor in path.ancestors() {
        let folder = match ancestor == Path::new("") {
            true => Path::new("."),
            false => ancestor,
        };
        match fs::canonicalize(folder) {
            Ok(real) => {
                return missing
                    .iter()
                    .rev()
                    .fold(real, |path, name| path.join(name));
            }
            Err(_) => match ancestor.file_name() {
                Some(name) => missing.push(name),
                None => break,
            },
        }
    }
    path.to_owned()
}
