//! A workspace of guests in a temporary folder, and its outputs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use tempfile::TempDir;
use wasm_prealloc_build::{BuildOptions, Error, build};

/// A guest that does not use its memory.
pub(crate) const IDLE: &str = "#[unsafe(no_mangle)] pub extern \"C\" fn _start() {}\n";

/// A guest that allocates, which grows its memory.
pub(crate) const ALLOCATING: &str = "\
#[unsafe(no_mangle)] pub extern \"C\" fn _start(bytes: usize) -> *mut u8 {
    Vec::leak(vec![1u8; bytes]).as_mut_ptr()
}
";

/// A guest that compiles only with `--cfg marker`.
pub(crate) const NEEDS_MARKER: &str = "\
#![allow(unexpected_cfgs)]
#[cfg(not(marker))] compile_error!(\"built without the marker\");
#[unsafe(no_mangle)] pub extern \"C\" fn _start() {}
";

/// The manifest section that makes a library a guest.
pub(crate) const CDYLIB: &str = "[lib]\ncrate-type = [\"cdylib\"]\n";

pub(crate) struct Fixture {
    folder: TempDir,
}

impl Fixture {
    /// Creates a workspace without packages.
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let fixture = Self { folder };
        fixture.write(
            "Cargo.toml",
            "[workspace]\nresolver = \"3\"\nmembers = [\"guests/*\"]\n",
        );
        fixture
    }

    /// Creates a workspace of guests that are libraries.
    pub(crate) fn of_guests(guests: &[(&str, &str)]) -> Self {
        let fixture = Self::new();
        for (name, source) in guests {
            fixture.package(name, CDYLIB);
            fixture.source(name, source);
        }
        fixture
    }

    /// Adds a package, without sources.
    pub(crate) fn package(&self, name: &str, sections: &str) {
        self.write(
            &format!("guests/{name}/Cargo.toml"),
            &format!("[package]\nname = \"{name}\"\nedition = \"2024\"\n{sections}"),
        );
    }

    /// Replaces a package's library.
    pub(crate) fn source(&self, package: &str, source: &str) {
        self.write(&format!("guests/{package}/src/lib.rs"), source);
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Writes an executable shell script.
    #[cfg(unix)]
    pub(crate) fn script(&self, path: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        self.write(path, &format!("#!/bin/sh\n{text}"));
        let path = self.path(path);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub(crate) fn out_dir(&self) -> PathBuf {
        self.path("out")
    }

    /// Returns options that build this workspace without the RUSTFLAGS of the tests.
    pub(crate) fn options(&self) -> BuildOptions {
        let mut options = BuildOptions::new(self.path("Cargo.toml"), self.out_dir());
        let target = self.path("target").into_os_string();
        options.env = BTreeMap::from([
            ("CARGO".into(), Some(env!("CARGO").into())),
            ("CARGO_TARGET_DIR".into(), Some(target)),
            ("CARGO_ENCODED_RUSTFLAGS".into(), None),
            ("RUSTFLAGS".into(), None),
        ]);
        options
    }

    /// Returns options for some packages.
    pub(crate) fn options_for(&self, packages: &[&str]) -> BuildOptions {
        let mut options = self.options();
        options.packages = packages.iter().map(|name| name.to_string()).collect();
        options
    }

    /// Returns options with an environment variable.
    pub(crate) fn options_with(&self, name: &str, value: impl Into<OsString>) -> BuildOptions {
        let mut options = self.options();
        options.env.insert(name.into(), Some(value.into()));
        options
    }

    /// Returns all files in the output folder with their contents.
    pub(crate) fn outputs(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = self.out_dir().read_dir().unwrap();
        let files = entries.map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        });
        files.collect()
    }
}

/// Runs a build that must fail with the expected error, and returns the error's text.
#[track_caller]
pub(crate) fn fails_with(options: &BuildOptions, is_expected: impl Fn(&Error) -> bool) -> String {
    let error = build(options).unwrap_err();
    assert!(is_expected(&error), "{error}");
    error.to_string()
}
