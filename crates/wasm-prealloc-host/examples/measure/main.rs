//! One contender of the host's benchmarks, measured in a process of its own. `cargo xtask bench`
//! starts this again and again, and compares; a line that it prints is what was measured, how
//! large that was in MiB, seconds by the clock, seconds on the CPU, and page faults.
//!
//! The bare system calls that the library is compared with are in `bare`, the blocks in `block`.

// To make the bare system calls is what some contenders are for.
#![allow(unsafe_code)]

mod bare;
mod block;
mod reset;
mod secure;
// The library's own, which it does not lend out: to scan with nothing around it.
#[path = "../../src/track.rs"]
mod track;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["secure", contender] => secure::measure(contender),
        ["block", contender] => block::measure(contender),
        ["reset", contender] => reset::measure(contender),
        _ => {
            eprintln!("usage: measure secure|block|reset CONTENDER");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What something took.
#[derive(Clone, Copy)]
struct Cost {
    seconds: f64,
    cpu_seconds: f64,
    faults: f64,
}

impl Cost {
    fn of(work: impl FnOnce() -> Result<()>) -> Result<Cost> {
        let (start, before) = (Instant::now(), usage()?);
        work()?;
        let after = usage()?;
        Ok(Cost {
            seconds: start.elapsed().as_secs_f64(),
            cpu_seconds: after.0 - before.0,
            faults: after.1 - before.1,
        })
    }

    /// The middle of each number.
    fn median(costs: &[Cost]) -> Cost {
        let middle = |number: fn(&Cost) -> f64| {
            let mut numbers: Vec<f64> = costs.iter().map(number).collect();
            numbers.sort_by(f64::total_cmp);
            numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
        };
        Cost {
            seconds: middle(|cost| cost.seconds),
            cpu_seconds: middle(|cost| cost.cpu_seconds),
            faults: middle(|cost| cost.faults),
        }
    }

    fn print(&self, what: &str, mib: usize) {
        println!(
            "{what} {mib} {:.9} {:.9} {}",
            self.seconds, self.cpu_seconds, self.faults
        );
    }
}

/// Seconds that this process has had of the CPU, and its page faults.
fn usage() -> Result<(f64, f64)> {
    // SAFETY: structures of numbers, for which zero is a value; the calls fill them in.
    let (time, usage) = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) != 0
            || libc::getrusage(libc::RUSAGE_SELF, &mut usage) != 0
        {
            bail!(std::io::Error::last_os_error());
        }
        (time, usage)
    };
    let seconds = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    Ok((seconds, (usage.ru_minflt + usage.ru_majflt) as f64))
}
