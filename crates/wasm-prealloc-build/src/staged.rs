//! Files that appear whole or not at all. What stands in them is decided elsewhere.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// What the names of temporary files begin with.
const TEMPORARY_PREFIX: &str = ".wasm-prealloc-";

/// An output file that is complete on disk, under a temporary name beside its own. Dropped before
/// it is published, it leaves nothing behind.
#[derive(Debug)]
pub struct StagedFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl StagedFile {
    /// Writes the content for `path` to the disk, beside it. What stands at `path` is as it was.
    ///
    /// # Errors
    ///
    /// What the operating system says: the folder is missing or not writable, the disk is full.
    pub fn write(path: impl Into<PathBuf>, content: &[u8]) -> io::Result<Self> {
        let path = path.into();
        let mut builder = tempfile::Builder::new();
        // Whoever finds one behind a process that was killed can tell whose it is.
        builder.prefix(TEMPORARY_PREFIX);
        // A temporary file is for its owner alone; this one is to be like any other new file. The
        // umask still takes away what it takes away from those.
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

    /// Gives the file its own name, in place of what stood there. That file's permissions are kept.
    ///
    /// # Errors
    ///
    /// What the operating system says; what stood there is then as it was.
    pub fn publish(self) -> io::Result<()> {
        self.file.persist(&self.path)?;
        Ok(())
    }
}
