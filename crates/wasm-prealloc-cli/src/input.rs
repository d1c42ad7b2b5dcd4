//! One input: a file, a pipe, a device or stdin. It is read up to a limit, text is converted and gzip
//! is unpacked.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File, FileType, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use wasm_prealloc::Format;

/// The path that means stdin or stdout.
pub(crate) const STANDARD_STREAM: &str = "-";

/// The longest path that is shown in full. It is the longest that Linux accepts.
const MOST_SHOWN: usize = 4095;

/// The largest module that the WebAssembly JavaScript interface allows an engine to accept.
const DEFAULT_MAX_INPUT: u64 = 1 << 30;

/// The number of bytes that are read to detect the format. An unsupported format is not read further,
/// so that a device that never ends needs no memory.
const FIRST_BYTES: u64 = 4096;

/// The parser of the text format takes 12 to 64 bytes of memory for each byte of text, so each counts
/// as this many.
const TEXT_WEIGHT: u64 = 16;

/// The flag that bounds the memory for an input.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Limit {
    /// The largest input that is read, in bytes, also after gzip was unpacked. Text needs more
    /// memory, and each of its bytes counts as 16
    #[arg(long = "max-input-bytes", value_name = "N", default_value_t = DEFAULT_MAX_INPUT)]
    bytes: u64,
}

impl Limit {
    /// Refuses a number of bytes above the limit.
    fn check(self, bytes: u64) -> Result<()> {
        let most = self.bytes;
        if bytes > most {
            bail!("it has more than {most} bytes: if you trust it, raise `--max-input-bytes`");
        }
        Ok(())
    }
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
            Some(path) => shown_name(path),
            None => "<stdin>".to_owned(),
        }
    }

    /// Returns the bytes of the path in hexadecimal if [`name`](Self::name) is not exact.
    pub(crate) fn name_bytes(&self) -> Option<String> {
        exact_name(self.path()?)
    }

    /// Reads a module. Text is converted to binary and gzip is unpacked. For any other format, returns
    /// only the first bytes, from which the library describes the format.
    pub(crate) fn read(&self, limit: Limit) -> Result<Module> {
        let mut bytes = self.read_bytes(limit).with_context(|| self.name())?;
        let mut form = None;
        if Format::detect(&bytes) == Format::Gzip {
            bytes = unpack(&bytes, limit).with_context(|| self.name())?;
            form = Some("gzip");
        }
        if Format::detect(&bytes) != Format::Text {
            return Ok(Module { wasm: bytes, form });
        }
        let weight = (bytes.len() as u64).saturating_mul(TEXT_WEIGHT);
        if weight > limit.bytes {
            let (name, text) = (self.name(), bytes.len());
            bail!("{name}: it has {text} bytes of text: `--max-input-bytes {weight}` admits it");
        }
        let text = String::from_utf8(bytes)
            .context("it looks like the text format, but it is not UTF-8")
            .with_context(|| self.name())?;
        let text = text.trim_start_matches('\u{feff}');
        let wasm = wat::parse_str(text).map_err(|mut error| {
            error.set_path(self.name());
            error
        })?;
        let form = form.or(Some("text"));
        Ok(Module { wasm, form })
    }

    /// Reads a text file that is not a module.
    pub(crate) fn read_text(&self, limit: Limit) -> Result<String> {
        let (from, _) = self.open()?;
        let mut text = Vec::new();
        let most = limit.bytes.saturating_add(1);
        from.take(most).read_to_end(&mut text)?;
        limit.check(text.len() as u64)?;
        Ok(String::from_utf8(text)?)
    }

    fn read_bytes(&self, limit: Limit) -> Result<Vec<u8>> {
        let (from, size) = self.open()?;
        read_limited(from, size, limit)
    }

    /// Opens the input, and returns its size, 0 if that is unknown.
    fn open(&self) -> Result<(Box<dyn Read>, u64)> {
        let Some(path) = self.path() else {
            return Ok((Box::new(io::stdin().lock()), 0));
        };
        let metadata = fs::metadata(path)?;
        if metadata.is_dir() {
            bail!("it is a folder: give a module in it");
        }
        if special_kind(metadata.file_type()) == Some(SOCKET) {
            bail!("it is {SOCKET}, which cannot be read: write the module to a file or a pipe");
        }
        Ok((Box::new(File::open(path)?), file_bytes(&metadata)))
    }
}

/// Returns the size of a regular file, and 0 for a pipe or a device.
fn file_bytes(metadata: &Metadata) -> u64 {
    if metadata.is_file() {
        metadata.len()
    } else {
        0
    }
}

/// Reads an input of an expected size, 0 if that is unknown, up to the limit.
fn read_limited(mut from: impl Read, size: u64, limit: Limit) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.by_ref().take(FIRST_BYTES).read_to_end(&mut bytes)?;
    let is_other = matches!(Format::detect(&bytes), Format::Other(_));
    // Text may come after any number of spaces.
    if is_other && !bytes.trim_ascii_start().is_empty() {
        return Ok(bytes);
    }
    let Limit { bytes: most } = limit;
    if size > most {
        bail!("it has {size} bytes, more than the limit: `--max-input-bytes {size}` admits it");
    }
    // A file may become longer while it is read, and a wrong size must not end the command.
    let _ = bytes.try_reserve_exact(usize::try_from(size).unwrap_or(0));
    // One byte more than the limit shows that the limit is exceeded.
    let rest = most.saturating_add(1).saturating_sub(bytes.len() as u64);
    from.take(rest).read_to_end(&mut bytes)?;
    limit.check(bytes.len() as u64)?;
    Ok(bytes)
}

#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) wasm: Vec<u8>,
    /// The form of the input if it is not binary: `text` or `gzip`.
    pub(crate) form: Option<&'static str>,
}

fn unpack(packed: &[u8], limit: Limit) -> Result<Vec<u8>> {
    let unpacker = flate2::read::MultiGzDecoder::new(packed);
    read_limited(unpacker, 0, limit).context("it is gzip, and cannot be unpacked")
}

const SOCKET: &str = "a socket";

/// Names the kind of a special file. Returns `None` for a regular file, a folder and a symbolic link.
pub(crate) fn special_kind(kind: FileType) -> Option<&'static str> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        for (is, name) in [
            (kind.is_fifo(), "a named pipe"),
            (kind.is_socket(), SOCKET),
            (kind.is_char_device() || kind.is_block_device(), "a device"),
        ] {
            if is {
                return Some(name);
            }
        }
    }
    let is_known = kind.is_file() || kind.is_dir() || kind.is_symlink();
    (!is_known).then_some("a special file")
}

/// Returns a path as text. Bytes that are not UTF-8 are replaced, and a path that is longer than
/// [`MOST_SHOWN`] is cut.
pub(crate) fn shown_name(path: &Path) -> String {
    let text = path.to_string_lossy();
    match text.len() > MOST_SHOWN {
        true => text.chars().take(64).chain("...".chars()).collect(),
        false => text.into_owned(),
    }
}

/// Returns the bytes of a path in hexadecimal if the text of [`shown_name`] is not exact.
pub(crate) fn exact_name(path: &Path) -> Option<String> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if path.to_str().is_some() && bytes.len() <= MOST_SHOWN {
        return None;
    }
    let mut hexadecimal = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // A string accepts every write.
        let _ = write!(hexadecimal, "{byte:02x}");
    }
    Some(hexadecimal)
}
