//! Arguments and results of functions as text.

pub(super) mod component;
pub(super) mod core;

use anyhow::{Result, ensure};

/// Checks that a function has as many parameters as arguments are given.
fn check_count(given: &[String], parameters: usize) -> Result<()> {
    let given = given.len();
    ensure!(
        given == parameters,
        "takes {parameters} arguments, and {given} are given"
    );
    Ok(())
}
