//! The folder and the environment in which cargo, rustc and rustup are started, and the toolchain
//! that they use there. The target's standard library is in `target.rs`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::Command;

use crate::Error;

/// Names the toolchain; set by a user, and by rustup's proxies for the programs that they start.
const TOOLCHAIN: &str = "RUSTUP_TOOLCHAIN";
/// Says where rustup's proxy has the toolchain from; set by rustup 1.29 and later.
const TOOLCHAIN_SOURCE: &str = "RUSTUP_TOOLCHAIN_SOURCE";
/// Counts rustup's proxies; set by each of them.
const PROXIES: &str = "RUST_RECURSION_COUNT";

/// The guests' folder, and changes to the environment of this process.
///
/// Programs run in the guests' folder because cargo and rustup look up `.cargo/config.toml` and
/// `rust-toolchain.toml` from there.
#[derive(Clone, Debug)]
pub(crate) struct CargoEnv<'a> {
    pub(crate) folder: &'a Path,
    /// The variables that differ from this process's own environment.
    pub(crate) env: BTreeMap<OsString, Option<OsString>>,
}

impl<'a> CargoEnv<'a> {
    /// Applies the caller's changes, and lets rustup choose the toolchain of the guests' folder
    /// unless the user or the caller has chosen one.
    ///
    /// Under `cargo xtask`, rustup's proxy has chosen a toolchain for the current folder and
    /// exported it as `RUSTUP_TOOLCHAIN`, which would override a `rust-toolchain.toml` in the
    /// guests' folder. `CARGO` is then that toolchain's cargo, which would ignore the file too.
    pub(crate) fn new(folder: &'a Path, env: &BTreeMap<OsString, Option<OsString>>) -> Self {
        let mut this = Self {
            folder,
            env: env.clone(),
        };
        if !env.contains_key(OsStr::new(TOOLCHAIN)) && this.is_toolchain_from_proxy() {
            for name in [TOOLCHAIN, TOOLCHAIN_SOURCE, "CARGO"] {
                this.env.entry(name.into()).or_insert(None);
            }
        }
        this
    }

    /// Returns true if `RUSTUP_TOOLCHAIN` is what rustup found for the current folder, and not what
    /// the user asked for by `+toolchain` or by setting the variable.
    fn is_toolchain_from_proxy(&self) -> bool {
        if self.variable(TOOLCHAIN).is_none() || self.variable(PROXIES).is_none() {
            return false;
        }
        match self.variable(TOOLCHAIN_SOURCE) {
            Some(source) => source != "cli" && source != "env",
            // Before rustup 1.29, and under `rustup run`: a choice that makes no difference here is
            // not the user's.
            None => {
                let sysroot = |command: &mut Command| {
                    let output = command.args(["--print", "sysroot"]).output().ok()?;
                    output.status.success().then_some(output.stdout)
                };
                let rustc = || {
                    let mut rustc = self.command(&self.rustc());
                    rustc.current_dir(".");
                    rustc
                };
                let exported = sysroot(&mut rustc());
                exported.is_some() && exported == sysroot(rustc().env_remove(TOOLCHAIN))
            }
        }
    }

    /// Returns the value of an environment variable as the programs started here see it; `None` if
    /// it is unset or empty.
    fn variable(&self, name: &str) -> Option<OsString> {
        let value = match self.env.get(OsStr::new(name)) {
            Some(value) => value.clone(),
            None => std::env::var_os(name),
        };
        value.filter(|value| !value.is_empty())
    }

    /// Returns the path of cargo: the one that started this program, or the one on PATH.
    pub(crate) fn cargo(&self) -> OsString {
        self.variable("CARGO").unwrap_or_else(|| "cargo".into())
    }

    /// Returns the path of the compiler.
    pub(crate) fn rustc(&self) -> OsString {
        self.variable("RUSTC").unwrap_or_else(|| "rustc".into())
    }

    /// Prepares a program to be started in the guests' folder.
    pub(crate) fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder);
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Describes a program that cannot be started.
    pub(crate) fn not_started(program: &OsStr, source: io::Error) -> Error {
        Error::Start {
            program: program.display().to_string(),
            source,
        }
    }

    /// Runs the compiler, and returns what it prints.
    pub(crate) fn query_rustc(&self, arguments: &[&str]) -> Result<String, Error> {
        let rustc = self.rustc();
        let output = self
            .command(&rustc)
            .args(arguments)
            .output()
            .map_err(|source| Self::not_started(&rustc, source))?;
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
