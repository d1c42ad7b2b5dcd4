//! The metrics, in the text format of Prometheus. They are computed when they are requested.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use wasm_prealloc_host::Statistics;

use crate::indexing::Progress;
use crate::memory::Use;
use crate::pools::Pools;
use crate::times::Times;
use crate::views::Views;

/// The parts of the host that have metrics.
pub(crate) struct Sources {
    pub(crate) pools: Arc<Pools>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) views: Option<Arc<Views>>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sources")
    }
}

/// Returns a registry with the metrics of these parts.
pub(crate) fn registry(sources: Sources) -> Registry {
    let mut registry = Registry::with_prefix("indexer");
    registry.register_collector(Box::new(sources));
    registry
}

type Labels = Vec<(&'static str, &'static str)>;

/// Writes metrics with their labels and values.
struct Writer<'e>(DescriptorEncoder<'e>);

impl Writer<'_> {
    fn gauges<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        values: Vec<(Labels, V)>,
    ) -> fmt::Result {
        let kind = MetricType::Gauge;
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in &values {
            metric.encode_family(labels)?.encode_gauge(value)?;
        }
        Ok(())
    }

    fn counters<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        values: Vec<(Labels, V)>,
    ) -> fmt::Result {
        let kind = MetricType::Counter;
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in &values {
            let mut metric = metric.encode_family(labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(value, None)?;
        }
        Ok(())
    }

    /// Writes the median and the 99th percentile.
    fn times(&mut self, name: &str, help: &str, times: &Times) -> fmt::Result {
        let values = [("0.5", 50), ("0.99", 99)].map(|(quantile, percent)| {
            let seconds = times.percentile(percent).as_secs_f64();
            (vec![("quantile", quantile)], seconds)
        });
        self.gauges(name, help, values.into())
    }
}

impl Collector for Sources {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(encoder);
        self.encode_pools(&mut writer)?;
        self.encode_residency(&mut writer)?;
        self.encode_blocks(&mut writer)?;
        self.encode_views(&mut writer)
    }
}

fn pool_label(of: Use) -> (&'static str, &'static str) {
    let name = match of {
        Use::Blocks => "blocks",
        Use::Views => "views",
    };
    ("pool", name)
}

impl Sources {
    fn encode_pools(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let pools: Vec<(Use, Statistics)> = self
            .pools
            .iter()
            .map(|(of, pool)| (*of, pool.statistics()))
            .collect();
        let each = |field: fn(&Statistics) -> u64| -> Vec<(Labels, u64)> {
            let pools = pools.iter();
            pools
                .map(|(of, statistics)| (vec![pool_label(*of)], field(statistics)))
                .collect()
        };
        writer.gauges(
            "slots",
            "Memories that were secured",
            each(|s| s.slots as u64),
        )?;
        writer.gauges("slots_lent", "Memories in use", each(|s| s.lent as u64))?;
        writer.gauges(
            "slots_resetting",
            "Memories being zeroed",
            each(|s| s.resetting as u64),
        )?;
        writer.gauges(
            "slots_retired",
            "Memories that were lost",
            each(|s| s.retired as u64),
        )?;
        writer.gauges(
            "slots_waiting",
            "Requests that wait for a memory",
            each(|s| s.waiting as u64),
        )?;
        writer.counters("loans", "Loans of a memory", each(|s| s.loans))?;
        writer.counters(
            "zeroed_bytes",
            "Zeros that resets wrote",
            each(|s| s.zeroed_bytes),
        )?;
        let resets = pools.iter().flat_map(|(of, statistics)| {
            let kinds = [
                ("watermark", statistics.watermark_resets),
                ("enforced-size", statistics.high_water_resets),
                ("whole-slot", statistics.full_resets),
            ];
            kinds.map(|(kind, count)| (vec![pool_label(*of), ("kind", kind)], count))
        });
        writer.counters("resets", "Resets of a memory", resets.collect())?;
        let seconds = pools.iter().map(|(of, statistics)| {
            let seconds = statistics.reset_time.as_secs_f64();
            (vec![pool_label(*of)], seconds)
        });
        writer.counters("reset_seconds", "Time that resets took", seconds.collect())
    }

    fn encode_residency(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let (checks, found) = self.pools.checked();
        let resident = found
            .iter()
            .map(|(of, residency)| (vec![pool_label(*of)], residency.resident_bytes));
        let expected = found
            .iter()
            .map(|(of, residency)| (vec![pool_label(*of)], residency.expected_bytes));
        writer.counters(
            "residency_checks",
            "Counts of resident memory",
            vec![(vec![], checks)],
        )?;
        writer.gauges(
            "resident_bytes",
            "Memory resident at the last count",
            resident.collect(),
        )?;
        writer.gauges(
            "secured_bytes",
            "Memory that was secured",
            expected.collect(),
        )
    }

    fn encode_blocks(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let blocks = self.progress.blocks();
        writer.counters(
            "blocks",
            "Blocks that were stored",
            vec![(vec![], blocks.times.count())],
        )?;
        let height = blocks.height.map(|height| (vec![], height));
        writer.gauges(
            "height",
            "The last height that was stored",
            height.into_iter().collect(),
        )?;
        writer.times("block_seconds", "Time of a block", &blocks.times)
    }

    fn encode_views(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let Some(views) = &self.views else {
            return Ok(());
        };
        let counters = views.counters();
        let outcomes = [
            ("answered", counters.answered.count()),
            ("failed", counters.failed),
            ("refused", counters.refused),
        ];
        let outcomes = outcomes.map(|(outcome, count)| (vec![("outcome", outcome)], count));
        writer.counters("views", "Views", outcomes.into())?;
        let in_progress = vec![(vec![], counters.in_progress as u64)];
        let help = "Views that run or wait for a memory";
        writer.gauges("views_in_progress", help, in_progress)?;
        writer.times(
            "view_seconds",
            "Time of a view with its wait",
            &counters.answered,
        )
    }
}
