//! The input and output that all subcommands share: flags, `-`, text and gzip, atomic outputs. The
//! contents of folders are listed in `folder`.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use wasm_prealloc_build::AtomicFile;

/// The path that means stdin or stdout.
const STANDARD_STREAM: &str = "-";

/// The largest size of an unpacked gzip input, in bytes. The largest known module has a fifth of it.
/// A file that is made to exhaust memory unpacks to thousands of times its size.
const MAX_UNPACKED: u64 = 256 << 20;

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

    /// Print a JSON document, which docs/json.md describes
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Input {
    path: PathBuf,
}

/// Any argument is a path. clap uses this conversion.
impl From<OsString> for Input {
    fn from(path: OsString) -> Self {
        Self { path: path.into() }
    }
}

impl Input {
    pub(crate) fn is_stdin(&self) -> bool {
        self.path == Path::new(STANDARD_STREAM)
    }

    /// Returns the input's path, or `None` for stdin.
    pub(crate) fn path(&self) -> Option<&Path> {
        (!self.is_stdin()).then_some(&self.path)
    }

    pub(crate) fn name(&self) -> String {
        match self.path() {
            Some(path) => path.display().to_string(),
            None => "<stdin>".to_owned(),
        }
    }

    /// Reads a module. Text is converted to binary and gzip is unpacked; other bytes are returned
    /// unchanged.
    pub(crate) fn read(&self) -> Result<Module> {
        let mut bytes = self.read_bytes().with_context(|| self.name())?;
        let mut form = None;
        if is_gzip(&bytes) {
            bytes = unpack(&bytes).with_context(|| self.name())?;
            form = Some("gzip");
        }
        if !is_text(&bytes) {
            return Ok(Module { wasm: bytes, form });
        }
        let text = String::from_utf8(bytes).with_context(|| self.name())?;
        let wasm = wat::parse_str(&text).map_err(|mut error| {
            error.set_path(self.name());
            error
        })?;
        let form = form.or(Some("text"));
        Ok(Module { wasm, form })
    }

    fn read_bytes(&self) -> io::Result<Vec<u8>> {
        match self.path() {
            Some(path) => fs::read(path),
            None => {
                let mut bytes = Vec::new();
                io::stdin().lock().read_to_end(&mut bytes)?;
                Ok(bytes)
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) wasm: Vec<u8>,
    /// The form of the input if it is not binary: `text` or `gzip`.
    pub(crate) form: Option<&'static str>,
}

fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than the limit shows that the limit is exceeded.
    flate2::read::MultiGzDecoder::new(packed)
        .take(MAX_UNPACKED + 1)
        .read_to_end(&mut bytes)
        .context("it is gzip, and cannot be unpacked")?;
    if bytes.len() as u64 > MAX_UNPACKED {
        bail!(
            "it is gzip, and unpacks to more than {} MiB: if you trust it, unpack it first",
            MAX_UNPACKED >> 20
        );
    }
    Ok(bytes)
}

/// Returns true if bytes are the text format: a form or a comment, after white space.
fn is_text(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    text.starts_with(b"(") || text.starts_with(b";;")
}

/// The output for a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Stdout,
    File(PathBuf),
}

impl Output {
    pub(crate) fn from_path(path: &Path) -> Self {
        match path == Path::new(STANDARD_STREAM) {
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
            Self::File(path) => path.display().to_string(),
        }
    }

    /// Writes a module. A file is replaced atomically.
    pub(crate) fn write(&self, wasm: &[u8]) -> Result<()> {
        let written = match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(wasm).and_then(|()| stdout.flush())
            }
            // A device or a pipe cannot be replaced by a rename.
            Self::File(path) if is_special(path) => fs::write(path, wasm),
            // A symbolic link is kept and its target is replaced.
            Self::File(path) => {
                let path = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
                AtomicFile::write(path, wasm).and_then(AtomicFile::commit)
            }
        };
        written.with_context(|| format!("cannot write {}", self.name()))
    }
}

/// Returns true if a path names a device, a pipe or a socket.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
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
