//! The whole command compared with a program of the same shape that uses walrus. Both start, read a
//! file, and write a file atomically.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use wasm_prealloc_build::AtomicFile;
use wasm_prealloc_tests::{Profile, command, repository};

use super::corpus::Module;
use crate::child::this_program;
use crate::cost::{Cost, median, peak_bytes};

/// The time between two readings of a running process's peak memory.
const POLL: Duration = Duration::from_micros(200);

/// The programs that are compared.
pub(super) const PROGRAMS: [&str; 3] = [
    "wasm-prealloc rewrite",
    "wasm-prealloc rewrite --validate changed",
    "walrus round trip",
];

/// The wall-clock time and the peak memory of each of the [`PROGRAMS`].
pub(super) type Comparison = [Cost; PROGRAMS.len()];

/// The program that the command is compared with.
pub(crate) fn walrus_file(input: &Path, output: &Path) -> Result<()> {
    let mut module = walrus::Module::from_file(input).context("walrus does not parse it")?;
    AtomicFile::write(output, &module.emit_wasm())?.commit()?;
    Ok(())
}

/// Measures the command, with both kinds of validation, and its rival. They take turns.
pub(super) fn compare(module: &Module, rounds: usize) -> Result<Comparison> {
    let binary = command(Profile::Release)?;
    let folder = repository().join("target/bench");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let output = folder.join("out.wasm");
    let start = |program: usize| {
        let mut command;
        if let Some(validate) = ["full", "changed"].get(program) {
            command = Command::new(&binary);
            command.args(["rewrite", "--validate", validate, "-o"]);
            command.arg(&output).arg(&module.path);
        } else {
            command = this_program()?;
            command.arg("walrus-file").arg(&module.path).arg(&output);
        }
        let child = command.stdout(Stdio::null()).spawn();
        child.with_context(|| format!("starting {command:?}"))
    };
    let mut seconds = [const { Vec::new() }; PROGRAMS.len()];
    for _ in 0..rounds {
        for (program, seconds) in seconds.iter_mut().enumerate() {
            let begin = Instant::now();
            finish(start(program)?)?;
            seconds.push(begin.elapsed().as_secs_f64());
        }
    }
    // Reading the peak takes CPU time, so it is done in separate runs.
    let mut costs = Comparison::default();
    for (program, (cost, seconds)) in costs.iter_mut().zip(seconds).enumerate() {
        cost.seconds = median(seconds);
        cost.peak_bytes = watch(start(program)?)?;
    }
    Ok(costs)
}

fn finish(mut child: Child) -> Result<()> {
    let status = child.wait()?;
    ensure!(status.success(), "a program failed ({status})");
    Ok(())
}

/// Waits for a process. Returns the highest peak memory that was read.
fn watch(mut child: Child) -> Result<f64> {
    let process = child.id().to_string();
    let mut peak = 0.0;
    while child.try_wait()?.is_none() {
        // A process that has exited and is not waited for yet has no memory to read.
        peak = peak_bytes(&process).unwrap_or(peak);
        std::thread::sleep(POLL);
    }
    finish(child)?;
    ensure!(
        peak > 0.0,
        "a program ended before its peak memory was read"
    );
    Ok(peak)
}
