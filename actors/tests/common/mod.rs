//! What the stage tests share: a real pipeline on a real store in a temporary directory, and a
//! small generated fleet.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a test stops at what it does not expect"
)]
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vigie_actors::alert::route::Route;
use vigie_actors::alert::{Channel, Undelivered};
use vigie_actors::clock::{Clock as _, ManualClock};
use vigie_actors::metrics::{BoardConfig, Metrics};
use vigie_actors::pipeline::{Pipeline, Settings, open_store};
use vigie_actors::reading::{Arrival, Identity, Reading};
use vigie_actors::score::incident::Notice;
use vigie_actors::store::embedded::Embedded;
use vigie_actors::store::row::StoredReading;
use vigie_wire::{BootId, HUMIDITY, SensorId, TEMPERATURE};
use xxhash_rust::xxh3::xxh3_64;

pub(crate) const START_MS: i64 = 1_790_000_000_000;

/// A running stream and what it stands on.
pub(crate) struct Bench {
    pub(crate) pipeline: Pipeline,
    pub(crate) store: Embedded,
    pub(crate) metrics: Metrics,
    pub(crate) registry: prometheus::Registry,
    pub(crate) clock: ManualClock,
}

/// A channel that nobody listens to.
struct Nobody;

impl Channel for Nobody {
    fn name(&self) -> &str {
        NOBODY
    }

    fn deliver(&mut self, _: &[Notice], _: u32) -> Result<(), Undelivered> {
        Ok(())
    }
}

/// Name of the only channel.
pub(crate) const NOBODY: &str = "nobody";

impl Bench {
    pub(crate) fn start(dir: &Path, settings: &Settings) -> Self {
        let (store, catalogue) =
            open_store(dir, &settings.store, &std::collections::BTreeMap::new()).unwrap();
        let registry = prometheus::Registry::new();
        let metrics = Metrics::new(&registry, &catalogue, BoardConfig::default()).unwrap();
        let clock = ManualClock::at(START_MS);
        let pipeline = Pipeline::start(
            settings,
            store.clone(),
            &catalogue,
            Arc::new(clock.clone()),
            vec![(Box::new(Nobody), Route::all(NOBODY))],
            &metrics,
        )
        .unwrap();
        Self {
            pipeline,
            store,
            metrics,
            registry,
            clock,
        }
    }

    /// Hands `arrivals` over in chunks, sending again what was refused, as a device would.
    pub(crate) async fn send(&self, arrivals: &[Arrival], chunk: usize) {
        for part in arrivals.chunks(chunk) {
            let mut tries = 0;
            while self.pipeline.intake().deliver(part.to_vec()).await.is_err() {
                tries += 1;
                assert!(tries < 1000, "never taken");
            }
        }
    }

    /// The first `readings` of sensor 0, each at its time.
    pub(crate) async fn hear(&self, readings: u64) {
        for n in 0..readings {
            let next = reading(0, n);
            self.clock.advance_to(next.received_ms);
            self.send(&[Arrival::Reading(next)], 1).await;
        }
    }

    /// How many anomalies there are when so many seconds have passed, each with its tick.
    pub(crate) async fn anomalies_after(&self, seconds: i64) -> usize {
        let tick = self.pipeline.ticker();
        for _ in 0..seconds {
            self.clock.advance_to(self.clock.now_ms() + 1000);
            tick();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let all = self.store.anomalies((0, i64::MAX), None, 10).unwrap();
        all.items.len()
    }

    pub(crate) async fn stop(self) {
        self.pipeline.drain(Duration::from_secs(10)).await.unwrap();
    }
}

/// Runs an async test inside an actix `System`.
pub(crate) fn in_system(test: impl Future<Output = ()>) {
    actix::System::new().block_on(test);
}

pub(crate) fn sensor(index: u64) -> SensorId {
    SensorId::try_from(format!("S{index:05}").as_str()).unwrap()
}

fn noise(sensor: u64, n: u64, salt: u64) -> f64 {
    let bytes = [sensor, n, salt].map(u64::to_le_bytes).concat();
    (xxh3_64(&bytes) % 10_000) as f64 / 10_000.0 - 0.5
}

/// Reading `n` of sensor `index`, one every ten seconds.
pub(crate) fn reading(index: u64, n: u64) -> Reading {
    let time_ms = START_MS + i64::try_from(n).unwrap() * 10_000;
    Reading {
        sensor: sensor(index),
        device_ms: Some(time_ms),
        received_ms: time_ms + 15,
        order_ms: time_ms,
        identity: Identity::Sequence {
            boot: BootId::try_from("b1").unwrap(),
            seq: n,
        },
        next_s: None,
        start: None,
        values: smallvec::smallvec![
            (TEMPERATURE, 21.0 + noise(index, n, 1)),
            (HUMIDITY, 50.0 + 4.0 * noise(index, n, 2)),
        ],
    }
}

/// Readings `0..count` of `sensors` sensors, in the order of time.
pub(crate) fn fleet(sensors: u64, count: u64) -> Vec<Arrival> {
    (0..count)
        .flat_map(|n| (0..sensors).map(move |index| Arrival::Reading(reading(index, n))))
        .collect()
}

/// Every stored reading of a sensor.
pub(crate) fn stored(store: &Embedded, sensor: &SensorId) -> Vec<StoredReading> {
    let mut all = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store
            .readings(sensor, (i64::MIN, i64::MAX), after.as_deref(), 1000)
            .unwrap();
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}
