//! An archive in the format `newc` of cpio, which Linux unpacks as its first file system. The
//! format is described in the kernel's `buffer-format.rst`.

use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const SYMBOLIC_LINK: u32 = 0o120_777;

/// An archive in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: Vec<String>,
}

impl Archive {
    /// Adds a directory and the directories above it, unless they exist.
    pub(super) fn directory(&mut self, path: &str) {
        let path = path.trim_start_matches('/');
        if path.is_empty() || self.directories.iter().any(|known| known == path) {
            return;
        }
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above);
        }
        self.directories.push(path.to_owned());
        self.entry(path, DIRECTORY, &[]);
    }

    /// Adds a file that everyone can execute, and the directories above it.
    pub(super) fn program(&mut self, path: &str, content: &[u8]) {
        self.directory(
            Path::new(path)
                .parent()
                .and_then(Path::to_str)
                .unwrap_or(""),
        );
        self.entry(path, PROGRAM, content);
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.entry(path, SYMBOLIC_LINK, target.as_bytes());
    }

    /// Returns the complete archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let name = path.trim_start_matches('/');
        let length = |bytes: usize| u32::try_from(bytes).expect("an entry is smaller than 4 GiB");
        // Inode, mode, user, group, links, time, size, four device numbers, length of the name with
        // its zero, checksum.
        let (size, name_bytes) = (length(content.len()), length(name.len() + 1));
        let links = 1;
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            0,
            0,
            name_bytes,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_added_once_and_entries_are_aligned() {
        let mut archive = Archive::default();
        archive.program("/usr/bin/one", b"12345");
        archive.program("/usr/bin/two", b"");
        archive.link("/bin/sh", "busybox");
        assert_eq!(archive.directories, ["usr", "usr/bin"]);
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        // usr, usr/bin, two programs, a link, the trailer.
        let headers = bytes.windows(6).filter(|bytes| bytes == b"070701");
        assert_eq!(headers.count(), 6);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("07070100000001000041ed"), "{text}");
    }
}
