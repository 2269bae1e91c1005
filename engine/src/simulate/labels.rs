//! The faults of a run as a CSV file: the ground truth that a detector is scored against.

use std::io;
use std::ops::Range;

use super::fleet::Fleet;

/// Writes `sensor,kind,quantity,start_ms,end_ms,magnitude`, one row per episode that has a reading
/// in `readings` (numbers per sensor), by sensor and time. Times are those of the first and the last
/// faulty reading, in ms since 1970 UTC, when reading 0 is at `start_ms`. An episode that the run
/// cut short ends with the run. Returns the number of episodes.
pub(crate) fn write_labels<W: io::Write>(
    out: W,
    fleet: &Fleet,
    start_ms: i64,
    readings: Range<u64>,
) -> io::Result<u64> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record([
        "sensor",
        "kind",
        "quantity",
        "start_ms",
        "end_ms",
        "magnitude",
    ])?;
    let mut rows = 0;
    for sensor in 0..fleet.len() {
        for episode in fleet.episodes(sensor, readings.clone()) {
            let first = episode.first_n.max(readings.start);
            let last = episode.last_n.min(readings.end.saturating_sub(1));
            csv.write_record([
                fleet.id(sensor).as_str(),
                episode.kind.name(),
                episode.quantity.name(),
                &fleet.time_of(start_ms, first).to_string(),
                &fleet.time_of(start_ms, last).to_string(),
                &format!("{:.3}", episode.magnitude),
            ])?;
            rows += 1;
        }
    }
    csv.flush()?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::simulate::{FaultKind, FaultPlan, FleetConfig};

    #[test]
    fn one_row_per_episode_with_the_times_of_its_readings() {
        let fleet = Fleet::new(FleetConfig {
            sensors: 3,
            seed: 4,
            interval: Duration::from_secs(2),
            faults: FaultPlan {
                kinds: FaultKind::ALL.to_vec(),
                every: 100,
                warmup: 100,
            },
        });
        let mut out = Vec::new();
        let rows = write_labels(&mut out, &fleet, 1_000_000, 0..1_000).unwrap();
        assert_eq!(rows, 27);
        let text = String::from_utf8(out).unwrap();
        let mut lines = text.lines();
        assert_eq!(
            lines.next(),
            Some("sensor,kind,quantity,start_ms,end_ms,magnitude")
        );
        let first = fleet.episodes(0, 0..1_000)[0];
        let expected = format!(
            "C001,{},{},{},{},{:.3}",
            first.kind,
            first.quantity.name(),
            1_000_000 + 2_000 * first.first_n,
            1_000_000 + 2_000 * first.last_n,
            first.magnitude
        );
        assert_eq!(lines.next(), Some(expected.as_str()));
        assert_eq!(lines.count(), 26);
    }

    #[test]
    fn an_episode_that_the_run_cut_short_ends_with_the_run() {
        let fleet = Fleet::new(FleetConfig {
            sensors: 1,
            seed: 4,
            interval: Duration::from_millis(1),
            faults: FaultPlan {
                kinds: vec![FaultKind::Stuck],
                every: 1_000,
                warmup: 0,
            },
        });
        let first = fleet.episodes(0, 0..1_000)[0];
        let mut out = Vec::new();
        write_labels(&mut out, &fleet, 0, 0..first.first_n + 2).unwrap();
        let text = String::from_utf8(out).unwrap();
        let row: Vec<_> = text.lines().nth(1).unwrap().split(',').collect();
        assert_eq!(row[3], first.first_n.to_string());
        assert_eq!(row[4], (first.first_n + 1).to_string());
    }
}
