//! The whole command against a program of the same shape that goes through walrus: both start,
//! read a file, and write a file that appears whole.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use wasm_prealloc_build::StagedFile;
use wasm_prealloc_tests::repository;

use crate::child::{median, peak_bytes};
use crate::corpus::Module;

/// How often a running process is asked for its peak.
const POLL: Duration = Duration::from_micros(200);

/// What a program takes from its start to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) seconds: f64,
    pub(crate) peak_bytes: u64,
}

/// Both programs on one module.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) ours_full: Taken,
    pub(crate) ours_changed: Taken,
    pub(crate) walrus: Taken,
}

/// The program that ours is compared with.
pub(crate) fn walrus_file(input: &Path, output: &Path) -> Result<()> {
    let mut module = walrus::Module::from_file(input).context("walrus does not parse it")?;
    StagedFile::write(output, &module.emit_wasm())?.publish()?;
    Ok(())
}

pub(crate) fn compare(ours: &Path, module: &Module, rounds: usize) -> Result<Comparison> {
    let walrus = std::env::current_exe().context("finding this program")?;
    let folder = repository().join("target/bench");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let output = folder.join("out.wasm");
    let rewrite = |validate: &str| {
        let mut command = Command::new(ours);
        command.arg("rewrite").arg(&module.path).arg("-o");
        command.arg(&output).args(["--validate", validate]);
        command
    };
    let round_trip = || {
        let mut command = Command::new(&walrus);
        command.arg("walrus-file").arg(&module.path).arg(&output);
        command
    };
    let mut seconds = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        for (i, times) in seconds.iter_mut().enumerate() {
            let command = [rewrite("full"), rewrite("changed"), round_trip()]
                .into_iter()
                .nth(i);
            let begin = Instant::now();
            finish(start(command.context("there are three")?)?)?;
            times.push(begin.elapsed().as_secs_f64());
        }
    }
    let [full, changed, walrus] = seconds.map(median);
    // Watching costs time on a small machine, so it has runs of its own.
    let taken = |seconds, command| -> Result<Taken> {
        let peak_bytes = watch(command)?;
        Ok(Taken {
            seconds,
            peak_bytes,
        })
    };
    Ok(Comparison {
        ours_full: taken(full, rewrite("full"))?,
        ours_changed: taken(changed, rewrite("changed"))?,
        walrus: taken(walrus, round_trip())?,
    })
}

/// The programs that are measured.
#[derive(Debug)]
pub(crate) struct Programs {
    /// The command as it is released.
    pub(crate) command: PathBuf,
    /// The host crate's example.
    pub(crate) measure: PathBuf,
}

/// Builds what is not up to date. With `--workspace` the engine is built once for both.
pub(crate) fn build() -> Result<Programs> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(repository())
        .args(["build", "--quiet", "--release", "--workspace"])
        .args(["--bin", "wasm-prealloc", "--example", "measure"])
        .status()
        .context("cannot start cargo")?;
    ensure!(
        status.success(),
        "cargo did not build what is measured ({status})"
    );
    // This program stands where cargo has put them.
    let this = std::env::current_exe().context("finding this program")?;
    Ok(Programs {
        command: this.with_file_name("wasm-prealloc"),
        measure: this.with_file_name("examples").join("measure"),
    })
}

fn start(mut command: Command) -> Result<Child> {
    command
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {command:?}"))
}

fn finish(mut child: Child) -> Result<()> {
    let status = child.wait()?;
    ensure!(status.success(), "a program failed ({status})");
    Ok(())
}

/// Runs a program and gives the highest peak that was seen of it.
fn watch(command: Command) -> Result<u64> {
    let mut child = start(command)?;
    let process = child.id().to_string();
    let mut peak = 0;
    while child.try_wait()?.is_none() {
        // Between its end and our asking it has no memory to tell of.
        peak = peak_bytes(&process).unwrap_or(peak);
        std::thread::sleep(POLL);
    }
    finish(child)?;
    match peak {
        0 => bail!("a program ended before its memory could be seen"),
        _ => Ok(peak),
    }
}
