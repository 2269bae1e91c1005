//! The stages together, with real actors and a real store: what happens when one panics, when
//! readings come twice, when the process ends in between, when ids never end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a test stops at what it does not expect"
)]

mod common;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Bench, NOBODY, START_MS, fleet, in_system, reading, sensor, stored};
use vigie_actors::config::Span;
use vigie_actors::group::{self, Groups};
use vigie_actors::pipeline::Settings;
use vigie_actors::reading::Arrival;
use vigie_actors::score::ForestPer;
use vigie_actors::score::incident::{Deed, Incident, Order};
use vigie_actors::score::rules::{Rule, Verdict};
use vigie_actors::score::scorer::IncidentMemory;
use vigie_actors::stats::share::{Memory, Snapshot};
use vigie_actors::stats::state::SensorState;
use vigie_actors::store::embedded::Embedded;
use vigie_actors::store::hourly::{HOUR_MS, hour_of};
use vigie_actors::store::keeper::Keeper;
use vigie_actors::store::row::StoredReading;
use vigie_actors::supervise::{End, Sabotage};
use vigie_wire::TEMPERATURE;

/// A forest is grown beside the stream, so when it takes over depends on timing; these tests
/// compare runs bit for bit.
fn without_forest() -> Settings {
    let mut settings = Settings::default();
    // The lines stay out of reach of the generated noise as well.
    settings.score.refit_every = 0;
    settings.stats.warmup_readings = 1_000_000;
    settings
}

/// Everything of a reading that must not depend on what happened on the way.
fn facts(store: &Embedded, sensors: u64) -> Vec<String> {
    (0..sensors)
        .flat_map(|index| stored(store, &sensor(index)))
        .map(|stored| {
            format!(
                "{:?} {:?} {:?}",
                stored.order_ms, stored.identity, stored.row
            )
        })
        .collect()
}

/// The states as a restart would find them.
fn states(store: &Embedded, sensors: u64, settings: &Settings) -> Vec<SensorState> {
    (0..sensors)
        .map(|index| state_of(store, index, settings))
        .collect()
}

/// The state of a sensor as a restart would find it.
fn state_of(store: &Embedded, index: u64, settings: &Settings) -> SensorState {
    let catalogue = vigie_actors::quantity::Catalogue::default();
    let recalled = store.recall(&sensor(index)).unwrap().unwrap();
    recalled.replay(&catalogue, &settings.stats)
}

/// The undisturbed run that others are compared with.
fn reference(settings: &Settings, sensors: u64, count: u64) -> (Vec<String>, Vec<SensorState>) {
    let dir = tempfile::tempdir().unwrap();
    let mut result = None;
    in_system(async {
        let bench = Bench::start(dir.path(), settings);
        bench.send(&fleet(sensors, count), 100).await;
        result = Some((
            facts(&bench.store, sensors),
            states(&bench.store, sensors, settings),
        ));
        bench.stop().await;
    });
    result.unwrap()
}

/// Invariants 4 and 6: a panic in any stage every hundred messages loses nothing and changes
/// nothing, and the stage is back within 100 ms.
#[test]
fn panics_in_each_stage_change_nothing() {
    const SENSORS: u64 = 7;
    const COUNT: u64 = 900;
    let settings = without_forest();
    let (facts_before, states_before) = reference(&settings, SENSORS, COUNT);
    for stage in ["ingest", "stats", "scorer", "store"] {
        let dir = tempfile::tempdir().unwrap();
        in_system(async {
            let settings = Settings {
                sabotage: vec![(stage, Sabotage::Every(100))],
                ..settings.clone()
            };
            let bench = Bench::start(dir.path(), &settings);
            let arrivals = fleet(SENSORS, COUNT);
            let mut slowest = std::time::Duration::ZERO;
            for part in arrivals.chunks(10) {
                let begun = tokio::time::Instant::now();
                bench.send(part, 10).await;
                slowest = slowest.max(begun.elapsed());
            }
            let restarts = bench.metrics.stage(stage).restarts.get();
            assert!(
                restarts >= 5,
                "{stage} was to panic often, not {restarts} times"
            );
            assert!(
                slowest.as_millis() < 1000,
                "{stage}: one delivery took {slowest:?}"
            );
            assert_eq!(
                bench.store.ledger().unwrap().quarantined.len(),
                0,
                "{stage}"
            );
            assert_eq!(facts(&bench.store, SENSORS), facts_before, "{stage}");
            assert_eq!(
                states(&bench.store, SENSORS, &settings),
                states_before,
                "{stage}"
            );
            bench.stop().await;
        });
    }
}

/// Invariant 5: a reading that makes a stage panic every time ends in the quarantine, acknowledged,
/// and its neighbours in the same delivery are stored as if it had not been there.
#[test]
fn a_poisonous_reading_is_quarantined_alone() {
    const SENSORS: u64 = 5;
    const COUNT: u64 = 100;
    let settings = without_forest();
    let (facts_before, states_before) = reference(&settings, SENSORS, COUNT);
    for stage in ["stats", "scorer", "store"] {
        let dir = tempfile::tempdir().unwrap();
        in_system(async {
            let poison = sensor(99);
            let sabotage = vec![(stage, Sabotage::Sensor(poison))];
            let bench = Bench::start(
                dir.path(),
                &Settings {
                    sabotage,
                    ..settings.clone()
                },
            );
            let mut arrivals = fleet(SENSORS, COUNT);
            arrivals.insert(333, Arrival::Reading(reading(99, 0)));
            // One delivery each: its completion is the acknowledgement.
            for part in arrivals.chunks(128) {
                bench
                    .pipeline
                    .intake()
                    .deliver(part.to_vec())
                    .await
                    .unwrap();
            }
            let ledger = bench.store.ledger().unwrap();
            assert_eq!(ledger.quarantined.get("poison"), Some(&1), "{stage}");
            let kept = bench.store.quarantined(1).unwrap();
            assert_eq!(kept[0].topic, "sensors/S00099/reading");
            assert_eq!(facts(&bench.store, SENSORS), facts_before, "{stage}");
            assert_eq!(
                states(&bench.store, SENSORS, &settings),
                states_before,
                "{stage}"
            );
            assert_eq!(bench.pipeline.health().end(), None);
            bench.stop().await;
        });
    }
}

/// Invariant 6: a stage that fails at everything makes the engine give up instead of spinning.
#[test]
fn a_stage_that_always_fails_makes_the_engine_give_up() {
    let dir = tempfile::tempdir().unwrap();
    in_system(async {
        let sabotage = vec![("scorer", Sabotage::Every(1))];
        let bench = Bench::start(
            dir.path(),
            &Settings {
                sabotage,
                ..without_forest()
            },
        );
        let intake = bench.pipeline.intake().clone();
        tokio::spawn(async move { intake.deliver(fleet(1, 1)).await });
        let patience = std::time::Duration::from_secs(10);
        let end = tokio::time::timeout(patience, bench.pipeline.health().ended()).await;
        let end = end.expect("gives up within 10 s");
        assert!(
            matches!(&end, End::Fatal(why) if why.contains("scorer")),
            "{end}"
        );
        assert_eq!(bench.store.ledger().unwrap().received(), 0);
    });
}

/// The Alerter as well: the outbox keeps what it was about to deliver, and the stream goes on.
#[test]
fn a_panicking_alerter_loses_no_notice() {
    let dir = tempfile::tempdir().unwrap();
    in_system(async {
        let sabotage = vec![("alerter", Sabotage::Every(2))];
        let bench = Bench::start(
            dir.path(),
            &Settings {
                sabotage,
                ..without_forest()
            },
        );
        for index in 0..30 {
            let mut broken = reading(index, 0);
            broken.values[0].1 = -127.0;
            bench.send(&[Arrival::Reading(broken)], 1).await;
        }
        assert_eq!(bench.metrics.incidents_open.get(), 30);
        let tick = bench.pipeline.ticker();
        for _ in 0..200 {
            tick();
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            if bench.store.outbox(NOBODY, 1).unwrap().is_empty() {
                break;
            }
        }
        assert_eq!(
            bench.store.outbox(NOBODY, 100).unwrap().len(),
            0,
            "all delivered"
        );
        let alerter = bench.metrics.stage("alerter");
        assert_eq!(alerter.sent.get(), 30, "each once");
        assert!(alerter.restarts.get() >= 1);
        assert_eq!(bench.store.ledger().unwrap().stored, 30);
        bench.stop().await;
    });
}

/// Invariant 6: restarts of each stage, with thousands of sensors in the store.
#[test]
fn a_stage_is_back_within_100_ms() {
    const SENSORS: u64 = 5_000;
    let dir = tempfile::tempdir().unwrap();
    in_system(async {
        let bench = Bench::start(dir.path(), &without_forest());
        bench.send(&fleet(SENSORS, 20), 2_000).await;
        bench.stop().await;
    });
    let stages = ["ingest", "stats", "scorer", "store", "alerter"];
    for (sent, stage) in (20..).zip(stages) {
        in_system(async {
            let settings = Settings {
                sabotage: vec![(stage, Sabotage::Every(3))],
                ..without_forest()
            };
            let bench = Bench::start(dir.path(), &settings);
            let tick = bench.pipeline.ticker();
            let restarts = bench.metrics.stage(stage).restart_seconds;
            let mut index = 0;
            while restarts.get_sample_count() < 50 {
                bench
                    .send(&[Arrival::Reading(reading(index % SENSORS, sent))], 1)
                    .await;
                tick();
                index += 97;
                assert!(index < 97 * 2_000, "{stage} was to panic");
            }
            let metric = prometheus::core::Metric::metric(&restarts);
            let buckets = metric.get_histogram().get_bucket();
            let within = buckets
                .iter()
                .find(|bucket| bucket.upper_bound() >= 0.1)
                .map_or(0, prometheus::proto::Bucket::cumulative_count);
            // A busy machine may hold up one.
            let all = restarts.get_sample_count();
            assert!(within + 1 >= all, "{stage}: {buckets:?}");
            bench.stop().await;
        });
    }
}

/// Invariant 2: a redelivered reading changes nothing, however it is cut into deliveries.
#[test]
fn redeliveries_change_nothing() {
    const SENSORS: u64 = 5;
    const COUNT: u64 = 300;
    let settings = without_forest();
    let (facts_before, states_before) = reference(&settings, SENSORS, COUNT);
    let dir = tempfile::tempdir().unwrap();
    in_system(async {
        let bench = Bench::start(dir.path(), &settings);
        let arrivals = fleet(SENSORS, COUNT);
        for (at, part) in arrivals.chunks(50).enumerate() {
            bench.send(part, 50).await;
            // Each third one again, and everything before the tenth.
            if at % 3 == 0 {
                bench.send(part, 7).await;
            }
            if at == 10 {
                bench.send(&arrivals[..500], 100).await;
            }
        }
        assert_eq!(facts(&bench.store, SENSORS), facts_before);
        assert_eq!(states(&bench.store, SENSORS, &settings), states_before);
        let ledger = bench.store.ledger().unwrap();
        assert_eq!(ledger.stored, SENSORS * COUNT);
        assert_eq!(ledger.duplicate, 500 + 10 * 50);
        bench.stop().await;
    });
}

/// A node with a fast clock, or none: order time is the receive time, so only the index of
/// identities recognises what comes again.
#[test]
fn redeliveries_without_a_trustworthy_clock_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    in_system(async {
        let bench = Bench::start(dir.path(), &without_forest());
        let at = |n: u64, received_ms: i64, device_ms: Option<i64>| {
            let mut reading = reading(0, n);
            reading.device_ms = device_ms;
            reading.received_ms = received_ms;
            reading.order_ms = device_ms.map_or(received_ms, |device| device.min(received_ms));
            Arrival::Reading(reading)
        };
        for pass in 0..3_i64 {
            for n in 0..2_000_u64 {
                let received = START_MS + pass * 60_000_000 + i64::try_from(n).unwrap() * 10;
                let ahead = START_MS + 1_000_000_000 + i64::try_from(n).unwrap();
                let device = (n % 2 == 0).then_some(ahead);
                bench.send(&[at(n, received, device)], 1).await;
            }
        }
        let ledger = bench.store.ledger().unwrap();
        assert_eq!((ledger.stored, ledger.duplicate), (2_000, 4_000));
        bench.stop().await;
    });
}

/// Devices that number nothing: the time and the payload are all there is, in one delivery or
/// several, with a clock that is right or fast.
#[test]
fn redeliveries_without_numbers_change_nothing() {
    use vigie_actors::reading::Identity;
    for ahead_ms in [0, 2_000] {
        let dir = tempfile::tempdir().unwrap();
        in_system(async {
            let settings = without_forest();
            let bench = Bench::start(dir.path(), &settings);
            let at = |n: u64, received_after_ms: i64| {
                let mut reading = reading(0, n);
                let device_ms = reading.order_ms;
                reading.identity = Identity::Payload(1_000 + n);
                reading.received_ms = device_ms - ahead_ms + received_after_ms;
                reading.order_ms = device_ms.min(reading.received_ms);
                Arrival::Reading(reading)
            };
            // In one delivery: again at once, again after the next, and again after the clock of
            // the engine has overtaken the device's.
            let mut first: Vec<Arrival> = Vec::new();
            for n in 0..40 {
                first.push(at(n, 10));
                first.push(at(n, 11));
                if n > 0 {
                    first.push(at(n - 1, 10_012));
                }
            }
            bench.send(&first, first.len()).await;
            let before = states(&bench.store, 1, &settings);
            bench.send(&first, 7).await;
            let later: Vec<Arrival> = (0..40).map(|n| at(n, 900_000)).collect();
            bench.send(&later, 40).await;
            let ledger = bench.store.ledger().unwrap();
            assert_eq!(
                ledger.stored, 40,
                "clock ahead by {ahead_ms} ms: {ledger:?}"
            );
            assert_eq!(stored(&bench.store, &sensor(0)).len(), 40);
            assert_eq!(states(&bench.store, 1, &settings), before);
            bench.stop().await;
        });
    }
}

/// Late readings are stored once, flagged, and change no state.
#[test]
fn late_readings_are_stored_once_and_change_no_state() {
    let dir = tempfile::tempdir().unwrap();
    in_system(async {
        let settings = without_forest();
        let bench = Bench::start(dir.path(), &settings);
        let all = fleet(1, 100);
        let (late, in_time): (Vec<_>, Vec<_>) = all
            .into_iter()
            .enumerate()
            .partition(|(at, _)| at % 10 == 5);
        let strip = |part: Vec<(usize, Arrival)>| -> Vec<Arrival> {
            part.into_iter().map(|(_, arrival)| arrival).collect()
        };
        let (late, in_time) = (strip(late), strip(in_time));
        bench.send(&in_time, 100).await;
        let before = states(&bench.store, 1, &settings);
        // Twice in one delivery, and once more.
        bench
            .send(&[late.clone(), late.clone()].concat(), 100)
            .await;
        bench.send(&late, 100).await;
        assert_eq!(states(&bench.store, 1, &settings), before);
        let rows = stored(&bench.store, &sensor(0));
        assert_eq!(rows.len(), 100);
        assert_eq!(rows.iter().filter(|stored| stored.row.late).count(), 10);
        let ledger = bench.store.ledger().unwrap();
        assert_eq!(
            (ledger.stored, ledger.late, ledger.duplicate),
            (100, 10, 20)
        );
        bench.stop().await;
    });
}

/// Invariant 3: the store is the checkpoint. However often the engine ends and starts again, rows,
/// z-scores and states equal those of one run.
#[test]
fn restarts_change_nothing() {
    const SENSORS: u64 = 4;
    const COUNT: u64 = 700;
    let mut settings = without_forest();
    settings.stats.warmup_readings = 360;
    settings.score.forest_samples = 16;
    let (facts_before, states_before) = reference_without_scores(&settings, SENSORS, COUNT);
    let dir = tempfile::tempdir().unwrap();
    let arrivals = fleet(SENSORS, COUNT);
    // Ends at uneven places: in the middle of snapshots, right after a start.
    let mut at = 0;
    for stop in [1, 2, 130, 131, 257, 1_000, 1_999, 2_500, arrivals.len()] {
        in_system(async {
            let bench = Bench::start(dir.path(), &settings);
            // A device sends again what it is not sure of.
            let from = usize::saturating_sub(at, 9);
            bench.send(&arrivals[from..stop], 64).await;
            bench.stop().await;
        });
        at = stop;
    }
    in_system(async {
        let bench = Bench::start(dir.path(), &settings);
        assert_eq!(facts_without_scores(&bench.store, SENSORS), facts_before);
        assert_eq!(states(&bench.store, SENSORS, &settings), states_before);
        bench.stop().await;
    });
}

/// Invariant 3, with peers: what all sensors of a group do is an anomaly of none, and a restart in the
/// middle of it knows where the others are.
#[test]
fn peers_are_evidence_before_and_after_a_restart() {
    const SENSORS: u64 = 4;
    const BEFORE: usize = 4 * 600;
    let mut alone = without_forest();
    // So late that the readings are too few for a forest.
    alone.stats.warmup_readings = 598;
    let mut together = alone.clone();
    let hall = group::Config {
        sensors: vec!["S*".to_owned()],
    };
    together.incidents.groups = Arc::new(Groups::new(&[("hall".to_owned(), hall)].into()));
    let mut arrivals = fleet(SENSORS, 660);
    for (n, arrival) in arrivals[BEFORE..].iter_mut().enumerate() {
        // It grows warm everywhere, and one more of them breaks.
        if let Arrival::Reading(reading) = arrival {
            let warmth = (n / 4 + 1).min(8) as f64 * 0.8;
            let broken = n >= 160 && n % 4 == 3;
            reading.values[0].1 = 21.0 + if broken { 30.0 } else { warmth };
        }
    }
    let run = |settings: &Settings, stops: &[usize]| {
        let dir = tempfile::tempdir().unwrap();
        let mut at = 0;
        let mut rows = Vec::new();
        for stop in stops.iter().copied().chain([arrivals.len()]) {
            in_system(async {
                let bench = Bench::start(dir.path(), settings);
                bench.send(&arrivals[at..stop], 64).await;
                rows = (0..SENSORS)
                    .map(|index| stored(&bench.store, &sensor(index)))
                    .collect();
                bench.stop().await;
            });
            at = stop;
        }
        rows
    };
    let strange = |rows: &[Vec<StoredReading>], index: usize| {
        let rows = rows[index].iter();
        rows.filter(|stored| stored.row.score >= 0.5).count()
    };
    let (lonely, peers) = (run(&alone, &[]), run(&together, &[]));
    for index in 0..3 {
        assert!(strange(&lonely, index) > 0, "{index} leaves its baseline");
        assert_eq!(strange(&peers, index), 0, "{index} goes with the others");
    }
    assert!(
        strange(&peers, 3) > 0,
        "what the others do not do stays strange"
    );
    let again = run(&together, &[BEFORE + 1, BEFORE + 90, BEFORE + 163]);
    assert_eq!(again, peers);
}

/// Readings `from..from + 500` of two sensors that say the same, of which the 400th is `jump` higher.
fn twins(from: u64, jump: f64) -> Vec<Arrival> {
    let both = |n: u64| {
        (0..2).map(move |index| {
            let mut reading = reading(index, n);
            reading.values.truncate(1);
            let height = if n == from + 400 { jump } else { 0.0 };
            // On either side of the jump the same.
            reading.values[0].1 = 21.0 + 0.02 * (n % 2) as f64 + height;
            Arrival::Reading(reading)
        })
    };
    (from..from + 500).flat_map(both).collect()
}

/// What was found of either twin from reading `from` on.
fn found(store: &Embedded, from: u64) -> [Vec<Verdict>; 2] {
    let span = (reading(0, from).order_ms, i64::MAX);
    let all = store.anomalies(span, None, 100).unwrap().items;
    [0, 1].map(|index| {
        let of = all.iter().filter(|found| found.sensor == sensor(index));
        of.map(|found| found.verdict.clone()).collect()
    })
}

/// The incidents of either twin, oldest first.
fn incidents_of_twins(store: &Embedded) -> [Vec<Incident>; 2] {
    let all = store.incidents((0, i64::MAX), None, 100).unwrap().items;
    [0, 1].map(|index| {
        let of = all
            .iter()
            .filter(|one| one.sensor == Some(sensor(index)))
            .cloned();
        let mut of: Vec<Incident> = of.collect();
        of.sort_by_key(|incident| incident.opened_ms);
        of
    })
}

/// A false alarm raises the line of its rule for its sensor: the same jump again is nothing, also
/// after a restart, a larger one is something, and no line rises further than the config allows. The
/// twin, of which nobody said so, shows that the jump was one each time.
#[test]
fn a_false_alarm_raises_the_line_within_bounds_and_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = without_forest();
    settings.event_time = true;
    settings.incidents.config.cool_down = Span::secs(1800);
    let false_alarm = |bench: &Bench, incident: &Incident| {
        let order = Order {
            incident: incident.id(),
            deed: Deed::FalseAlarm,
            by: "Ada".to_owned(),
        };
        bench.store.put_order(&order).unwrap();
    };
    let counts = |store: &Embedded| incidents_of_twins(store).map(|incidents| incidents.len());
    let mut raised = 0.0;
    in_system(async {
        let bench = Bench::start(dir.path(), &settings);
        bench.send(&twins(0, 0.0), 20).await;
        bench.send(&twins(500, 1.4), 20).await;
        let [one, other] = found(&bench.store, 0);
        assert!(
            !one.is_empty() && one.len() == other.len(),
            "{one:?} {other:?}"
        );
        assert!(one.iter().all(|found| found.rule == Rule::Rate), "{one:?}");
        let [one, other] = incidents_of_twins(&bench.store);
        assert_eq!((one.len(), other.len()), (1, 1));
        false_alarm(&bench, &one[0]);
        bench.send(&twins(1000, 1.4), 20).await;
        let lines = bench.store.raised().unwrap();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!((lines[0].sensor, lines[0].rule), (sensor(0), Rule::Rate));
        raised = lines[0].factor;
        // So much that it would not have fired, and hardly more.
        let expected = one[0].worst.ratio * 1.05;
        assert!((raised - expected).abs() < 1e-9, "{raised} {expected}");
        assert!(raised < 2.0, "the bound is not what holds it: {raised}");
        let [one, other] = found(&bench.store, 1000);
        assert!(one.is_empty() && !other.is_empty(), "{one:?} {other:?}");
        assert_eq!(counts(&bench.store), [1, 2]);
        let known = incidents_of_twins(&bench.store)[0][0].clone();
        assert!(known.false_alarm.is_some() && !known.is_open(), "{known:?}");
        bench.stop().await;
    });
    in_system(async {
        let bench = Bench::start(dir.path(), &settings);
        bench.send(&twins(1500, 1.4), 20).await;
        let [one, other] = found(&bench.store, 1500);
        assert!(one.is_empty() && !other.is_empty(), "{one:?} {other:?}");
        assert_eq!(counts(&bench.store), [1, 3]);

        bench.send(&twins(2000, 2.5), 20).await;
        let [one, other] = found(&bench.store, 2000);
        assert!(!one.is_empty() && !other.is_empty(), "{one:?} {other:?}");
        assert_eq!(one[0].rule, Rule::Rate);
        let ratio = one[0].ratio * raised / other[0].ratio;
        assert!((ratio - 1.0).abs() < 1e-9, "{one:?} {other:?}");
        let height = |found: &Verdict| found.line - found.expected;
        let ratio = height(&one[0]) / (height(&other[0]) * raised);
        assert!((ratio - 1.0).abs() < 1e-9, "{one:?} {other:?}");
        assert_eq!(counts(&bench.store), [2, 4]);
        // That was none either: it rises further, by what this was over it.
        let second = incidents_of_twins(&bench.store)[0].pop().unwrap();
        false_alarm(&bench, &second);

        // More than twice the line: that is further than lines rise.
        let last = incidents_of_twins(&bench.store)[1].pop().unwrap();
        assert!(last.worst.ratio > 2.0, "{last:?}");
        false_alarm(&bench, &last);
        bench.send(&twins(2500, 2.5), 20).await;
        let lines = bench.store.raised().unwrap();
        let of = |sensor| {
            let mut of = lines.iter().filter(|line| line.sensor == sensor);
            of.find(|line| line.rule == Rule::Rate).unwrap().factor
        };
        let expected = (raised * second.worst.ratio * 1.05).min(2.0);
        for (index, expected) in [(0, expected), (1, 2.0)] {
            assert!((of(sensor(index)) - expected).abs() < 1e-9, "{lines:?}");
        }
        assert!(expected > raised, "{expected}");
        let [_, other] = found(&bench.store, 2500);
        assert!(!other.is_empty(), "as far away as that is still too far");
        assert_eq!(counts(&bench.store)[1], 5);
        bench.stop().await;
    });
}

/// A forest for each sensor where that is wanted; of each the store keeps the newest two, and a
/// start under the other setting does not use them.
#[test]
fn a_forest_per_sensor_where_configured() {
    const SENSORS: u64 = 3;
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings {
        event_time: true,
        ..Settings::default()
    };
    settings.score.forest_per = ForestPer::Sensor;
    settings.score.refit_every = 200;
    settings.stats.warmup_readings = 100;
    in_system(async {
        let bench = Bench::start(dir.path(), &settings);
        bench.send(&fleet(SENSORS, 1_500), 64).await;
        let mut groups: Vec<_> = bench
            .store
            .newest_models()
            .unwrap()
            .into_iter()
            .map(|model| (model.group.sensor, model.generation))
            .collect();
        groups.sort_unstable();
        let sensors: Vec<_> = groups.iter().map(|(sensor, _)| *sensor).collect();
        let expect: Vec<_> = (0..SENSORS).map(|index| Some(sensor(index))).collect();
        assert_eq!(sensors, expect);
        assert!(
            groups.iter().all(|(_, generation)| *generation > 6),
            "grown again and again: {groups:?}"
        );
        assert_eq!(bench.store.count_models().unwrap(), 6, "two of each");
        let row = stored(&bench.store, &sensor(1)).pop().unwrap().row;
        assert!(row.generation > 0 && row.score > 0.0, "{row:?}");
        bench.stop().await;
    });
    settings.score.forest_per = ForestPer::Group;
    in_system(async {
        let bench = Bench::start(dir.path(), &settings);
        let more: Vec<Arrival> = fleet(SENSORS, 1_510).split_off(1_500 * 3);
        bench.send(&more, 64).await;
        let row = stored(&bench.store, &sensor(1)).pop().unwrap().row;
        assert_eq!(row.generation, 0, "no forest of all has been grown yet");
        bench.stop().await;
    });
}

fn facts_without_scores(store: &Embedded, sensors: u64) -> Vec<String> {
    (0..sensors)
        .flat_map(|index| stored(store, &sensor(index)))
        .map(|stored| {
            // The forest may have been grown a batch earlier or later: its generation says so.
            let mut row = stored.row;
            (row.score, row.generation, row.anomaly) = (0.0, 0, false);
            format!("{:?} {:?} {row:?}", stored.order_ms, stored.identity)
        })
        .collect()
}

fn reference_without_scores(
    settings: &Settings,
    sensors: u64,
    count: u64,
) -> (Vec<String>, Vec<SensorState>) {
    let dir = tempfile::tempdir().unwrap();
    let mut result = None;
    in_system(async {
        let bench = Bench::start(dir.path(), settings);
        bench.send(&fleet(sensors, count), 100).await;
        result = Some((
            facts_without_scores(&bench.store, sensors),
            states(&bench.store, sensors, settings),
        ));
        bench.stop().await;
    });
    result.unwrap()
}

/// Invariant 8: a flood of ids is bounded, and known sensors do not notice.
#[test]
fn more_ids_than_allowed_are_quarantined() {
    let dir = tempfile::tempdir().unwrap();
    in_system(async {
        let mut settings = without_forest();
        settings.stats.max_sensors = 500;
        settings.store.quarantine_rows = 200;
        let bench = Bench::start(dir.path(), &settings);
        bench.send(&fleet(10, 1), 100).await;
        let flood: Vec<Arrival> = (0..3_000)
            .map(|index| Arrival::Reading(reading(index + 10, 0)))
            .collect();
        bench.send(&flood, 100).await;
        bench.send(&fleet(10, 50)[10..], 100).await;
        let ledger = bench.store.ledger().unwrap();
        assert_eq!(ledger.quarantined.get("too_many_sensors"), Some(&2_510));
        assert_eq!(ledger.stored, 500 + 490);
        let (oldest, newest) = bench.store.quarantine_span().unwrap().unwrap();
        assert_eq!(newest - oldest + 1, 200, "the quarantine is bounded too");
        for index in 0..10 {
            assert_eq!(stored(&bench.store, &sensor(index)).len(), 50);
        }
        bench.stop().await;
    });
}

/// States that sleep in the store come back as they were.
#[test]
fn sleeping_states_come_back() {
    const SENSORS: u64 = 9_000;
    let dir = tempfile::tempdir().unwrap();
    in_system(async {
        let mut settings = without_forest();
        settings.stats.max_resident = 8_192;
        let bench = Bench::start(dir.path(), &settings);
        for n in 0..4 {
            let round: Vec<Arrival> = (0..SENSORS)
                .map(|index| Arrival::Reading(reading(index, n)))
                .collect();
            bench.send(&round, 1_000).await;
        }
        let ledger = bench.store.ledger().unwrap();
        assert_eq!(
            (ledger.stored, ledger.duplicate, ledger.late),
            (SENSORS * 4, 0, 0)
        );
        for index in [0, 1, 4_500, 8_999] {
            let rows = stored(&bench.store, &sensor(index));
            let numbers: Vec<u64> = rows.iter().map(|stored| stored.row.entered).collect();
            assert_eq!(numbers, [1, 2, 3, 4], "sensor {index}");
            let state = &state_of(&bench.store, index, &settings);
            assert_eq!(state.baseline(TEMPERATURE).unwrap().moments.count, 4);
        }
        bench.stop().await;
    });
}

/// Several shares commit one batch as one, and find the same as one share.
#[test]
fn shares_agree_with_one() {
    const SENSORS: u64 = 11;
    const COUNT: u64 = 200;
    let settings = without_forest();
    let (facts_before, states_before) = reference(&settings, SENSORS, COUNT);
    let dir = tempfile::tempdir().unwrap();
    in_system(async {
        let mut settings = Settings {
            sabotage: vec![("stats", Sabotage::Every(50))],
            ..settings
        };
        settings.stats.shares = 3;
        let bench = Bench::start(dir.path(), &settings);
        bench.send(&fleet(SENSORS, COUNT), 100).await;
        assert_eq!(facts(&bench.store, SENSORS), facts_before);
        assert_eq!(states(&bench.store, SENSORS, &settings), states_before);
        bench.stop().await;
    });
}

/// A sensor that falls silent is noticed once, and heard again.
#[test]
fn silence_is_noticed_once() {
    let dir = tempfile::tempdir().unwrap();
    in_system(async {
        let bench = Bench::start(dir.path(), &without_forest());
        bench.hear(20).await;
        let last_ms = reading(0, 19).received_ms;
        let tick = bench.pipeline.ticker();
        for seconds in 1..=120 {
            use vigie_actors::clock::Clock;
            bench.clock.advance_to(last_ms + seconds * 1000);
            assert!(bench.clock.now_ms() > last_ms);
            tick();
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
        let outbox = bench.store.outbox(NOBODY, 10).unwrap();
        let anomalies = bench
            .store
            .anomalies((0, i64::MAX), None, 10)
            .unwrap()
            .items;
        assert_eq!(anomalies.len(), 1, "{anomalies:?}");
        let silent_for = anomalies[0].time_ms - last_ms;
        assert!(
            (40_000..43_000).contains(&silent_for),
            "noticed after {silent_for} ms"
        );
        // The Alerter has taken the notice out at once or soon will.
        assert!(outbox.len() <= 1);
        assert_eq!(bench.metrics.incidents_open.get(), 1);
        bench.stop().await;
    });
}

/// While a source is lost its sensors are not silent; when it is back, silence counts from there.
#[test]
fn what_cannot_be_heard_is_not_silent() {
    use vigie_actors::clock::Clock as _;

    let dir = tempfile::tempdir().unwrap();
    in_system(async {
        let bench = Bench::start(dir.path(), &without_forest());
        bench.hear(20).await;
        let wait = async |seconds: i64| bench.anomalies_after(seconds).await;
        bench.pipeline.hearing().lost();
        assert_eq!(wait(300).await, 0, "anomalies while nothing could be heard");
        bench.pipeline.hearing().regained(bench.clock.now_ms());
        assert_eq!(
            wait(90).await,
            0,
            "anomalies before the sensor had its time"
        );
        assert_eq!(
            wait(30).await,
            1,
            "anomalies of a sensor that never came back"
        );
        bench.stop().await;
    });
}

/// A clock that is set makes nobody silent; who falls silent then is noticed all the same.
#[test]
fn silence_outlives_a_clock_that_is_set() {
    for step_ms in [3_600_000, -3_600_000] {
        let dir = tempfile::tempdir().unwrap();
        in_system(async {
            let bench = Bench::start(dir.path(), &without_forest());
            bench.hear(20).await;
            bench.clock.set_by(step_ms);
            let wait = async |seconds: i64| bench.anomalies_after(seconds).await;
            assert_eq!(wait(90).await, 0, "anomalies, set by {step_ms} ms");
            assert_eq!(wait(30).await, 1, "anomalies, set by {step_ms} ms");
            // Somebody is told, when it has been seen whether others are silent as well.
            wait(60).await;
            let open = bench.store.open_incidents().unwrap();
            let told: Vec<u32> = open.iter().map(|incident| incident.notices).collect();
            assert_eq!(told, [1], "notices, set by {step_ms} ms");
            bench.stop().await;
        });
    }
}

/// Readings of hours that are over come while those hours are rolled up, again and again.
#[test]
fn hours_that_change_while_they_are_rolled_up_are_true() {
    let dir = tempfile::tempdir().unwrap();
    let settings = without_forest();
    in_system(async {
        let bench = Bench::start(dir.path(), &settings);
        let over = Arc::new(AtomicBool::new(false));
        let keeping = {
            let mut keeper = Keeper::new(bench.store.clone(), settings.store.clone());
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                let mut settled = 0;
                loop {
                    let last = over.load(Ordering::SeqCst);
                    let done = keeper.pass(START_MS + 24 * HOUR_MS, &|| false).unwrap();
                    settled += done.hours;
                    if last {
                        return settled;
                    }
                }
            })
        };
        let mut arrivals = fleet(3, 2_000);
        for arrival in &mut arrivals {
            if let Arrival::Reading(reading) = arrival {
                reading.received_ms += 2 * HOUR_MS;
            }
        }
        bench.send(&arrivals, 10).await;
        over.store(true, Ordering::SeqCst);
        let settled = keeping.join().unwrap();
        let mut hours = 0;
        for index in 0..3 {
            let mut counts: BTreeMap<i64, u32> = BTreeMap::new();
            for stored in stored(&bench.store, &sensor(index)) {
                *counts.entry(hour_of(stored.order_ms)).or_default() += 1;
            }
            for (hour_ms, count) in counts {
                let hour = bench.store.hour(&sensor(index), hour_ms).unwrap().unwrap();
                assert_eq!(hour.quantities[0].count, count, "{hour:?}");
                hours += 1;
            }
        }
        assert!(
            settled > 2 * hours,
            "{hours} hours, rolled up {settled} times"
        );
        bench.stop().await;
    });
}

/// In a flood an hour changes each time that it is rolled up.
#[test]
fn an_hour_that_goes_on_changing_is_left_to_the_next_pass() {
    let dir = tempfile::tempdir().unwrap();
    let settings = without_forest();
    in_system(async {
        let bench = Bench::start(dir.path(), &settings);
        bench.send(&fleet(3, 100), 100).await;
        let changes = Cell::new(0);
        let changed = || {
            changes.set(changes.get() + 1);
            let mut write = bench.store.write();
            write.due(&sensor(1), START_MS, changes.get());
            write.commit().unwrap();
        };
        changed();
        let asked = Cell::new(0);
        let stop = || {
            changed();
            asked.set(asked.get() + 1);
            asked.get() > 1_000
        };
        let mut keeper = Keeper::new(bench.store.clone(), settings.store.clone());
        keeper.pass(START_MS + 24 * HOUR_MS, &stop).unwrap();
        assert!(asked.get() < 100, "the pass had no end");
        bench.stop().await;
    });
}

/// An import brings more in ten minutes than a store may hold, behind a few readings of long ago:
/// those alone would not make it smaller.
#[test]
fn a_store_that_is_too_large_lets_readings_go_before_the_next_look() {
    const LATER: u64 = 1_000_000;
    let dir = tempfile::tempdir().unwrap();
    let mut settings = without_forest();
    settings.store.max_mib = 64;
    in_system(async {
        let bench = Bench::start(dir.path(), &settings);
        let tick = bench.pipeline.ticker();
        let pause = || tokio::time::sleep(std::time::Duration::from_millis(20));
        // The look that is followed by another one after ten minutes.
        tick();
        bench.send(&fleet(10, 100), 1000).await;
        for n in 1.. {
            if bench.store.disk_bytes() > 80 << 20 {
                break;
            }
            assert!(n < 400, "{} bytes", bench.store.disk_bytes());
            let more: Vec<Arrival> = (0..10)
                .flat_map(|index| (n * 1_000..(n + 1) * 1_000).map(move |n| (index, LATER + n)))
                .map(|(index, n)| Arrival::Reading(reading(index, n)))
                .collect();
            bench.send(&more, 1000).await;
            let newest = reading(0, LATER + (n + 1) * 1_000);
            bench.clock.advance_to(newest.received_ms + HOUR_MS);
            pause().await;
        }
        let stored = bench.store.ledger().unwrap().stored;
        let removed = || bench.store.removed().unwrap();
        for _ in 0..1_000 {
            tick();
            pause().await;
            if removed() >= stored / 20 {
                break;
            }
        }
        assert!(
            removed() >= stored / 20,
            "{} of {stored} readings",
            removed()
        );
        // The disk is not smaller yet; nothing more goes for that.
        for _ in 0..50 {
            tick();
            pause().await;
        }
        assert!(removed() < stored / 2, "{} of {stored} readings", removed());
        bench.stop().await;
    });
}

/// A state of another version: a restart learns it anew from all readings that there are.
#[test]
fn readings_of_a_sensor_whose_state_cannot_be_read_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = without_forest();
    settings.stats.snapshot_every = 16;
    in_system(async {
        let bench = Bench::start(dir.path(), &settings);
        bench.send(&fleet(2, 3_000), 1_000).await;
        let mut write = bench.store.write();
        let unreadable = Snapshot {
            bytes: vec![0xff; 40],
            ..Snapshot::of(&SensorState::default()).unwrap()
        };
        write.state(&sensor(1), unreadable);
        write.commit().unwrap();
        settings.store.keep = "1h".parse().unwrap();
        let mut keeper = Keeper::new(bench.store.clone(), settings.store.clone());
        keeper.pass(START_MS + 24 * HOUR_MS, &|| false).unwrap();
        let left = [0, 1].map(|index| stored(&bench.store, &sensor(index)).len());
        assert!(left[0] < 1_000, "{left:?}");
        assert_eq!(left[1], 3_000);
        bench.stop().await;
    });
}

/// A fleet that starts together: snapshots are large, and all of them at once would be a flood.
#[test]
fn states_are_not_written_all_at_once() {
    const SENSORS: u64 = 200;
    let dir = tempfile::tempdir().unwrap();
    let mut settings = without_forest();
    settings.stats.snapshot_every = 50;
    in_system(async {
        let bench = Bench::start(dir.path(), &settings);
        let newest = |bench: &Bench| -> Vec<u64> {
            (0..SENSORS)
                .map(|index| {
                    bench
                        .store
                        .snapshot(&sensor(index))
                        .unwrap()
                        .unwrap()
                        .entered
                })
                .collect()
        };
        let mut before: Vec<u64> = (0..SENSORS).map(|_| 1).collect();
        let mut most = 0;
        for round in 0..120 {
            let readings: Vec<Arrival> = (0..SENSORS)
                .map(|index| Arrival::Reading(reading(index, round)))
                .collect();
            bench.send(&readings, 1_000).await;
            let now = newest(&bench);
            if round > 0 {
                let written = now
                    .iter()
                    .zip(&before)
                    .filter(|(now, before)| now != before);
                most = most.max(written.count());
            }
            assert!(
                now.iter().all(|entered| round + 1 - entered < 50),
                "{now:?}"
            );
            before = now;
        }
        assert!(most < 20, "{most} of {SENSORS} at once");
        bench.stop().await;
    });
}

/// A write that fails half-way ends the database, and hours can wait.
#[test]
fn with_too_little_room_on_the_disk_the_keeper_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let enough = without_forest();
    let mut too_little = enough.clone();
    too_little.store.min_free_mib = u32::MAX;
    in_system(async {
        let bench = Bench::start(dir.path(), &enough);
        bench.send(&fleet(3, 1_000), 100).await;
        bench.stop().await;
        for (settings, writes) in [(&too_little, false), (&enough, true)] {
            let bench = Bench::start(dir.path(), settings);
            bench.clock.advance_to(START_MS + 4 * HOUR_MS);
            let tick = bench.pipeline.ticker();
            let mut rolled_up = None;
            for _ in 0..100 {
                tick();
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                rolled_up = bench.store.newest_hour(&sensor(2)).unwrap();
                if rolled_up.is_some() {
                    break;
                }
            }
            assert_eq!(rolled_up.is_some(), writes, "{rolled_up:?}");
            bench.stop().await;
        }
    });
}
