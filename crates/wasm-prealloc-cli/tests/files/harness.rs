//! A folder in which the command runs, and checks of its output and its files.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

pub(crate) const GROWING: &str = "(module (memory 1) (func (drop (memory.grow (i32.const 1)))))";

/// Returns [`GROWING`] as binary.
pub(crate) fn growing() -> Vec<u8> {
    wat::parse_str(GROWING).unwrap()
}

/// A temporary folder. Command lines are given in one string, without the program's name.
pub(crate) struct Folder {
    folder: TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    /// Creates a folder with a copy of one file under several names.
    pub(crate) fn with(names: &[&str], content: impl AsRef<[u8]>) -> Self {
        let folder = Self::new();
        for name in names {
            folder.write(name, &content);
        }
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Creates a file, and the folders that it is in.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Returns the sorted names in the folder, temporary files included.
    pub(crate) fn names(&self) -> Vec<String> {
        names(self.folder.path())
    }

    pub(crate) fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wasm-prealloc"));
        command
            .current_dir(&self.folder)
            .args(args.split_whitespace());
        command
    }

    /// Runs a command that must succeed.
    #[track_caller]
    pub(crate) fn run(&self, args: &str) -> Output {
        let output = self.command(args).output().unwrap();
        assert_exit(&output, 0);
        output
    }

    /// Runs a command that must fail with exit status 2 and these words.
    #[track_caller]
    pub(crate) fn fails(&self, args: &str, words: &str) -> Output {
        let output = self.command(args).output().unwrap();
        assert_exit(&output, 2);
        assert_stderr_contains(&output, words);
        output
    }

    /// Runs a command that reads `input` from stdin and must succeed.
    #[track_caller]
    pub(crate) fn run_with_input(&self, args: &str, input: impl AsRef<[u8]>) -> Output {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_ref()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert_exit(&output, 0);
        output
    }

    /// Runs a command whose stdout is a closed pipe. It must succeed.
    #[track_caller]
    pub(crate) fn run_with_closed_pipe(&self, args: &str) -> Output {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_exit(&output, 0);
        output
    }

    #[track_caller]
    pub(crate) fn assert_pinned(&self, names: &[&str]) {
        for name in names {
            assert_pinned(&self.read(name));
        }
    }
}

#[track_caller]
pub(crate) fn assert_exit(output: &Output, code: i32) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
}

#[track_caller]
pub(crate) fn assert_stderr_contains(output: &Output, words: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(words), "`{words}` is not in: {stderr}");
}

#[track_caller]
pub(crate) fn assert_pinned(wasm: &[u8]) {
    wasm_prealloc::verify(wasm, 65_536).unwrap();
}

/// Returns the sorted names in a folder, temporary files included.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
