//! The measurements that one process makes, and their medians.

use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// A size in MiB, and the cost of the work at that size.
pub(crate) type Row = (usize, Cost);

/// The cost of one piece of work, or the median of several.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Wall-clock time.
    pub(crate) seconds: f64,
    /// CPU time, which excludes the time that other programs had the CPU.
    pub(crate) cpu_seconds: f64,
    /// Page faults.
    pub(crate) faults: f64,
    /// Peak of resident memory, in bytes, where it was measured.
    pub(crate) peak_bytes: f64,
}

impl Cost {
    /// Measures a piece of work in this process.
    pub(crate) fn of(work: impl FnOnce() -> Result<()>) -> Result<Self> {
        // The faults are read outside of the timed stretch, because reading them takes CPU time.
        let faults = page_faults()?;
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        work()?;
        let (cpu_end, end) = (cpu_seconds(), Instant::now());
        Ok(Self {
            seconds: (end - start).as_secs_f64(),
            cpu_seconds: cpu_end - cpu_start,
            faults: page_faults()? - faults,
            peak_bytes: 0.0,
        })
    }

    /// Measures a piece of work `warm_up` times without a use, and then `rounds` times. Returns the
    /// median of each number.
    pub(crate) fn repeated(
        warm_up: usize,
        rounds: usize,
        mut once: impl FnMut() -> Result<Self>,
    ) -> Result<Self> {
        for _ in 0..warm_up {
            once()?;
        }
        let costs: Result<Vec<Self>> = (0..rounds).map(|_| once()).collect();
        Ok(Self::median(&costs?))
    }

    /// Returns the median of each number.
    pub(crate) fn median(costs: &[Self]) -> Self {
        let middle = |number: fn(&Self) -> f64| median(costs.iter().map(number).collect());
        Self {
            seconds: middle(|cost| cost.seconds),
            cpu_seconds: middle(|cost| cost.cpu_seconds),
            faults: middle(|cost| cost.faults),
            peak_bytes: middle(|cost| cost.peak_bytes),
        }
    }
}

/// Returns the median, or 0 if there are no numbers.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let Some(last) = numbers.len().checked_sub(1) else {
        return 0.0;
    };
    f64::midpoint(numbers[last / 2], numbers[last.div_ceil(2)])
}

/// The CPU time of this process so far.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The page faults of this process so far: fields 10 and 12 of proc_pid_stat(5).
fn page_faults() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("/proc/self/stat")?;
    // Field 2, the name of the program, is in parentheses and may contain spaces.
    let (_, after_name) = stat.rsplit_once(')').context("/proc/self/stat")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let field = |number: usize| -> Result<f64> {
        let text = fields.get(number - 3).context("/proc/self/stat is short")?;
        Ok(text.parse()?)
    };
    Ok(field(10)? + field(12)?)
}

/// The peak of resident memory of a process so far, in bytes. `process` is a number or `self`.
pub(crate) fn peak_bytes(process: &str) -> Result<f64> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .with_context(|| format!("{path} has no VmHWM"))?;
    Ok(kib * 1024.0)
}
