//! One contender and one module in a process of their own, so that neither the peak nor the state
//! of the allocator is anybody else's. What comes out is one line of JSON.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::contenders::Contender;

/// Small modules are gone through again and again for this long.
const AT_LEAST: Duration = Duration::from_millis(40);

/// What one process has measured.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Median time to go through the module, behind one untimed time.
    pub(crate) seconds: f64,
    /// The same in time on the CPU, which leaves out what other programs took of it.
    pub(crate) cpu_seconds: f64,
    /// Peak of resident memory above that of the process before it read the module.
    pub(crate) peak_bytes: u64,
}

/// Starts this program again for one measurement.
pub(crate) fn measure(contender: Contender, module: &Path) -> Result<Sample> {
    let this = std::env::current_exe().context("finding this program")?;
    let name = clap::ValueEnum::to_possible_value(&contender).context("a contender has a name")?;
    let output = Command::new(this)
        .args(["child", name.get_name()])
        .arg(module)
        .stderr(Stdio::inherit())
        .output()
        .context("starting a measurement")?;
    ensure!(
        output.status.success(),
        "{}: {} failed ({})",
        module.display(),
        contender.title(),
        output.status
    );
    serde_json::from_slice(&output.stdout).context("reading a measurement")
}

/// Measures, in the process that was started for it.
pub(crate) fn run(contender: Contender, module: &Path) -> Result<Sample> {
    let before = peak_bytes("self")?;
    let wasm = std::fs::read(module).with_context(|| module.display().to_string())?;
    let mut made = Vec::new();
    contender.run(&wasm, &mut made)?;
    let peak_bytes = peak_bytes("self")?.saturating_sub(before);

    let begin = Instant::now();
    let mut times = Vec::new();
    let mut cpu_times = Vec::new();
    while times.is_empty() || begin.elapsed() < AT_LEAST {
        if !contender.reuses_its_buffer() {
            made = Vec::new();
        }
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        contender.run(std::hint::black_box(&wasm), &mut made)?;
        cpu_times.push(cpu_seconds() - cpu_start);
        times.push(start.elapsed().as_secs_f64());
        std::hint::black_box(&made);
    }
    Ok(Sample {
        seconds: median(times),
        cpu_seconds: median(cpu_times),
        peak_bytes,
    })
}

/// What this process has had of the CPU so far.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The most memory that a process has had resident so far; `process` is a number or `self`.
pub(crate) fn peak_bytes(process: &str) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .with_context(|| format!("{path} has no VmHWM"))?;
    Ok(kib * 1024)
}

/// The middle of some numbers, or the mean of the two in the middle; 0 of none.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let Some(last) = numbers.len().checked_sub(1) else {
        return 0.0;
    };
    f64::midpoint(numbers[last / 2], numbers[last.div_ceil(2)])
}
