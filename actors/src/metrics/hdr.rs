//! Durations in high-dynamic-range histograms, exported as classic Prometheus histograms.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, MetricFamily, MetricType};

use super::lock;

/// What it is for decides which bounds the buckets have, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Bounds(&'static [f64]);

impl Bounds {
    /// Of work: a quarter of a millisecond to ten seconds.
    pub const WORK: Self = Self(&super::SECONDS);
    /// Of ages: a backlog may be days old.
    pub const AGES: Self = Self(&[
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0,
        3_600.0, 86_400.0,
    ]);

    /// Longest duration that is told apart, µs.
    fn longest(self) -> u64 {
        micros(self.0.last().copied().unwrap_or(1.0) * 6.0)
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bounds are small and positive"
)]
fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

/// A histogram of durations (two digits, from 1 µs on).
#[derive(Clone)]
pub struct HdrSeconds {
    desc: Desc,
    bounds: Bounds,
    longest: u64,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    micros: hdrhistogram::Histogram<u64>,
    sum: f64,
}

impl Inner {
    fn record(&mut self, duration: Duration, count: u64, longest: u64) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.micros
            .saturating_record_n(micros.clamp(1, longest), count);
        self.sum += duration.as_secs_f64() * count as f64;
    }
}

impl std::fmt::Debug for HdrSeconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HdrSeconds")
            .field("name", &self.desc.fq_name)
            .finish_non_exhaustive()
    }
}

impl HdrSeconds {
    /// With at most one label, which has one value.
    ///
    /// # Errors
    /// If name or label cannot be used.
    pub fn new(
        name: &str,
        help: &str,
        label: Option<(&str, &str)>,
        bounds: Bounds,
    ) -> Result<Self, prometheus::Error> {
        let longest = bounds.longest();
        let micros = hdrhistogram::Histogram::new_with_bounds(1, longest, 2)
            .map_err(|error| prometheus::Error::Msg(error.to_string()))?;
        let labels: HashMap<String, String> = label
            .iter()
            .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()))
            .collect();
        Ok(Self {
            desc: Desc::new(name.into(), help.into(), Vec::new(), labels)?,
            bounds,
            longest,
            inner: Arc::new(Mutex::new(Inner { micros, sum: 0.0 })),
        })
    }

    pub(super) fn registered(self, registry: &Registry) -> Result<Self, prometheus::Error> {
        registry.register(Box::new(self.clone()))?;
        Ok(self)
    }

    /// The same duration for `count` readings.
    pub fn record(&self, duration: Duration, count: u64) {
        lock(&self.inner).record(duration, count, self.longest);
    }

    /// Many durations under one lock; equal ones in a row are one entry.
    pub fn record_all(&self, durations: impl IntoIterator<Item = Duration>) {
        let mut durations = durations.into_iter();
        let Some(mut last) = durations.next() else {
            return;
        };
        let mut inner = lock(&self.inner);
        let mut count = 1;
        for duration in durations {
            if duration == last {
                count += 1;
            } else {
                inner.record(last, count, self.longest);
                (last, count) = (duration, 1);
            }
        }
        inner.record(last, count, self.longest);
    }

    /// Value below which the share `quantile` of the durations lie, in seconds.
    pub fn quantile(&self, quantile: f64) -> f64 {
        lock(&self.inner).micros.value_at_quantile(quantile) as f64 / 1e6
    }
}

impl Collector for HdrSeconds {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut histogram = proto::Histogram::default();
        let mut buckets = Vec::with_capacity(self.bounds.0.len());
        {
            let inner = lock(&self.inner);
            histogram.set_sample_count(inner.micros.len());
            histogram.set_sample_sum(inner.sum);
            let mut below = 0;
            let mut from = 0;
            for bound in self.bounds.0 {
                let to = micros(*bound);
                below += inner.micros.count_between(from, to);
                // An equivalent range may straddle the bound: never count it twice.
                from = inner.micros.next_non_equivalent(to);
                let mut bucket = proto::Bucket::default();
                bucket.set_cumulative_count(below.min(inner.micros.len()));
                bucket.set_upper_bound(*bound);
                buckets.push(bucket);
            }
        }
        histogram.set_bucket(buckets);
        let mut metric = proto::Metric::default();
        metric.set_label(self.desc.const_label_pairs.clone());
        metric.set_histogram(histogram);
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(vec![metric]);
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_counted_below_their_bounds_and_none_is_lost() {
        let hdr = HdrSeconds::new("n", "h", Some(("source", "x")), Bounds::AGES).unwrap();
        let ages = [0, 4, 4, 30_000, 700_000_000, 90_000_000_000];
        hdr.record_all(ages.map(Duration::from_millis));
        hdr.record_all([]);
        let families = hdr.collect();
        let metric = &families[0].get_metric()[0];
        assert_eq!(metric.get_label()[0].value(), "x");
        let histogram = metric.get_histogram();
        assert_eq!(histogram.get_sample_count(), 6);
        let below = |bound: f64| {
            let mut buckets = histogram.get_bucket().iter();
            let bucket = buckets.find(|bucket| (bucket.upper_bound() - bound).abs() < 1e-9);
            bucket.unwrap().cumulative_count()
        };
        assert_eq!(
            [0.001, 0.005, 10.0, 60.0, 86_400.0].map(below),
            [1, 3, 3, 4, 4]
        );
    }
}
