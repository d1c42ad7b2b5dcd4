//! Shared parts of all subcommands: the flags for many inputs, outputs, names of files, and the words
//! for sizes. `input` reads an input, and `folder` lists the contents of folders.

use std::fs;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use wasm_prealloc_build::AtomicFile;

use crate::input::{Input, Limit, STANDARD_STREAM, exact_name, shown_name, special_kind};

/// The paths that mean stdout. The report must not be printed there too.
const STDOUT: [&str; 4] = [
    STANDARD_STREAM,
    "/dev/stdout",
    "/dev/fd/1",
    "/proc/self/fd/1",
];

/// The flags of the commands that take many modules.
#[derive(Debug, clap::Args)]
pub(crate) struct Inputs {
    /// Modules: binary, text or gzip; a folder means all *.wasm and *.wat below it; `-` is stdin
    #[arg(required = true, value_name = "INPUT")]
    pub(crate) inputs: Vec<Input>,

    /// The number of modules to process in parallel [default: the number of cores]
    #[arg(short, long, value_name = "N")]
    pub(crate) jobs: Option<NonZero<usize>>,

    /// Print only errors, warnings and violations
    #[arg(short, long)]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) limit: Limit,
}

/// The output for a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Stdout,
    File(PathBuf),
}

impl Output {
    pub(crate) fn from_path(path: &Path) -> Self {
        match STDOUT.iter().any(|stdout| path == Path::new(stdout)) {
            true => Self::Stdout,
            false => Self::File(path.to_owned()),
        }
    }

    /// Returns the output's path, or `None` for stdout.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Stdout => None,
            Self::File(path) => Some(path),
        }
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Stdout => "<stdout>".to_owned(),
            Self::File(path) => shown_name(path),
        }
    }

    /// Returns the bytes of the path in hexadecimal if [`name`](Self::name) is not exact.
    pub(crate) fn name_bytes(&self) -> Option<String> {
        exact_name(self.path()?)
    }

    /// Writes bytes to disk beside the file, which is not changed yet.
    pub(crate) fn stage<'a>(&'a self, bytes: &'a [u8]) -> Result<Staged<'a>> {
        let file = match self {
            Self::Stdout => None,
            // A device or a pipe cannot be replaced by a rename.
            Self::File(path) if is_special(path) => None,
            // A symbolic link is kept and its target is replaced.
            Self::File(path) => {
                let staged = check_length(path).and_then(|()| {
                    let path = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
                    AtomicFile::write(path, bytes)
                });
                Some(staged.with_context(|| self.cannot_write())?)
            }
        };
        let output = self;
        Ok(Staged {
            output,
            bytes,
            file,
        })
    }

    fn cannot_write(&self) -> String {
        format!("cannot write {}", self.name())
    }
}

/// Bytes that are ready to be written.
#[derive(Debug)]
pub(crate) struct Staged<'a> {
    output: &'a Output,
    bytes: &'a [u8],
    /// `None` for an output that cannot be replaced by a rename.
    file: Option<AtomicFile>,
}

impl Staged<'_> {
    /// Returns true if the bytes are on disk, and only a rename is left.
    pub(crate) fn is_on_disk(&self) -> bool {
        self.file.is_some()
    }

    /// Writes the bytes. A file is replaced atomically.
    pub(crate) fn commit(self) -> Result<()> {
        let written = match (self.file, self.output) {
            (Some(file), _) => file.commit(),
            (None, Output::File(path)) => fs::write(path, self.bytes),
            (None, Output::Stdout) => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(self.bytes).and_then(|()| stdout.flush())
            }
        };
        written.with_context(|| self.output.cannot_write())
    }
}

/// Returns true if a path names a device, a pipe or a socket.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| special_kind(found.file_type()).is_some())
}

/// Returns the error of a path that is longer than the system accepts. Other functions try each of
/// its ancestors first, or repeat the path in their errors.
pub(crate) fn check_length(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidFilename => Err(error),
        _ => Ok(()),
    }
}

/// Prints a value as one JSON document on stdout.
pub(crate) fn print_json(value: &impl serde::Serialize) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    // The conversion to an I/O error keeps its kind, which may be a closed pipe.
    serde_json::to_writer_pretty(&mut stdout, value)?;
    writeln!(stdout)
}

/// Describes a number of 64 KiB pages with its size.
fn pages(pages: u64) -> String {
    let kib = pages.saturating_mul(64);
    let noun = if pages == 1 { "page" } else { "pages" };
    match kib {
        _ if kib >= 1 << 20 && kib.is_multiple_of(1 << 20) => {
            format!("{pages} {noun} ({} GiB)", kib >> 20)
        }
        _ if kib >= 1 << 10 => format!("{pages} {noun} ({:.1} MiB)", kib as f64 / 1024.0),
        _ => format!("{pages} {noun} ({kib} KiB)"),
    }
}

/// Describes a number of a memory's own pages.
fn size(memory: &wasm_prealloc::Memory, size: u64) -> String {
    match memory.page_size_log2 {
        None => pages(size),
        Some(0) => format!("{size} pages of 1 byte"),
        Some(log2) => format!("{size} pages of 2^{log2} bytes"),
    }
}

pub(crate) fn limits(memory: &wasm_prealloc::Memory) -> String {
    let minimum = size(memory, memory.minimum);
    match memory.maximum {
        Some(maximum) if maximum == memory.minimum => minimum,
        Some(maximum) => format!("{minimum} to {}", size(memory, maximum)),
        None => format!("{minimum}, no maximum"),
    }
}
