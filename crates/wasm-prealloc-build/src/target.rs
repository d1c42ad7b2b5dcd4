//! The target: whether the compiler in use has its standard library, and how to get it.
//! Asks the compiler itself, because not every toolchain comes from rustup. Builds nothing.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::Error;

/// The target that guests are built for.
pub const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// The compiler that built a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Toolchain {
    /// What `rustc --version` prints.
    pub rustc: String,
    /// The machine that the compiler runs on, as a target triple.
    pub host: String,
    /// The target triple that guests are built for.
    pub target: String,
}

/// Where and with which environment cargo, rustc and rustup are run.
///
/// In the guests' own folder, because that is where a `rust-toolchain.toml` and a
/// `.cargo/config.toml` are looked up from.
#[derive(Clone, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) env: &'a BTreeMap<OsString, Option<OsString>>,
}

impl Place<'_> {
    /// The value of an environment variable as the programs run here will see it.
    pub(crate) fn variable(&self, name: &str) -> Option<OsString> {
        let value = match self.env.get(OsStr::new(name)) {
            Some(value) => value.clone(),
            None => std::env::var_os(name),
        };
        value.filter(|value| !value.is_empty())
    }

    /// Cargo: the one that started this program, if one did.
    pub(crate) fn cargo(&self) -> OsString {
        self.variable("CARGO").unwrap_or_else(|| "cargo".into())
    }

    fn rustc(&self) -> OsString {
        self.variable("RUSTC").unwrap_or_else(|| "rustc".into())
    }

    pub(crate) fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder);
        for (name, value) in self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Asks the compiler something, and returns its answer.
    fn ask_rustc(&self, arguments: &[&str]) -> Result<String, Error> {
        let rustc = self.rustc();
        let output = self
            .command(&rustc)
            .args(arguments)
            .output()
            .map_err(|source| Error::Start {
                program: rustc.display().to_string(),
                source,
            })?;
        if !output.status.success() {
            return Err(Error::Compiler {
                command: format!("{} {}", rustc.display(), arguments.join(" ")),
                status: output.status,
                stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// Makes sure that the compiler can build for [`WASM_TARGET`], if need be with
/// `rustup target add`, and says which compiler it is.
pub(crate) fn ensure(place: &Place<'_>) -> Result<Toolchain, Error> {
    let libdir =
        PathBuf::from(place.ask_rustc(&["--print", "target-libdir", "--target", WASM_TARGET])?);
    if !has_standard_library(&libdir) {
        add_with_rustup(place, &libdir)?;
    }
    describe(place)
}

/// Whether a compiler's library folder holds a standard library to link against.
fn has_standard_library(libdir: &Path) -> bool {
    let Ok(entries) = libdir.read_dir() else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    })
}

fn add_with_rustup(place: &Place<'_>, libdir: &Path) -> Result<(), Error> {
    let added = place
        .command(OsStr::new("rustup"))
        .args(["target", "add", WASM_TARGET])
        // What it has to say is for people; the caller's standard output may be a program's.
        .stdout(Stdio::null())
        .status();
    let status = match added {
        Ok(status) => status,
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            return Err(Error::TargetMissing {
                target: WASM_TARGET.to_owned(),
                libdir: libdir.to_owned(),
            });
        }
        Err(source) => {
            return Err(Error::Start {
                program: "rustup".to_owned(),
                source,
            });
        }
    };
    if !status.success() {
        return Err(Error::TargetAdd {
            target: WASM_TARGET.to_owned(),
            status,
            libdir: libdir.to_owned(),
        });
    }
    if !has_standard_library(libdir) {
        return Err(Error::TargetElsewhere {
            target: WASM_TARGET.to_owned(),
            rustc: place.rustc().display().to_string(),
            libdir: libdir.to_owned(),
        });
    }
    Ok(())
}

fn describe(place: &Place<'_>) -> Result<Toolchain, Error> {
    let version = place.ask_rustc(&["--version", "--verbose"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(Toolchain {
        rustc: version.lines().next().unwrap_or_default().to_owned(),
        host: host.unwrap_or_default().to_owned(),
        target: WASM_TARGET.to_owned(),
    })
}
