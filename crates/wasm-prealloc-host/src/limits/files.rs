//! Reading the kernel's small text files, from the running system or from a recorded tree.
//!
//! What the files mean is in `cgroup` and `headroom`.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Where `/proc` and `/sys` are: the root of a file system.
///
/// Errors and readings name paths as they are inside this root.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Files {
    /// The directory that stands for `/`.
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

    /// The file's text. It must exist.
    pub(crate) fn read(&self, path: &Path) -> Result<String, Error> {
        std::fs::read_to_string(self.inside(path)).map_err(|source| unreadable(path, source))
    }

    /// The file's text, or nothing where there is no such file.
    pub(crate) fn read_optional(&self, path: &Path) -> Result<Option<String>, Error> {
        match std::fs::read_to_string(self.inside(path)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(unreadable(path, source)),
        }
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

/// The file is there, but does not hold what it should.
pub(crate) fn not_understood(path: &Path, what: impl Into<String>) -> Error {
    let source = io::Error::new(io::ErrorKind::InvalidData, what.into());
    unreadable(path, source)
}

/// The whole of `text` as a number.
pub(crate) fn number(path: &Path, text: &str) -> Result<u64, Error> {
    let text = text.trim();
    text.parse()
        .map_err(|_| not_understood(path, format!("{text:?} is not a number of bytes")))
}

/// The number behind `key` in lines of `key value`, where there is one.
pub(crate) fn keyed_number(path: &Path, text: &str, key: &str) -> Result<Option<u64>, Error> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| number(path, value))
        .transpose()
}
