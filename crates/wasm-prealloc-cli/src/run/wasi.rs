//! The part of WASI that the flags give a program, and the data of its store.

use std::env::{self, VarError};
use std::io;

use anyhow::{Context as _, Result, bail};
use wasm_prealloc_host::StoreLimiter;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder, WasiCtxView, WasiView};

use super::from_engine;
use super::opts::Opts;

/// The data of a program's store.
pub(super) struct State {
    pub(super) wasi: WasiP1Ctx,
    pub(super) limiter: StoreLimiter,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

/// Opens the folders, and collects what else the program can see. With `json`, the program's standard
/// output goes to stderr, because stdout has the document.
pub(super) fn context(opts: &Opts, name: &str, args: &[String], json: bool) -> Result<WasiP1Ctx> {
    let mut wasi = WasiCtxBuilder::new();
    // The engine is synchronous, so a program waits for the system's calls on its own thread.
    wasi.allow_blocking_current_thread(true)
        .inherit_stdin()
        .inherit_stderr()
        .arg(name)
        .args(args);
    match json {
        true => wasi.stdout(io::stderr()),
        false => wasi.inherit_stdout(),
    };
    for variable in &opts.variables {
        let value = match &variable.value {
            Some(value) => Some(value.clone()),
            None => inherited(&variable.name)?,
        };
        if let Some(value) = value {
            wasi.env(&variable.name, value);
        }
    }
    for folder in &opts.folders {
        wasi.preopened_dir(&folder.host, &folder.guest, FsPerms::ReadWrite)
            .map_err(|error| match error.downcast::<io::Error>() {
                Ok(error) => error.into(),
                Err(error) => from_engine(error),
            })
            .with_context(|| format!("cannot open the folder {}", folder.host.display()))?;
    }
    Ok(wasi.build_p1())
}

/// Returns the value of an environment variable of this process.
fn inherited(name: &str) -> Result<Option<String>> {
    match env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => bail!("the value of {name} is not UTF-8"),
    }
}
