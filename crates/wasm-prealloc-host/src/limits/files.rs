//! Reads the kernel's small text files, from the running system or from a recorded tree.
//!
//! The contents of the files are interpreted in `cgroup` and `headroom`.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// The root of the file system that holds `/proc` and `/sys`.
///
/// Errors and readings name paths relative to this root.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Files {
    /// The directory that is used as `/`.
    pub root: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Files::under("/")
    }
}

impl Files {
    /// Reads below `root`, as if it were `/`.
    pub fn under(root: impl Into<PathBuf>) -> Self {
        Files { root: root.into() }
    }

    /// Reads a file that must exist.
    pub(crate) fn read(&self, path: &Path) -> Result<String, Error> {
        self.text(path).map_err(|source| unreadable(path, source))
    }

    /// Reads a file, or returns `None` if there is no such file.
    pub(crate) fn read_optional(&self, path: &Path) -> Result<Option<String>, Error> {
        match self.text(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(unreadable(path, source)),
        }
    }

    /// Reads all of a file. Paths in it need not be UTF-8: parts that are not are replaced.
    fn text(&self, path: &Path) -> io::Result<String> {
        let bytes = std::fs::read(self.inside(path))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(crate) fn exists(&self, path: &Path) -> bool {
        self.inside(path).exists()
    }

    pub(crate) fn is_directory(&self, path: &Path) -> bool {
        self.inside(path).is_dir()
    }

    fn inside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// A group that is being removed answers with ENODEV.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    ) || error.raw_os_error() == Some(libc::ENODEV)
}

pub(crate) fn unreadable(path: &Path, source: io::Error) -> Error {
    Error::Unreadable {
        path: path.to_owned(),
        source,
    }
}

/// The error of a file whose contents are not in the expected format.
pub(crate) fn malformed(path: &Path, what: impl Into<String>) -> Error {
    let source = io::Error::new(io::ErrorKind::InvalidData, what.into());
    unreadable(path, source)
}

/// Returns true if a file was read and its contents are not in the expected format.
pub(crate) fn is_malformed(error: &Error) -> bool {
    matches!(error, Error::Unreadable { source, .. } if source.kind() == io::ErrorKind::InvalidData)
}

/// The file that could not be read and the reason, in words.
pub(crate) fn reason(error: &Error) -> String {
    match error {
        Error::Unreadable { path, source } => {
            format!("{} cannot be read: {source}", path.display())
        }
        other => other.to_string(),
    }
}

/// Parses all of `text` as a number.
pub(crate) fn number(path: &Path, text: &str) -> Result<u64, Error> {
    let text = text.trim();
    text.parse()
        .map_err(|_| malformed(path, format!("{text:?} is not a number of bytes")))
}

/// Finds the value of `key` in lines of `key value`.
pub(crate) fn keyed_number(path: &Path, text: &str, key: &str) -> Result<Option<u64>, Error> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| number(path, value))
        .transpose()
}
