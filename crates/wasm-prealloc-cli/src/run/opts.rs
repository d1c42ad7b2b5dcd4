//! The flags of `run`, and the values of `--dir`, `--env` and `--timeout`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use wasm_prealloc_host::DEFAULT_TABLE_ELEMENTS;

use crate::input::{Input, Limit};
use crate::{exit, memory};

const EXAMPLES: &[&str] = &[
    "wasm-prealloc run program.wasm one --two",
    "wasm-prealloc run program.wasm -- --quiet",
    "wasm-prealloc run --dir data --env LEVEL=3 --timeout 30s program.wasm data/input",
    "wasm-prealloc run --invoke add sum.wasm 1 2",
    "wasm-prealloc run --policy commit-maximum untouched.wasm",
    "wasm-prealloc run --policy cap --pages 4096 untouched.wasm",
];

/// 16 MiB: about 700,000 exceptions with a few values each. The engine's collector frees none of
/// them before the end.
const DEFAULT_ENGINE_HEAP_BYTES: u64 = 16 << 20;

/// Run a program in memory that is committed before the program starts
///
/// The program is a core module, which may import WASI preview 1 and nothing else, or a component of
/// the world `wasi:cli/command` (WASI 0.2). It gets stdin, stdout, stderr and its arguments, and the
/// folders and environment variables that the flags give it. It has no network. Its exit status
/// becomes the status of this command; most components can exit with 0 and 1 only.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help_of_run(EXAMPLES))]
pub(crate) struct Opts {
    /// The module or component: binary, text or gzip; `-` is stdin
    #[arg(value_name = "MODULE")]
    pub(super) module: Input,

    /// Give the program a folder, which it sees as GUEST, or else under the same name
    #[arg(long = "dir", value_name = "HOST[::GUEST]")]
    pub(super) folders: Vec<Folder>,

    /// Give the program an environment variable. Without a value, it has the value that it has
    /// here, and is not set if it is not set here
    #[arg(long = "env", value_name = "NAME[=VALUE]")]
    pub(super) variables: Vec<Variable>,

    /// End the program with a trap after this time: seconds, or a number with the unit `s`, `ms`,
    /// `us` or `ns`. The time for compilation and for the commit does not count
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,

    /// End the program with a trap after N units of fuel. Nearly every instruction consumes one.
    /// The same module ends at the same instruction on every machine
    #[arg(long, value_name = "N")]
    pub(super) fuel: Option<u64>,

    /// Call this export with the numbers ARGS instead of the program's start, and print its results
    #[arg(long, value_name = "NAME")]
    pub(super) invoke: Option<String>,

    /// The size of each slot of committed memory, in 64 KiB pages. With `declared`, every memory
    /// must have this size, and the default is 65536. With `commit-maximum`, the default is the
    /// largest maximum of the module's memories. With `cap`, it is the cap of each memory, and it
    /// must be given
    #[arg(long, value_name = "N")]
    pub(super) pages: Option<u64>,

    /// The number of memories to commit [default: the number that the program has]
    #[arg(long, value_name = "N")]
    pub(super) slots: Option<usize>,

    /// The size of the engine's own heap, in bytes. It is committed for a module that uses
    /// exceptions, `externref` or GC types, and not for others
    #[arg(long, value_name = "N", default_value_t = DEFAULT_ENGINE_HEAP_BYTES)]
    pub(super) engine_heap_bytes: u64,

    /// The number of elements that the module's tables can have together. Growth beyond it returns
    /// -1
    #[arg(long, value_name = "N", default_value_t = DEFAULT_TABLE_ELEMENTS)]
    pub(super) table_elements: u64,

    /// Do not print what was secured
    #[arg(short, long)]
    pub(super) quiet: bool,

    #[command(flatten)]
    pub(super) memory: memory::MemoryOpts,

    #[command(flatten)]
    pub(super) limit: Limit,

    /// Arguments for the program. Everything after the first is for the program. If the first is the
    /// name of a flag above, put `--` before it
    #[arg(
        value_name = "ARGS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    args: Vec<OsString>,
}

impl Opts {
    /// Returns the arguments for the program.
    pub(super) fn args(&self) -> Result<Vec<String>> {
        let args = self.args.iter().cloned().map(|arg| {
            let arg = arg.into_string();
            arg.map_err(|arg| anyhow::anyhow!("the argument {} is not UTF-8", arg.display()))
        });
        args.collect()
    }
}

/// A folder of the host, and the name that the program sees.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub(super) host: PathBuf,
    pub(super) guest: String,
}

impl FromStr for Folder {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (host, guest) = text.split_once("::").unwrap_or((text, text));
        ensure!(
            !host.is_empty() && !guest.is_empty(),
            "a folder has no name"
        );
        Ok(Self {
            host: host.into(),
            guest: guest.to_owned(),
        })
    }
}

/// An environment variable of the program.
#[derive(Clone, Debug)]
pub(super) struct Variable {
    pub(super) name: String,
    /// `None` if the value is inherited.
    pub(super) value: Option<String>,
}

impl FromStr for Variable {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        ensure!(!name.is_empty(), "the variable has no name");
        Ok(Self {
            name: name.to_owned(),
            value,
        })
    }
}

/// Parses a duration as `wasmtime run` does. A number without a unit is in seconds.
fn duration(text: &str) -> Result<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let new = match unit {
        "" | "s" => Duration::from_secs,
        "ms" => Duration::from_millis,
        "us" => Duration::from_micros,
        "ns" => Duration::from_nanos,
        _ => bail!("a duration is a number of seconds, or a number with `s`, `ms`, `us` or `ns`"),
    };
    Ok(new(number.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_units_of_wasmtime() {
        for (text, nanoseconds) in [
            ("2", 2_000_000_000),
            ("3s", 3_000_000_000),
            ("4ms", 4_000_000),
            ("5us", 5_000),
            ("6ns", 6),
        ] {
            assert_eq!(duration(text).unwrap(), Duration::from_nanos(nanoseconds));
        }
        for text in ["", "s", "1.5s", "-1", "1h", "1 s"] {
            duration(text).unwrap_err();
        }
    }
}
