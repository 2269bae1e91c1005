//! Gauges that are asked for when somebody scrapes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, MetricFamily, MetricType};

use super::lock;

type Ask = Box<dyn Fn() -> Option<f64> + Send + Sync>;

/// A gauge with at most one label, whose values are asked for. Clones share them.
#[derive(Clone)]
pub struct Watched {
    desc: Desc,
    label: Option<&'static str>,
    asked: Arc<Mutex<BTreeMap<&'static str, Ask>>>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let asked = lock(&self.asked);
        f.debug_map()
            .entry(&self.desc.fq_name, &asked.keys())
            .finish()
    }
}

impl Watched {
    pub(super) fn registered(
        registry: &Registry,
        name: &str,
        help: &str,
        label: Option<&'static str>,
    ) -> Result<Self, prometheus::Error> {
        let labels = label.iter().map(|label| (*label).to_owned()).collect();
        let watched = Self {
            desc: Desc::new(
                name.into(),
                help.into(),
                labels,
                std::collections::HashMap::new(),
            )?,
            label,
            asked: Arc::default(),
        };
        registry.register(Box::new(watched.clone()))?;
        Ok(watched)
    }

    /// From now on the series with this value of the label is what `ask` says (without a label, any
    /// word will do); `None`: there is no such series. It may not take long.
    pub fn watch(
        &self,
        value: &'static str,
        ask: impl Fn() -> Option<f64> + Send + Sync + 'static,
    ) {
        lock(&self.asked).insert(value, Box::new(ask));
    }
}

impl Collector for Watched {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut metrics = Vec::new();
        for (value, ask) in lock(&self.asked).iter() {
            let Some(now) = ask() else {
                continue;
            };
            let labels = self.label.iter().map(|label| {
                let mut pair = proto::LabelPair::default();
                pair.set_name((*label).to_owned());
                pair.set_value((*value).to_owned());
                pair
            });
            let mut gauge = proto::Gauge::default();
            gauge.set_value(now);
            let mut metric = proto::Metric::default();
            metric.set_label(labels.collect());
            metric.set_gauge(gauge);
            metrics.push(metric);
        }
        if metrics.is_empty() {
            return Vec::new();
        }
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::GAUGE);
        family.set_metric(metrics);
        vec![family]
    }
}
