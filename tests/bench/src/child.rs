//! Starts this program again, for one measurement.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::de::DeserializeOwned;

/// Runs one measurement in a new process, and reads the JSON that it prints.
pub(crate) fn measure_in_child<T: DeserializeOwned>(arguments: [&OsStr; 3]) -> Result<T> {
    let output = this_program()?
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .context("starting a measurement")?;
    ensure!(
        output.status.success(),
        "{arguments:?} failed ({})",
        output.status
    );
    serde_json::from_slice(&output.stdout).context("reading a measurement")
}

pub(crate) fn this_program() -> Result<Command> {
    let path = std::env::current_exe().context("finding this program")?;
    Ok(Command::new(path))
}
