//! The pools of blocks and views while they are in use: the check that their memory is still there,
//! and their statistics.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasm_prealloc_host::{MemoryPool, Policy, Residency, SecureError, write_tracking};

use crate::memory::{Use, in_flags};
use crate::service;

/// The pools of this process. None if the host is unsecured.
pub(crate) struct Pools {
    pools: Vec<(Use, MemoryPool)>,
    checks: Mutex<Checks>,
}

/// The checks that all memory is still there.
struct Checks {
    /// The time between two checks. `None` for no checks.
    interval: Option<Duration>,
    last: Instant,
    count: u64,
    /// What each pool had at the last check.
    found: Vec<(Use, Residency)>,
}

impl Pools {
    pub(crate) fn new(pools: Vec<(Use, MemoryPool)>, interval: Option<Duration>) -> Pools {
        let checks = Checks {
            interval,
            last: Instant::now(),
            count: 0,
            found: Vec::new(),
        };
        Pools {
            pools,
            checks: Mutex::new(checks),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(Use, MemoryPool)> {
        self.pools.iter()
    }

    /// Returns the number of checks, and what each pool had at the last one.
    pub(crate) fn checked(&self) -> (u64, Vec<(Use, Residency)>) {
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        (checks.count, checks.found.clone())
    }

    /// Checks that all of the memory is still there, if the last check is long enough ago.
    pub(crate) fn check_if_due(&self) -> Result<(), SecureError> {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = checks.last.elapsed();
        if self.pools.is_empty() || checks.interval.is_none_or(|interval| elapsed < interval) {
            return Ok(());
        }
        checks.last = Instant::now();
        checks.found.clear();
        for (of, pool) in &self.pools {
            match pool.check() {
                Ok(residency) => checks.found.push((*of, residency)),
                // A process that is not dumpable cannot read its own page tables.
                Err(error @ SecureError::Unreadable { .. }) => {
                    eprintln!("warning: the memory is not checked again: {error}");
                    checks.interval = None;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        checks.count += 1;
        Ok(())
    }

    /// Prints what was secured.
    pub(crate) fn report_secured(&self) {
        for (of, pool) in &self.pools {
            if let Some(secured) = pool.secured() {
                let line = match of {
                    Use::Blocks => format!("secured: {secured}"),
                    Use::Views => format!("secured for {} views: {secured}", pool.slots()),
                };
                eprintln!("{line}");
                service::set_status(&line);
            }
            if let Some(report) = pool.unsecured() {
                let report = in_flags(&report, *of);
                eprintln!("warning: {report}");
                service::set_status(&report);
            }
            if let (Policy::Declared, Err(error)) = (pool.policy(), write_tracking()) {
                let error = in_flags(&error.to_string(), *of);
                let what = match of {
                    Use::Blocks => "block",
                    Use::Views => "view",
                };
                eprintln!("warning: each {what} zeroes its whole slot: {error}");
            }
        }
    }
}

/// The statistics of the pools, on a line each.
impl fmt::Display for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (checks, _) = self.checked();
        for (number, (of, pool)) in self.pools.iter().enumerate() {
            let statistics = pool.statistics();
            let (start, name) = match of {
                Use::Blocks => ("", "pool"),
                Use::Views if number == 0 => ("", "pool of views"),
                Use::Views => ("\n", "pool of views"),
            };
            write!(
                f,
                "{start}{name}: {} loans of {} slots ({} retired); resets: {} with write tracking \
                 ({} failed), {} up to the enforced size, {} of the whole slot; {} MiB zeroed in \
                 {:.3} s; {checks} checks of residency",
                statistics.loans,
                statistics.slots,
                statistics.retired,
                statistics.watermark_resets,
                statistics.tracking_failures,
                statistics.high_water_resets,
                statistics.full_resets,
                statistics.zeroed_bytes >> 20,
                statistics.reset_time.as_secs_f64(),
            )?;
        }
        Ok(())
    }
}
