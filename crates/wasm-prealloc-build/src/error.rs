//! The errors of a build. Each names the file or the package, and the remedy. Cargo's own messages go
//! to stderr.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// The reason why guests were not built. The output files are then unchanged, except after
/// [`Error::Write`], which can occur between two files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Cargo cannot read the workspace.
    #[error("cannot read the workspace of {}", manifest_path.display())]
    Workspace {
        /// The `Cargo.toml` in the options.
        manifest_path: PathBuf,
        /// Cargo's error.
        source: cargo_metadata::Error,
    },

    /// No package of the workspace is a guest.
    #[error(
        "no package in the workspace of {} is a guest: a guest has a `cdylib` library \
         (`[lib] crate-type = [\"cdylib\"]`) or a binary",
        manifest_path.display()
    )]
    NoGuests {
        /// The `Cargo.toml` in the options.
        manifest_path: PathBuf,
    },

    /// A package in the options is not a guest of the workspace.
    #[error(
        "`{name}` is not a guest in the workspace of {}; its guests are: {}",
        manifest_path.display(),
        known.join(", ")
    )]
    UnknownPackage {
        /// The package in the options.
        name: String,
        /// The `Cargo.toml` in the options.
        manifest_path: PathBuf,
        /// The packages that are guests, sorted.
        known: Vec<String>,
    },

    /// Two guests have the same output file.
    #[error(
        "the packages `{first}` and `{second}` both have the output {name}.wasm: rename a binary, \
         or build them with `-p` to different folders"
    )]
    SameName {
        /// The name of the module, without its extension.
        name: String,
        /// A package with that module.
        first: String,
        /// Another package with that module.
        second: String,
    },

    /// A program could not be started.
    #[error(
        "cannot start `{program}`: install it, or correct the variable that names it (CARGO, RUSTC) \
         or its folder (PATH)"
    )]
    Start {
        /// The program's name or path.
        program: String,
        /// The operating system's error.
        source: std::io::Error,
    },

    /// The compiler failed to describe itself.
    #[error("`{command}` failed ({status}): {stderr}")]
    Compiler {
        /// The command line.
        command: String,
        /// Its exit status.
        status: ExitStatus,
        /// Its output on stderr.
        stderr: String,
    },

    /// The target's standard library is missing, and there is no rustup to install it.
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
        /// The compiler's library folder for the target.
        libdir: PathBuf,
    },

    /// `rustup target add` failed, with a message on stderr.
    #[error(
        "`rustup target add {target}` failed ({status}), see its message above: without a \
         network, install the target's standard library into {}",
        libdir.display()
    )]
    TargetAdd {
        /// The target.
        target: String,
        /// The exit status of rustup.
        status: ExitStatus,
        /// The compiler's library folder for the target.
        libdir: PathBuf,
    },

    /// rustup installed the target for another compiler.
    #[error(
        "rustup added {target}, but {} still has no standard library, because `{rustc}` is not \
         the compiler of rustup's active toolchain: unset RUSTC, or install the target for it",
        libdir.display()
    )]
    TargetElsewhere {
        /// The target.
        target: String,
        /// The compiler in use.
        rustc: String,
        /// That compiler's library folder for the target.
        libdir: PathBuf,
    },

    /// Cargo did not build a guest, with a message on stderr.
    #[error("cargo did not build `{package}` ({status}): see its message above")]
    Cargo {
        /// The package.
        package: String,
        /// The exit status of cargo.
        status: ExitStatus,
    },

    /// Cargo's output could not be read.
    #[error("cannot read the output of cargo for `{package}`")]
    Report {
        /// The package.
        package: String,
        /// The error of the read.
        source: std::io::Error,
    },

    /// Cargo succeeded without a module.
    #[error(
        "cargo built `{package}` without a .wasm file for its target `{target_name}`: check that \
         no cargo configuration replaces the linker"
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
        /// The operating system's error.
        source: std::io::Error,
    },

    /// A linked module could not be read or rewritten.
    #[error(
        "cannot process the module of `{package}` ({}): {}{}",
        path.display(),
        cause.problem(),
        advice(cause)
    )]
    Rewrite {
        /// The package.
        package: String,
        /// The module as it was linked.
        path: PathBuf,
        /// The rewriter's error. It is no source, because a build cannot follow its remedy.
        cause: wasm_prealloc::Error,
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

    /// A rewritten module is not pinned. This is a defect of wasm-prealloc.
    #[error("the rewritten module of `{package}` ({}) is not pinned", path.display())]
    Verify {
        /// The package.
        package: String,
        /// The module as it was linked.
        path: PathBuf,
        /// The violations.
        source: wasm_prealloc::VerifyError,
    },

    /// An output file could not be written.
    #[error("cannot write {}: check that its folder is writable and that the disk is not full", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },

    /// The manifest of earlier builds does not parse.
    #[error(
        "{} is not a manifest of this program: build all packages, without `-p`, to replace it",
        path.display()
    )]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The parser's error.
        source: serde_json::Error,
    },

    /// The manifest of earlier builds has another layout.
    #[error(
        "{} has schema {found}, and this program writes schema {expected}: build all packages, \
         without `-p`, to replace it",
        path.display()
    )]
    ManifestSchema {
        /// The manifest.
        path: PathBuf,
        /// The schema of the file.
        found: u32,
        /// The schema that this program reads and writes.
        expected: u32,
    },
}

impl Error {
    /// Describes a rewrite that failed. The rewriter's own remedies are options that a build does
    /// not have, so those that link arguments cause get a remedy here.
    pub(crate) fn rewrite(package: &str, path: &Path, cause: wasm_prealloc::Error) -> Self {
        use wasm_prealloc::Error as Rewriter;
        let (problem, flag, alternative) = match cause {
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
            Rewriter::NoRoomForCounter { .. } => (
                "it is linked with a minimum that leaves no room for the page in which its growth \
                 is counted",
                "--initial-memory",
                "",
            ),
            cause => {
                return Self::Rewrite {
                    package: package.to_owned(),
                    path: path.to_owned(),
                    cause,
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

/// Returns the remedy for a linked module that cannot be rewritten. A build has no settings for the
/// rewriter.
fn advice(cause: &wasm_prealloc::Error) -> String {
    match cause.remedy() {
        None => String::new(),
        Some(remedy) if remedy.settings().is_empty() => format!(": {remedy}"),
        Some(_) => ": a build has no option for that, so rewrite this module by itself with \
            `wasm-prealloc rewrite`, which names the options"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A build has neither the flags of the command nor the settings of the library.
    #[test]
    fn a_build_names_no_settings_of_the_rewriter() {
        let module = b"\0asm\x01\0\0\0\x05\x04\x01\x01\x05\x05";
        let mut options = wasm_prealloc::Options::default();
        options.pages = 1;
        let cause = wasm_prealloc::rewrite(module, &options).unwrap_err();
        assert!(cause.to_string().contains("Options::pages"), "{cause}");
        let error = Error::rewrite("guest", Path::new("guest.wasm"), cause).to_string();
        assert!(!error.contains("::") && !error.contains("`--"), "{error}");
        assert!(
            error.ends_with("`wasm-prealloc rewrite`, which names the options"),
            "{error}"
        );
    }
}
