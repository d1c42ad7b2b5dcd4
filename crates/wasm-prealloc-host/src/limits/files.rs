//! Reads the kernel's small text files, from the running system or from a recorded tree.
//!
//! The contents of the files are interpreted in `cgroup` and `headroom`.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::SecureError;

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
    pub(crate) fn read(&self, path: &Path) -> Result<String, SecureError> {
        self.text(path).map_err(|source| unreadable(path, source))
    }

    /// Reads a file, or returns `None` if there is no such file.
    pub(crate) fn read_optional(&self, path: &Path) -> Result<Option<String>, SecureError> {
        match self.text(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(unreadable(path, source)),
        }
    }

    /// Reads a setting at which the kernel itself refuses without a kill, so that it need not be
    /// known. Returns `None` if it cannot be read.
    pub(crate) fn read_if_possible(&self, path: &Path) -> Option<String> {
        self.read_optional(path).ok().flatten()
    }

    /// Returns the number of processors that are online, or a large number if it cannot be read.
    pub(crate) fn processors(&self) -> u64 {
        const MANY: u64 = 64;
        let online = self.read(Path::new("/sys/devices/system/cpu/online"));
        let online = online.ok().and_then(|text| list(&text));
        online.map_or(MANY, |numbers| numbers.len() as u64)
    }

    /// Returns true if these are the files of the running system.
    pub(crate) fn is_running_system(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Returns the subdirectories of a directory, or none if it cannot be read.
    pub(crate) fn directories(&self, path: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.inside(path)).into_iter().flatten();
        let entries = entries.flatten().filter(|entry| {
            let kind = entry.file_type();
            kind.is_ok_and(|kind| kind.is_dir())
        });
        entries.map(|entry| path.join(entry.file_name())).collect()
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

pub(crate) fn unreadable(path: &Path, source: io::Error) -> SecureError {
    SecureError::Unreadable {
        path: path.to_owned(),
        source,
    }
}

/// The error of a file whose contents are not in the expected format.
pub(crate) fn malformed(path: &Path, what: impl Into<String>) -> SecureError {
    let source = io::Error::new(io::ErrorKind::InvalidData, what.into());
    unreadable(path, source)
}

/// Parses a list such as `0-3,8`.
pub(crate) fn list(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        // No machine has more processors or nodes.
        if last > 1 << 16 {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// A file of lines `Name: value kB`.
pub(crate) struct Table {
    path: PathBuf,
    pub(crate) text: String,
}

impl Table {
    pub(crate) fn read(files: &Files, path: impl Into<PathBuf>) -> Result<Table, SecureError> {
        let path = path.into();
        let text = files.read(&path)?;
        Ok(Table { path, text })
    }

    /// Returns the number of bytes in a line, whose name may follow other words.
    pub(crate) fn bytes(&self, name: &str) -> Result<u64, SecureError> {
        let value = self
            .text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.split(' ').next_back() == Some(name))
            .and_then(|(_, value)| value.trim().strip_suffix(" kB"))
            .ok_or_else(|| malformed(&self.path, format!("no line {name:?} in kB")))?;
        number(&self.path, value)?
            .checked_mul(1024)
            .ok_or_else(|| malformed(&self.path, format!("{name} is too large")))
    }

    /// Returns the text of a line after its name.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let lines = self.text.lines().filter_map(|line| line.split_once(':'));
        let mut values = lines.filter(|(key, _)| *key == name);
        values.next().map(|(_, value)| value.trim())
    }
}

/// Returns true if a file was read and its contents are not in the expected format.
pub(crate) fn is_malformed(error: &SecureError) -> bool {
    matches!(error, SecureError::Unreadable { source, .. } if source.kind() == io::ErrorKind::InvalidData)
}

/// The file that could not be read and the reason, in words.
pub(crate) fn reason(error: &SecureError) -> String {
    match error {
        SecureError::Unreadable { path, source } => {
            format!("{} cannot be read: {source}", path.display())
        }
        other => other.to_string(),
    }
}

/// Parses all of `text` as a number.
pub(crate) fn number(path: &Path, text: &str) -> Result<u64, SecureError> {
    let text = text.trim();
    text.parse()
        .map_err(|_| malformed(path, format!("{text:?} is not a number of bytes")))
}

/// Finds the value of `key` in lines of `key value`.
pub(crate) fn keyed_number(path: &Path, text: &str, key: &str) -> Result<Option<u64>, SecureError> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| number(path, value))
        .transpose()
}
