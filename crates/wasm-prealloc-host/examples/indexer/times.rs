//! The times that blocks or views took.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// The number of times that quantiles are computed of: the most recent ones.
const KEPT: usize = 4096;

/// The times of one kind of work.
#[derive(Debug, Default)]
pub(crate) struct Times {
    count: u64,
    total: Duration,
    recent: VecDeque<Duration>,
}

impl Times {
    pub(crate) fn record(&mut self, elapsed: Duration) {
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(elapsed);
        self.count += 1;
        self.total += elapsed;
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Returns the smallest recent time that so many in a hundred of them do not exceed. Returns zero
    /// if there are none.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted: Vec<Duration> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100);
        let time = sorted.get(rank.saturating_sub(1));
        time.copied().unwrap_or_default()
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |percent| self.percentile(percent).as_secs_f64() * 1000.0;
        write!(
            f,
            "{} in {:.3} s, p50 {:.3} ms, p99 {:.3} ms",
            self.count,
            self.total.as_secs_f64(),
            milliseconds(50),
            milliseconds(99)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_recent_times() {
        let mut times = Times::default();
        assert_eq!(times.percentile(99), Duration::ZERO);
        for milliseconds in 1..=200 {
            times.record(Duration::from_millis(milliseconds));
        }
        assert_eq!(times.percentile(50), Duration::from_millis(100));
        assert_eq!(times.percentile(99), Duration::from_millis(198));
        for _ in 0..KEPT {
            times.record(Duration::from_millis(7));
        }
        assert_eq!(times.percentile(99), Duration::from_millis(7));
        assert_eq!(times.count(), 200 + KEPT as u64);
    }
}
