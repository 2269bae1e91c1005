//! Counts what a backtest said: per sensor, per rule, and against the truth if that is known.

use std::collections::BTreeMap;
use std::fmt;

use time::OffsetDateTime;
use vigie_actors::quantity::Catalogue;
use vigie_actors::score::incident::NoticeKind;
use vigie_actors::score::rules::{Rule, Verdict};

use super::labels::Label;
use super::timeline::Moment;

const HOUR_MS: i64 = 3_600_000;
const WEEK_MS: i64 = 7 * 24 * HOUR_MS;
/// Anomalies within this time are one episode.
const MERGE_MS: i64 = 6 * HOUR_MS;
/// A fault may be found this long after its end …
const GRACE_MS: i64 = HOUR_MS / 2;
/// … and what is said this long after it is its echo, not a false alarm.
const ECHO_MS: i64 = 6 * HOUR_MS;
/// An explanation is improved for so long.
const BETTER_MS: i64 = 3 * HOUR_MS;
/// Nothing counts in the first days of a sensor: it is getting to know it.
const WARM_MS: i64 = 3 * 24 * HOUR_MS;

/// The tables.
#[derive(Debug, Default)]
pub(crate) struct Report {
    sensors: Vec<(String, Sums)>,
    rules: BTreeMap<Rule, Sums>,
    kinds: BTreeMap<String, Kind>,
    labelled: bool,
}

#[derive(Debug, Default, Clone)]
struct Sums {
    weeks: f64,
    anomalies: usize,
    alerts: usize,
    episodes: usize,
    /// Episodes outside of every label.
    false_alarms: usize,
}

/// Faults of one kind.
#[derive(Debug, Default)]
struct Kind {
    faults: usize,
    found: usize,
    delays_ms: Vec<i64>,
    /// By the rule that explained it.
    explained: BTreeMap<Rule, usize>,
    /// Of those found whose label names a quantity: explained by that one, and all.
    quantity: (usize, usize),
}

impl Report {
    /// Counts one file.
    pub(crate) fn add(
        &mut self,
        name: &str,
        moments: &[Moment],
        truth: Option<&[Label]>,
        catalogue: &Catalogue,
    ) {
        self.labelled |= truth.is_some();
        let truth = truth.unwrap_or_default();
        let mut by_sensor: BTreeMap<_, Vec<&Moment>> = BTreeMap::new();
        for moment in moments {
            by_sensor.entry(moment.sensor).or_default().push(moment);
        }
        let several = by_sensor.len() > 1;
        for (sensor, moments) in by_sensor {
            let first_ms = moments.iter().map(|moment| moment.time_ms).min();
            let last_ms = moments.iter().map(|moment| moment.time_ms).max();
            let from_ms = first_ms.unwrap_or(0) + WARM_MS;
            let span_ms = (last_ms.unwrap_or(0) - from_ms).max(0);
            let weeks = span_ms as f64 / WEEK_MS as f64;
            let alarms: Vec<&Moment> = moments
                .into_iter()
                .filter(|moment| !moment.fired.is_empty())
                .filter(|moment| moment.time_ms >= from_ms || span_ms == 0)
                .collect();
            let sums = count(&alarms, truth, weeks);
            for rule in Rule::ALL {
                let of_rule: Vec<&Moment> = alarms
                    .iter()
                    .copied()
                    .filter(|moment| moment.fired[0].rule == rule)
                    .collect();
                let sums = count(&of_rule, truth, weeks);
                self.rules.entry(rule).or_default().add(&sums);
            }
            self.judge(&alarms, truth, from_ms, catalogue);
            let name = if several {
                format!("{name} {sensor}")
            } else {
                name.to_owned()
            };
            self.sensors.push((name, sums));
        }
    }

    /// Were the faults found, when, and for the right reason?
    fn judge(&mut self, alarms: &[&Moment], truth: &[Label], from_ms: i64, catalogue: &Catalogue) {
        for label in truth {
            let kind = self.kinds.entry(label.kind.clone()).or_default();
            kind.faults += 1;
            let inside = |moment: &&&Moment| {
                (label.start_ms..=label.end_ms + GRACE_MS).contains(&moment.time_ms)
                    && moment.time_ms >= from_ms
            };
            let Some(first) = alarms.iter().find(inside) else {
                continue;
            };
            kind.found += 1;
            kind.delays_ms.push(first.time_ms - label.start_ms);
            let verdict = explanation(first, alarms);
            *kind.explained.entry(verdict.rule).or_default() += 1;
            if let (Some(truth), Some(said)) = (&label.quantity, named(verdict, catalogue)) {
                kind.quantity.1 += 1;
                kind.quantity.0 += usize::from(*truth == said);
            }
        }
    }
}

/// What people read: the rule that fired first, or a better one that was found soon after.
fn explanation<'a>(first: &'a Moment, alarms: &[&'a Moment]) -> &'a Verdict {
    let begun = alarms.partition_point(|moment| moment.time_ms < first.time_ms);
    let of_incident = alarms[begun..]
        .iter()
        .take_while(|moment| moment.time_ms - first.time_ms <= BETTER_MS)
        .filter_map(|moment| moment.because.as_ref())
        .filter(|because| because.since_ms >= first.time_ms)
        .last();
    of_incident.unwrap_or(&first.fired[0])
}

fn named<'a>(verdict: &Verdict, catalogue: &'a Catalogue) -> Option<&'a str> {
    let spec = catalogue.get(verdict.quantity?)?;
    Some(&spec.name)
}

fn count(alarms: &[&Moment], truth: &[Label], weeks: f64) -> Sums {
    let is_false = |moment: &&&Moment| {
        !truth
            .iter()
            .any(|label| (label.start_ms..=label.end_ms + ECHO_MS).contains(&moment.time_ms))
    };
    let opened = |moment: &&&Moment| moment.told == Some(NoticeKind::Opened);
    Sums {
        weeks,
        anomalies: alarms.len(),
        alerts: alarms.iter().filter(opened).count(),
        episodes: episodes(alarms.iter().map(|moment| moment.time_ms)),
        false_alarms: episodes(alarms.iter().filter(is_false).map(|moment| moment.time_ms)),
    }
}

fn episodes(times: impl Iterator<Item = i64>) -> usize {
    let mut last = None;
    let mut count = 0;
    for time in times {
        if last.is_none_or(|last| time - last > MERGE_MS) {
            count += 1;
        }
        last = Some(time);
    }
    count
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.weeks += other.weeks;
        self.anomalies += other.anomalies;
        self.alerts += other.alerts;
        self.episodes += other.episodes;
        self.false_alarms += other.false_alarms;
    }

    fn row(&self, f: &mut fmt::Formatter<'_>, name: &str, labelled: bool) -> fmt::Result {
        write!(
            f,
            "{name:<40} {:>7.2} {:>9} {:>7} {:>8}",
            self.weeks, self.anomalies, self.alerts, self.episodes
        )?;
        let wrong = if labelled {
            self.false_alarms
        } else {
            self.episodes
        };
        if self.weeks > 0.0 {
            writeln!(f, " {:>16.2}", wrong as f64 / self.weeks)
        } else {
            writeln!(f, " {:>16}", "-")
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = if self.labelled {
            "false alarms/week"
        } else {
            "episodes/week"
        };
        let head = |f: &mut fmt::Formatter<'_>, name: &str| {
            writeln!(
                f,
                "{name:<40} {:>7} {:>9} {:>7} {:>8} {rate:>16}",
                "weeks", "anomalies", "alerts", "episodes"
            )
        };
        head(f, "sensor")?;
        let mut all = Sums::default();
        for (name, sums) in &self.sensors {
            sums.row(f, name, self.labelled)?;
            all.add(sums);
        }
        all.row(f, "all", self.labelled)?;
        writeln!(f)?;
        head(f, "rule (the explanation)")?;
        for (rule, sums) in &self.rules {
            sums.row(f, rule.name(), self.labelled)?;
        }
        if !self.kinds.is_empty() {
            self.truth(f)?;
        }
        Ok(())
    }
}

impl Report {
    fn truth(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<40} {:>7} {:>9} {:>16}   explained by",
            "fault", "found", "recall", "median delay"
        )?;
        let (mut faults, mut found) = (0, 0);
        let mut quantity = (0, 0);
        for (name, kind) in &self.kinds {
            let mut delays = kind.delays_ms.clone();
            delays.sort_unstable();
            let delay = delays.get(delays.len() / 2).map_or_else(
                || "-".to_owned(),
                |ms| vigie_actors::alert::text::span(*ms as f64 / 1000.0),
            );
            let mut explained: Vec<(&Rule, &usize)> = kind.explained.iter().collect();
            explained.sort_by_key(|(rule, times)| (std::cmp::Reverse(**times), **rule));
            let explained: Vec<String> = explained
                .iter()
                .map(|(rule, times)| format!("{} {times}", rule.name()))
                .collect();
            writeln!(
                f,
                "{name:<40} {:>7} {:>9.3} {delay:>16}   {}",
                format!("{}/{}", kind.found, kind.faults),
                share(kind.found, kind.faults),
                explained.join(", ")
            )?;
            faults += kind.faults;
            found += kind.found;
            quantity.0 += kind.quantity.0;
            quantity.1 += kind.quantity.1;
        }
        let wrong: usize = self.sensors.iter().map(|(_, sums)| sums.false_alarms).sum();
        writeln!(
            f,
            "all: recall {:.3}; precision {:.3} (faults found among them and the false episodes); \
             right quantity {}/{}",
            share(found, faults),
            share(found, found + wrong),
            quantity.0,
            quantity.1
        )
    }
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// Times and texts of alerts.
type Alerts = Vec<(i64, String)>;

/// Which alerts one config has and the other has not, by file: (before, after).
pub(crate) fn difference(told: &BTreeMap<String, (Alerts, Alerts)>) -> String {
    let mut text = String::from("\nmails that would vanish (-) and appear (+):\n");
    let (mut gone, mut new, mut same) = (0, 0, 0);
    for (file, (before, after)) in told {
        let near = |(time, _): &(i64, String), others: &Alerts| {
            others
                .iter()
                .any(|(other, _)| (other - time).abs() <= MERGE_MS)
        };
        let mut lines = Vec::new();
        for alert in before.iter().filter(|alert| !near(alert, after)) {
            lines.push((alert.0, '-', &alert.1));
            gone += 1;
        }
        for alert in after {
            if near(alert, before) {
                same += 1;
            } else {
                lines.push((alert.0, '+', &alert.1));
                new += 1;
            }
        }
        lines.sort();
        for (time, sign, what) in lines {
            text += &format!("{sign} {file}  {}  {what}\n", calendar(time));
        }
    }
    text + &format!("{gone} vanish, {new} appear, {same} stay")
}

/// `2016-01-11 17:00:00`, UTC.
pub(crate) fn calendar(ms: i64) -> String {
    let Ok(time) = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000) else {
        return ms.to_string();
    };
    let millis = match time.millisecond() {
        0 => String::new(),
        millis => format!(".{millis:03}"),
    };
    format!(
        "{} {:02}:{:02}:{:02}{millis}",
        time.date(),
        time.hour(),
        time.minute(),
        time.second()
    )
}
