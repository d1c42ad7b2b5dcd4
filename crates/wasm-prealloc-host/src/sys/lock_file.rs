//! The file or directory that committers lock: its default path, and opening it with care.
//!
//! Waiting for the lock is in `commit::lock`.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A path that every process of every user can open and lock.
pub(crate) const SHARED_LOCK: &str = "/";

/// A directory in which only root can create files.
const SYSTEM_FOLDER: &str = "/run";
const NAME: &str = "wasm-prealloc.lock";

/// The number of attempts to open or create a file that other processes create and delete.
const ATTEMPTS: u32 = 8;

/// Returns the default path of [`LockOptions`](crate::LockOptions): the first of the private paths
/// that can be opened or created, or `/`.
pub(crate) fn default_lock_path() -> PathBuf {
    let usable = |path: &PathBuf| open_private(path).is_ok();
    let found = private_paths().into_iter().find(usable);
    found.unwrap_or_else(|| SHARED_LOCK.into())
}

/// Returns true if other users cannot lock a path, or only those whom root permits it. Hosts whose
/// default is another path do not see a lock there.
pub(crate) fn is_private_lock(path: &Path) -> bool {
    private_paths().iter().any(|private| private == path)
}

fn private_paths() -> Vec<PathBuf> {
    let user = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let folders = [Some(SYSTEM_FOLDER.into()), user];
    let folders = folders
        .into_iter()
        .flatten()
        .filter(|folder| folder.is_absolute());
    folders.map(|folder| folder.join(NAME)).collect()
}

/// Opens a file in a directory that no other user can write to, and creates it if it is missing.
fn open_private(path: &Path) -> io::Result<File> {
    let folder = fs::metadata(folder_of(path))?;
    if !is_trusted(&folder) || folder.mode() & 0o022 != 0 {
        return Err(refused("another user can write to its directory"));
    }
    let file = open_or_create(path, true)?;
    let metadata = file.metadata()?;
    match metadata.is_file() && is_trusted(&metadata) {
        true => Ok(file),
        false => Err(refused("not a regular file of this user or root")),
    }
}

/// Opens the file or directory to be locked. A missing file is created for this user alone.
///
/// Anything else than a file or a directory is refused: opening a FIFO would wait. In a directory
/// that every user can write to, such as `/tmp`, symbolic links and files of other users are
/// refused, except those of root.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    const WRITABLE_BY_ALL_AND_STICKY: u32 = 0o1002;
    let folder = fs::metadata(folder_of(path));
    let is_public = folder.is_ok_and(|folder| {
        folder.mode() & WRITABLE_BY_ALL_AND_STICKY == WRITABLE_BY_ALL_AND_STICKY
    });
    let file = open_or_create(path, is_public)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() && !metadata.is_dir() {
        return Err(refused("neither a regular file nor a directory"));
    }
    if is_public && !is_trusted(&metadata) {
        return Err(refused(
            "another user's file in a directory that every user can write to",
        ));
    }
    Ok(file)
}

/// Opens a path for reading, which is enough for flock(2), and without waiting for a FIFO's writer.
fn open_or_create(path: &Path, refuse_links: bool) -> io::Result<File> {
    let links = if refuse_links { libc::O_NOFOLLOW } else { 0 };
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY | links;
    let mut last = io::Error::from(ErrorKind::NotFound);
    for _ in 0..ATTEMPTS {
        // Creating comes second: the kernel refuses O_CREAT for other users' files in `/tmp`.
        match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                return Err(refused("a symbolic link"));
            }
            result => return result,
        }
        let mut create = OpenOptions::new();
        create.write(true).create_new(true).mode(0o600);
        match create.custom_flags(flags).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => last = error,
            result => return result,
        }
    }
    Err(last)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => path,
    }
}

/// Returns true if a file belongs to root or to this process's user.
fn is_trusted(metadata: &Metadata) -> bool {
    // SAFETY: geteuid has no preconditions.
    metadata.uid() == 0 || metadata.uid() == unsafe { libc::geteuid() }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn folder(mode: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(mode)).unwrap();
        folder
    }

    #[test]
    fn a_missing_file_is_created_for_this_user_alone_and_opened_again() {
        for mode in [0o700, 0o1777] {
            let folder = folder(mode);
            let path = folder.path().join("lock");
            open_lock(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
            open_lock(&path).unwrap();
        }
    }

    #[test]
    fn only_regular_files_and_directories_are_locked() {
        let folder = folder(0o700);
        let fifo = folder.path().join("fifo");
        let name = CString::new(fifo.as_os_str().as_bytes()).unwrap();
        // SAFETY: the name is a string that ends with a zero byte.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        for path in [&fifo, Path::new("/dev/null")] {
            let error = open_lock(path).unwrap_err().to_string();
            assert!(error.contains("neither a regular file"), "{error}");
        }
        open_lock(folder.path()).unwrap();
    }

    #[test]
    fn a_symbolic_link_is_refused_where_every_user_can_make_one() {
        for (mode, accepted) in [(0o700, true), (0o1777, false)] {
            let folder = folder(mode);
            fs::write(folder.path().join("target"), "").unwrap();
            let link = folder.path().join("link");
            symlink("target", &link).unwrap();
            assert_eq!(open_lock(&link).is_ok(), accepted, "{mode:o}");
            assert!(open_private(&link).is_err());
        }
        // A link without a target is not followed to create one.
        let folder = folder(0o700);
        let link = folder.path().join("link");
        symlink("missing", &link).unwrap();
        assert!(open_lock(&link).is_err());
        assert!(!folder.path().join("missing").exists());
    }

    #[test]
    fn a_private_path_is_in_a_directory_that_no_other_user_can_write_to() {
        for (mode, accepted) in [
            (0o700, true),
            (0o755, true),
            (0o770, false),
            (0o1777, false),
        ] {
            let path = folder(mode);
            let opened = open_private(&path.path().join("lock"));
            assert_eq!(opened.is_ok(), accepted, "{mode:o}");
        }
        let folder = folder(0o700);
        assert!(open_private(folder.path()).is_err(), "a directory");
    }

    /// Only root can give a file to another user.
    #[test]
    fn a_file_of_another_user_is_refused_where_every_user_can_make_one() {
        const OTHER: u32 = 65_534;
        for (mode, accepted) in [(0o700, true), (0o1777, false)] {
            let folder = folder(mode);
            let path = folder.path().join("lock");
            fs::write(&path, "").unwrap();
            if std::os::unix::fs::chown(&path, Some(OTHER), None).is_err() {
                println!("skipped: only root can give a file to another user");
                return;
            }
            assert_eq!(open_lock(&path).is_ok(), accepted, "{mode:o}");
            assert!(open_private(&path).is_err());
        }
    }
}
