//! Files that are written whole or not at all.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Tells files that a killed process has left which program they are from.
const TEMPORARY_PREFIX: &str = ".wasm-prealloc-";

/// The complete content of a file, on disk under a temporary name in the file's folder. It is
/// deleted if it is dropped before [`commit`](Self::commit).
#[derive(Debug)]
pub struct AtomicFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl AtomicFile {
    /// Writes the content for `path` to disk. A file at `path` is not changed yet.
    ///
    /// # Errors
    ///
    /// Returns the operating system's error, for example if the folder is missing or not writable,
    /// or if the disk is full.
    pub fn write(path: impl Into<PathBuf>, content: &[u8]) -> io::Result<Self> {
        let path = path.into();
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY_PREFIX);
        // The permissions of any new file, from which the umask removes some. Those of a temporary
        // file are for its owner alone.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut file = builder.tempfile_in(folder)?;
        if let Ok(earlier) = fs::metadata(&path) {
            if earlier.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            file.as_file().set_permissions(earlier.permissions())?;
        }
        file.write_all(content)?;
        file.as_file().sync_all()?;
        Ok(Self { file, path })
    }

    /// Renames the file to its path. It replaces an earlier file, and keeps that file's permissions.
    ///
    /// # Errors
    ///
    /// Returns the operating system's error; the earlier file is then unchanged.
    pub fn commit(self) -> io::Result<()> {
        self.file.persist(&self.path)?;
        Ok(())
    }
}
