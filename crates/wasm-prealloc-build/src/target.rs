//! The wasm target: checks that the compiler has its standard library, and installs it with rustup.
//! The compiler itself is queried, because not every toolchain comes from rustup.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::cargo_env::CargoEnv;

/// The target that guests are built for.
pub const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// The compiler that built a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Toolchain {
    /// The output of `rustc --version`.
    pub rustc: String,
    /// The machine that the compiler runs on, as a target triple.
    pub host: String,
    /// The target triple that guests are built for.
    pub target: String,
}

/// Makes sure that the compiler can build for [`WASM_TARGET`], with `rustup target add` if it
/// cannot, and returns the compiler's version.
pub(crate) fn ensure(env: &CargoEnv<'_>) -> Result<Toolchain, Error> {
    let libdir =
        PathBuf::from(env.query_rustc(&["--print", "target-libdir", "--target", WASM_TARGET])?);
    if !has_standard_library(&libdir) {
        add_with_rustup(env, &libdir)?;
    }
    describe(env)
}

/// Returns true if a compiler's library folder holds a standard library.
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

fn add_with_rustup(env: &CargoEnv<'_>, libdir: &Path) -> Result<(), Error> {
    let added = env
        .command(OsStr::new("rustup"))
        .args(["target", "add", WASM_TARGET])
        // The caller may print to stdout what a program reads; rustup's progress is for people.
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
        Err(source) => return Err(CargoEnv::not_started(OsStr::new("rustup"), source)),
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
            rustc: env.rustc().display().to_string(),
            libdir: libdir.to_owned(),
        });
    }
    Ok(())
}

fn describe(env: &CargoEnv<'_>) -> Result<Toolchain, Error> {
    let version = env.query_rustc(&["--version", "--verbose"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(Toolchain {
        rustc: version.lines().next().unwrap_or_default().to_owned(),
        host: host.unwrap_or_default().to_owned(),
        target: WASM_TARGET.to_owned(),
    })
}
