//! The blocks to index: from the command line, or from a file that has one block on each line and
//! that may still be written.

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use crate::hexadecimal;

/// Reads a block: the file of that name if there is one, else bytes in hexadecimal.
pub(crate) fn read_block(block: &str) -> Result<Vec<u8>> {
    if Path::new(block).is_file() {
        return std::fs::read(block).with_context(|| format!("cannot read {block}"));
    }
    hexadecimal::decode(block)
        .ok_or_else(|| anyhow!("the block {block:?} is neither a file nor hexadecimal"))
}

/// Reads the blocks of a file that is complete.
pub(crate) fn read_chain(path: &Path) -> Result<Vec<Vec<u8>>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().zip(1..);
    let blocks = lines.filter_map(|(line, number)| parse_line(path, number, line).transpose());
    blocks.collect()
}

/// A file of blocks that another process appends to.
pub(crate) struct Follower {
    path: PathBuf,
    file: Option<BufReader<File>>,
    /// The number of bytes that were read.
    position: u64,
    /// The start of a line whose end is not written yet.
    line: Vec<u8>,
    /// The number of lines that were read whole.
    lines: u64,
}

impl Follower {
    pub(crate) fn new(path: &Path) -> Follower {
        Follower {
            path: path.to_owned(),
            file: None,
            position: 0,
            line: Vec::new(),
            lines: 0,
        }
    }

    /// Returns the next block, or `None` as long as its line is not written to its end. A file that
    /// does not exist yet has no blocks.
    pub(crate) fn next_block(&mut self) -> Result<Option<Vec<u8>>> {
        let path = &self.path;
        let cannot_read = || format!("cannot read {}", path.display());
        let file = match &mut self.file {
            Some(file) => file,
            missing => match File::open(path) {
                Ok(file) => missing.insert(BufReader::new(file)),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error).with_context(cannot_read),
            },
        };
        loop {
            let read = file.read_until(b'\n', &mut self.line);
            let read = read.with_context(cannot_read)?;
            self.position += read as u64;
            if self.line.last() != Some(&b'\n') {
                let length = file.get_ref().metadata().with_context(cannot_read)?.len();
                if length < self.position {
                    bail!(
                        "{} became shorter; blocks must only be appended to it",
                        path.display()
                    );
                }
                return Ok(None);
            }
            self.lines += 1;
            let line = std::mem::take(&mut self.line);
            let at = || format!("{}:{}: not text", path.display(), self.lines);
            let line = String::from_utf8(line).with_context(at)?;
            if let Some(block) = parse_line(path, self.lines, &line)? {
                return Ok(Some(block));
            }
        }
    }
}

/// Returns the block of a line, or `None` if the line is empty or a comment.
fn parse_line(path: &Path, number: u64, line: &str) -> Result<Option<Vec<u8>>> {
    let block = line.split('#').next().unwrap_or_default().trim();
    if block.is_empty() {
        return Ok(None);
    }
    let bytes = hexadecimal::decode(block);
    let at = || format!("{}:{number}: not hexadecimal", path.display());
    bytes.with_context(at).map(Some)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_followed_file_gives_each_block_when_its_line_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blocks.txt");
        let mut follower = Follower::new(&path);
        assert_eq!(follower.next_block().unwrap(), None);
        let mut file = File::create(&path).unwrap();
        let mut append = |text: &str| file.write_all(text.as_bytes()).unwrap();
        append("# a comment\n\n68");
        assert_eq!(follower.next_block().unwrap(), None);
        append("69\n0x79");
        assert_eq!(follower.next_block().unwrap(), Some(b"hi".to_vec()));
        assert_eq!(follower.next_block().unwrap(), None);
        append("6f # yo\n00\nno\n");
        assert_eq!(follower.next_block().unwrap(), Some(b"yo".to_vec()));
        assert_eq!(follower.next_block().unwrap(), Some(vec![0]));
        let error = follower.next_block().unwrap_err().to_string();
        assert!(error.ends_with("blocks.txt:6: not hexadecimal"), "{error}");
        file.set_len(3).unwrap();
        let error = follower.next_block().unwrap_err().to_string();
        assert!(error.contains("became shorter"), "{error}");
    }
}
