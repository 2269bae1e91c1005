//! Readings are found in large tables, whose index is in parts; the inventory goes with the states.

use std::collections::BTreeSet;

use smallvec::SmallVec;
use vigie_wire::TEMPERATURE;

use super::*;
use crate::store::row::StoredValue;

const SENSORS: i64 = 20;
/// So many of each give a table of some hundred blocks.
const EACH: i64 = 2_500;
const STEP_MS: i64 = 10_000;

fn sensor(number: i64) -> SensorId {
    format!("S{number:02}").as_str().try_into().unwrap()
}

fn reading(sensor: SensorId, order_ms: i64) -> (Reading, Row) {
    let row = Row {
        entered: 1,
        late: false,
        anomaly: false,
        score: 0.25,
        generation: 1,
        delay_ms: 20,
        ahead_ms: Some(0),
        next_s: None,
        start: None,
        values: SmallVec::from_slice(&[StoredValue {
            quantity: TEMPERATURE,
            value: order_ms as f64 / 7.0,
            z: 0.5,
        }]),
    };
    let identity = Identity::Payload(order_ms.unsigned_abs());
    (row.reading(sensor, order_ms, identity), row)
}

/// All of a span, page by page.
fn paged(store: &Embedded, sensor: &SensorId, span: (i64, i64), limit: usize) -> Vec<i64> {
    let mut found = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store
            .readings(sensor, span, after.as_deref(), limit)
            .unwrap();
        found.extend(page.items.iter().map(|stored| stored.order_ms));
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

fn check(store: &Embedded, known: &BTreeSet<(SensorId, i64)>) {
    let end = (EACH + 1) * STEP_MS;
    for number in -1..=SENSORS {
        let sensor = sensor(number);
        let of = |from, to| known.range((sensor, from)..(sensor, to));
        let mut own = of(i64::MIN, i64::MAX).map(|(_, at)| *at);
        assert_eq!(store.oldest(&sensor).unwrap(), own.next());
        let newest = store.newest(&sensor).unwrap();
        assert_eq!(newest.map(|stored| stored.order_ms), own.next_back());
        // Ends on readings and between them, before the first and behind the last.
        for (from, to) in [
            (i64::MIN, i64::MAX),
            (-1, 1),
            (0, STEP_MS),
            (number * 997, number * 997 + 77 * STEP_MS),
            (end / 2, end / 2 + 1),
            (end / 3 + number, end),
            (end, i64::MAX),
        ] {
            let expected: Vec<i64> = of(from, to).map(|(_, at)| *at).collect();
            assert_eq!(paged(store, &sensor, (from, to), 999), expected);
        }
    }
}

#[test]
fn readings_are_found_in_large_tables() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), &Config::default()).unwrap();
    let mut known = BTreeSet::new();
    for batch in 0..EACH / 100 {
        let mut write = store.write_unsynced();
        for at in batch * 100..(batch + 1) * 100 {
            for number in 0..SENSORS {
                // Not all at the same time, and some times are missing.
                let order_ms = at * STEP_MS + number;
                if (at + number) % 7 != 0 {
                    let (reading, row) = reading(sensor(number), order_ms);
                    write.reading(&reading, &row).unwrap();
                    known.insert((sensor(number), order_ms));
                }
            }
        }
        write.commit().unwrap();
    }
    check(&store, &known);
    store.readings.rotate_memtable_and_wait().unwrap();
    store.readings.major_compact().unwrap();
    assert_eq!(store.readings.table_count(), 1, "one large table");
    check(&store, &known);

    // The same with a younger table of removals above it.
    for number in 0..SENSORS {
        let before_ms = (EACH / 2) * STEP_MS;
        let sensor = sensor(number);
        while store.remove_readings(&sensor, before_ms, 500).unwrap() > 0 {}
        known.retain(|(other, at)| *other != sensor || *at >= before_ms);
    }
    store.readings.rotate_memtable_and_wait().unwrap();
    check(&store, &known);
}

#[test]
fn the_inventory_goes_with_the_commits_and_is_what_a_start_reads() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), &Config::default()).unwrap();
    assert_eq!(store.inventory().unwrap(), []);
    for (number, received_ms) in [(1, 7), (2, 8), (1, 9)] {
        let mut state = SensorState::default();
        state.received_ms = received_ms;
        state.next_s = Some(60);
        let mut write = store.write();
        write.state(&sensor(number), Snapshot::of(&state).unwrap());
        write.commit().unwrap();
    }
    let expected = [(1, 9), (2, 8)].map(|(number, received_ms)| {
        let resting = Resting {
            received_ms,
            expected_ms: Some(60_000),
            silence_told: None,
        };
        (sensor(number), resting)
    });
    let known = |store: &Embedded| {
        let mut known = store.inventory().unwrap();
        known.sort_by_key(|(sensor, _)| *sensor);
        known
    };
    assert_eq!(known(&store), expected);
    // What is not committed is not known.
    let mut never = store.write();
    never.state(&sensor(3), Snapshot::of(&SensorState::default()).unwrap());
    drop(never);
    assert_eq!(known(&store), expected);
    drop(store);
    let store = Embedded::open(dir.path(), &Config::default()).unwrap();
    assert_eq!(known(&store), expected);
}
