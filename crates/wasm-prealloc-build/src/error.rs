//! Every way a build can fail, each naming the file or package it happened to and the way out.
//! Nothing is decided here; what cargo has to say about a guest's code goes to stderr as it is.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Why guests were not built. Output files are then as they were before, except after
/// [`Error::Write`], which may come between two files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Cargo cannot read the workspace.
    #[error("cannot read the workspace of {}", manifest_path.display())]
    Workspace {
        /// The `Cargo.toml` that was asked for.
        manifest_path: PathBuf,
        /// What cargo said.
        source: cargo_metadata::Error,
    },

    /// No package of the workspace can become a module.
    #[error(
        "no package in the workspace of {} is a guest: a guest has a `cdylib` library \
         (`[lib] crate-type = [\"cdylib\"]`) or a binary",
        manifest_path.display()
    )]
    NoGuests {
        /// The `Cargo.toml` that was asked for.
        manifest_path: PathBuf,
    },

    /// A package was asked for that is no guest of the workspace.
    #[error(
        "`{name}` is no guest in the workspace of {}; its guests are: {}",
        manifest_path.display(),
        known.join(", ")
    )]
    UnknownPackage {
        /// The package that was asked for.
        name: String,
        /// The `Cargo.toml` that was asked for.
        manifest_path: PathBuf,
        /// The packages that are guests, sorted.
        known: Vec<String>,
    },

    /// Two guests would be written to one file.
    #[error(
        "the packages `{first}` and `{second}` would both become {name}.wasm: rename a binary, or \
         build them with `-p` to different folders"
    )]
    SameName {
        /// The name of the module, without its extension.
        name: String,
        /// A package that makes it.
        first: String,
        /// Another package that makes it.
        second: String,
    },

    /// A program could not be started.
    #[error("cannot start `{program}`: is it installed, and on PATH?")]
    Start {
        /// The program, as it was looked for.
        program: String,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// The compiler did not answer a question about itself.
    #[error("`{command}` failed ({status}): {stderr}")]
    Compiler {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },

    /// The target's standard library is missing, and nothing here can install it.
    #[error(
        "the standard library for {target} is not installed ({} has none), and there is no \
         `rustup` on PATH to add it: install your distribution's package for it \
         (Debian and Ubuntu: libstd-rust-dev-wasm32, Fedora: rust-std-static-{target}, \
         Arch: rust-wasm, conda-forge: rust-std-{target}), or install rustup \
         (https://rustup.rs) and run `rustup target add {target}`",
        libdir.display()
    )]
    TargetMissing {
        /// The target.
        target: String,
        /// Where the compiler looks for its libraries.
        libdir: PathBuf,
    },

    /// `rustup target add` failed; what it said went to stderr.
    #[error(
        "`rustup target add {target}` failed ({status}): see its message above; without a \
         network, install the target's standard library into {}",
        libdir.display()
    )]
    TargetAdd {
        /// The target.
        target: String,
        /// How rustup ended.
        status: ExitStatus,
        /// Where the compiler looks for its libraries.
        libdir: PathBuf,
    },

    /// rustup added the target, but not to the compiler in use.
    #[error(
        "rustup added {target}, but {} still has no standard library: `{rustc}` is not the \
         compiler of rustup's active toolchain; unset RUSTC, or install the target for it",
        libdir.display()
    )]
    TargetElsewhere {
        /// The target.
        target: String,
        /// The compiler in use.
        rustc: String,
        /// Where that compiler looks for its libraries.
        libdir: PathBuf,
    },

    /// Cargo did not build a guest; its own message went to stderr.
    #[error("cargo did not build `{package}` ({status}): see its message above")]
    Cargo {
        /// The package.
        package: String,
        /// How cargo ended.
        status: ExitStatus,
    },

    /// What cargo reported on its standard output could not be read.
    #[error("cannot read what cargo reports about `{package}`")]
    Report {
        /// The package.
        package: String,
        /// What failed.
        source: std::io::Error,
    },

    /// Cargo succeeded and named no module.
    #[error(
        "cargo built `{package}` and named no .wasm file for its target `{target_name}`: does a \
         cargo configuration replace the linker, or the file's extension?"
    )]
    NoModule {
        /// The package.
        package: String,
        /// The cargo target in that package.
        target_name: String,
    },

    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// A linked module could not be given a fixed memory.
    #[error("cannot fix the memory of `{package}` ({})", path.display())]
    Rewrite {
        /// The package.
        package: String,
        /// The module as it was linked.
        path: PathBuf,
        /// What the rewriter said.
        source: wasm_prealloc::Error,
    },

    /// The workspace's own link arguments declare a memory that cannot be pinned.
    #[error(
        "cannot pin the memory of `{package}` ({}), because {problem}: remove `{flag}` from \
         RUSTFLAGS, from .cargo/config.toml and from build scripts{alternative}",
        path.display()
    )]
    LinkArgs {
        /// The package.
        package: String,
        /// The module as it was linked.
        path: PathBuf,
        /// The problem with the linked module.
        problem: &'static str,
        /// The linker argument that causes it.
        flag: &'static str,
        /// Another remedy; may be empty.
        alternative: &'static str,
    },

    /// A linked module could not be looked at.
    #[error("cannot tell what memory `{package}` ({}) declares", path.display())]
    Inspect {
        /// The package.
        package: String,
        /// The module as it was linked.
        path: PathBuf,
        /// What the parser said.
        source: wasm_prealloc::Error,
    },

    /// A module does not declare the memory that it should after it was rewritten.
    #[error("`{package}` ({}) does not verify after its memory was fixed", path.display())]
    Verify {
        /// The package.
        package: String,
        /// The module as it was linked.
        path: PathBuf,
        /// What does not hold.
        source: wasm_prealloc::VerifyError,
    },

    /// An output file could not be written.
    #[error("cannot write {}: is its folder writable, and is there room on the disk?", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// The manifest of earlier builds is not one.
    #[error(
        "{} is not a manifest of this program: build all packages, without `-p`, to write it anew",
        path.display()
    )]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Where and why it does not parse.
        source: serde_json::Error,
    },

    /// The manifest of earlier builds has another layout.
    #[error(
        "{} has schema {found}, and this program writes schema {expected}: build all packages, \
         without `-p`, to write it anew",
        path.display()
    )]
    ManifestSchema {
        /// The manifest.
        path: PathBuf,
        /// The schema version found.
        found: u32,
        /// The schema version that this program reads and writes.
        expected: u32,
    },
}

impl Error {
    /// Describes a rewrite that failed. The rewriter's own remedies are options that a build does
    /// not have, so those that link arguments cause get a remedy here.
    pub(crate) fn rewrite(package: &str, path: &Path, source: wasm_prealloc::Error) -> Self {
        use wasm_prealloc::Error as Rewriter;
        let (problem, flag, alternative) = match source {
            Rewriter::NoHeapBase => (
                "it is linked with a minimum of 65536 pages and has no `__heap_base`, so the size \
                 at which its growth starts is unknown",
                "--initial-memory",
                ", or add `-Clink-arg=--export=__heap_base` to RUSTFLAGS",
            ),
            Rewriter::ImportedMemoryGrows { .. } => (
                "it grows a memory that it imports, and other modules may count the growth of that \
                 memory too",
                "--import-memory",
                "",
            ),
            Rewriter::SharedMemoryGrows { .. } => (
                "it grows a memory that threads share, and each thread would count its growth alone",
                "--shared-memory",
                "",
            ),
            source => {
                return Self::Rewrite {
                    package: package.to_owned(),
                    path: path.to_owned(),
                    source,
                };
            }
        };
        Self::LinkArgs {
            package: package.to_owned(),
            path: path.to_owned(),
            problem,
            flag,
            alternative,
        }
    }
}
