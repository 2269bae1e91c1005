//! What each sensor showed last, as gauges. Written as text by itself: with a thousand sensors these
//! are nearly all lines of `/metrics`, and the stream moves on between every few of them.

use std::fmt::{Display, Write as _};
use std::sync::{Arc, Mutex};

use hashbrown::HashMap;
use smallvec::SmallVec;
use vigie_wire::{QuantityId, SensorId};

use super::lock;
use crate::group::Groups;
use crate::quantity::{Catalogue, Quantity};
use crate::score::rules::{Band, Rule};

/// How many sensors get series of their own, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct BoardConfig {
    /// Sensors with series of their own; the others appear only in the sums and in the API.
    pub max_sensors: usize,
    /// Value series disappear when a sensor has not been heard for this many expected intervals;
    /// its last-seen time stays.
    pub stale_intervals: i64,
    /// Which sensors belong together.
    pub groups: Arc<Groups>,
}

impl Default for BoardConfig {
    fn default() -> Self {
        Self {
            max_sensors: 1000,
            stale_intervals: 10,
            groups: Arc::default(),
        }
    }
}

/// One value as it was judged.
#[derive(Debug, Clone, Copy)]
pub struct Shown {
    /// Of what.
    pub quantity: QuantityId,
    /// In the quantity's unit.
    pub value: f64,
    /// Distance from the rolling baseline, in standard deviations.
    pub z: f32,
    /// Where it should be.
    pub band: Option<Band>,
}

/// What a sensor showed last.
#[derive(Debug, Clone, Default)]
pub struct Latest {
    /// Receive time.
    pub received_ms: i64,
    /// Expected interval; `None` if not learned yet.
    pub expected_ms: Option<i64>,
    /// r / (1 + r).
    pub score: f32,
    /// The same of the forest alone; `None`: none took part.
    pub forest: Option<f32>,
    /// Per quantity.
    pub values: SmallVec<[Shown; 2]>,
    /// Sequence numbers that are missing before it.
    pub skipped: u64,
}

/// What became of a message that named its sensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Became<T> {
    /// Stored, as the next one: what can be shown of it.
    Stored(T),
    /// Stored, but older than the newest.
    Late,
    /// It had been stored before.
    Duplicate,
    /// Kept aside.
    Quarantined,
}

/// How many messages a sensor sent since the start, and of these, what became of some.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    received: u64,
    late: u64,
    duplicate: u64,
    quarantined: u64,
}

impl Tally {
    fn add<T>(&mut self, became: &Became<T>) {
        self.received += 1;
        match became {
            Became::Stored(_) => {}
            Became::Late => self.late += 1,
            Became::Duplicate => self.duplicate += 1,
            Became::Quarantined => self.quarantined += 1,
        }
    }
}

/// What is known of one sensor.
#[derive(Debug, Clone)]
struct Known {
    sensor: SensorId,
    /// `None` of one that has only sent what was known already, or came too late.
    latest: Option<Latest>,
    tally: Tally,
    /// Readings that never came, since the start.
    missing: u64,
    /// When rules fired last, of those that have.
    fired: SmallVec<[(Rule, i64); 1]>,
}

/// What somebody knows of already, see [`Board::news`].
#[derive(Debug, Default)]
pub struct Seen {
    /// Receive times, by place.
    received_ms: Vec<i64>,
    /// The place to look at next.
    next: usize,
}

/// The latest reading of each sensor.
#[derive(Clone)]
pub struct Board {
    config: BoardConfig,
    inner: Arc<Mutex<Inner>>,
    quantities: Arc<[(QuantityId, Names)]>,
}

#[derive(Default)]
struct Inner {
    known: Vec<Known>,
    /// Only looked up, so that its order may be any; in the logic of stages it must not be.
    places: HashMap<SensorId, usize>,
    /// Readings of sensors beyond the cap.
    overflow: u64,
    now_ms: i64,
}

impl Inner {
    /// Gives a place to a sensor that has none yet.
    fn add(&mut self, sensor: SensorId) -> usize {
        let place = self.known.len();
        self.places.insert(sensor, place);
        self.known.push(Known {
            sensor,
            latest: None,
            tally: Tally::default(),
            missing: 0,
            fired: SmallVec::new(),
        });
        place
    }
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board")
            .field("sensors", &lock(&self.inner).known.len())
            .finish_non_exhaustive()
    }
}

/// So many sensors are copied at a time: a few microseconds, for which the stream waits.
const AT_ONCE: usize = 64;
/// So many are looked at for news at a time: most of them have none and are not copied.
const LOOKED_AT: usize = 1_024;

impl Board {
    pub(super) fn new(catalogue: &Catalogue, config: BoardConfig) -> Self {
        let quantities = catalogue.iter().map(|(id, spec)| (id, Names::of(spec)));
        Self {
            config,
            inner: Arc::default(),
            quantities: quantities.collect(),
        }
    }

    /// Messages that have just been answered, in order. `latest` is asked only of sensors with a place. One
    /// lock per batch. Whoever makes ids up gets no series: what is kept aside counts only for
    /// sensors that have sent something better.
    pub fn update<T>(
        &self,
        now_ms: i64,
        messages: impl IntoIterator<Item = (SensorId, Became<T>)>,
        latest: impl Fn(T) -> Latest,
    ) {
        let mut inner = lock(&self.inner);
        // A clock that is set back is believed, too: nobody would be fresh otherwise.
        inner.now_ms = now_ms;
        for (sensor, became) in messages {
            let place = match inner.places.get(&sensor) {
                Some(place) => *place,
                None if inner.known.len() >= self.config.max_sensors => {
                    inner.overflow += u64::from(matches!(became, Became::Stored(_)));
                    continue;
                }
                None if matches!(became, Became::Quarantined) => continue,
                None => inner.add(sensor),
            };
            let known = &mut inner.known[place];
            known.tally.add(&became);
            if let Became::Stored(message) = became {
                let latest = latest(message);
                known.missing = known.missing.saturating_add(latest.skipped);
                known.latest = Some(latest);
            }
        }
    }

    /// Sensors that it holds at most.
    pub fn capacity(&self) -> usize {
        self.config.max_sensors
    }

    /// Up to `limit` sensors whose newest reading is not the one in `seen`, which is brought up to
    /// date. It goes on behind the last one that it looked at, so that everybody has a turn.
    pub fn news(&self, seen: &mut Seen, limit: usize) -> Vec<(SensorId, Latest)> {
        let mut news = Vec::new();
        let mut looked_at = 0;
        loop {
            // Sensors are only ever added, behind the others.
            let inner = lock(&self.inner);
            let count = inner.known.len();
            seen.received_ms.resize(count, i64::MIN);
            let until = (looked_at + LOOKED_AT).min(count);
            if looked_at >= until || news.len() >= limit {
                return news;
            }
            while looked_at < until && news.len() < limit {
                let place = seen.next % count;
                seen.next = place + 1;
                looked_at += 1;
                let Known { sensor, latest, .. } = &inner.known[place];
                if let Some(latest) = latest
                    && seen.received_ms[place] != latest.received_ms
                {
                    seen.received_ms[place] = latest.received_ms;
                    news.push((*sensor, latest.clone()));
                }
            }
        }
    }

    /// Rules fired, and when. One lock, and none if there were none.
    pub fn fired(&self, verdicts: &[(SensorId, Rule, i64)]) {
        if verdicts.is_empty() {
            return;
        }
        let mut inner = lock(&self.inner);
        for (sensor, rule, at_ms) in verdicts {
            let Some(place) = inner.places.get(sensor).copied() else {
                continue;
            };
            let fired = &mut inner.known[place].fired;
            match fired.iter_mut().find(|(known, _)| known == rule) {
                Some((_, last_ms)) => *last_ms = (*last_ms).max(*at_ms),
                None => fired.push((*rule, *at_ms)),
            }
        }
    }

    /// All that is known, by sensor; overflow; the stream's time.
    fn copy(&self) -> (Vec<Known>, u64, i64) {
        let mut all = Vec::with_capacity(lock(&self.inner).known.len());
        loop {
            // Sensors are only ever added, behind the others.
            let inner = lock(&self.inner);
            let from = all.len();
            let to = (from + AT_ONCE).min(inner.known.len());
            all.extend_from_slice(&inner.known[from..to]);
            if to == inner.known.len() {
                let (overflow, now_ms) = (inner.overflow, inner.now_ms);
                drop(inner);
                all.sort_unstable_by_key(|known| known.sensor);
                return (all, overflow, now_ms);
            }
        }
    }

    /// Adds all series, in Prometheus' text format.
    pub(super) fn write(&self, out: &mut String) {
        let (all, overflow, now_ms) = self.copy();
        let shown = all
            .iter()
            .filter_map(|known| Some((known, known.latest.as_ref()?)));
        let shown: Vec<(&Known, &Latest)> = shown.collect();
        let is_fresh = |(_, latest): &(&Known, &Latest)| {
            latest.expected_ms.is_none_or(|interval| {
                now_ms - latest.received_ms <= interval * self.config.stale_intervals
            })
        };
        let fresh: Vec<(&Known, &Latest)> = shown.iter().copied().filter(is_fresh).collect();
        out.reserve(all.len() * 900);

        let mut scores = Family::begin(
            out,
            "vigie_sensor_anomaly_score",
            "Score of the newest reading: 0.5 is the line.",
        );
        for (known, latest) in &fresh {
            scores.sample(known, None, latest.score);
        }
        let mut forest = Family::begin(
            out,
            "vigie_sensor_forest_score",
            "Score of the newest reading by the isolation forest alone: 0.5 is the line.",
        );
        for (known, latest) in &fresh {
            if let Some(score) = latest.forest {
                forest.sample(known, None, score);
            }
        }
        let mut zscores = Family::begin(
            out,
            "vigie_sensor_zscore",
            "Distance of the newest value from its rolling baseline, in standard deviations.",
        );
        for (known, latest) in &fresh {
            for shown in &latest.values {
                if let Some(names) = self.names(shown.quantity) {
                    zscores.sample(known, Some(("quantity", &names.quantity)), shown.z);
                }
            }
        }
        let mut seen = Family::begin(
            out,
            "vigie_sensor_last_seen_timestamp_seconds",
            "When the sensor was last heard.",
        );
        for (known, latest) in &shown {
            seen.sample(known, None, seconds(latest.received_ms));
        }
        let mut expected = Family::begin(
            out,
            "vigie_sensor_expected_interval_seconds",
            "Announced or learned time between readings.",
        );
        for (known, latest) in &shown {
            if let Some(interval) = latest.expected_ms {
                expected.sample(known, None, seconds(interval));
            }
        }
        let mut fired = Family::begin(
            out,
            "vigie_sensor_rule_fired_timestamp_seconds",
            "When a rule fired last on the sensor since the engine's start.",
        );
        for known in &all {
            for (rule, at_ms) in &known.fired {
                fired.sample(known, Some(("rule", rule.name())), seconds(*at_ms));
            }
        }
        let mut infos = Family::begin(
            out,
            "vigie_sensor_info",
            "1, with the sensor's group; of a sensor in no group, that is empty.",
        );
        for known in &all {
            let group = self.config.groups.of(&known.sensor).unwrap_or_default();
            infos.sample(known, Some(("group", group)), 1);
        }
        let mut missing = Family::counter(
            out,
            "vigie_sensor_missing_readings_total",
            "Readings of the sensor that never came, by their numbers, since the engine's start.",
        );
        for known in &all {
            missing.sample(known, None, known.missing);
        }
        write_tallies(out, &all);
        for (id, names) in self.quantities.iter() {
            names.write(out, &fresh, *id);
        }
        let name = "vigie_sensor_series_overflow_total";
        let help = "Readings of sensors beyond the cap on series of their own.";
        Family::counter(out, name, help).single(overflow);
    }

    fn names(&self, quantity: QuantityId) -> Option<&Names> {
        let mut all = self.quantities.iter();
        all.find(|(id, _)| *id == quantity).map(|(_, names)| names)
    }
}

/// What became of each sensor's messages.
fn write_tallies(out: &mut String, all: &[Known]) {
    type Part = (&'static str, &'static str, fn(&Tally) -> u64);
    let parts: [Part; 4] = [
        (
            "vigie_sensor_received_messages_total",
            "Messages of the sensor that were answered, since the engine's start.",
            |tally| tally.received,
        ),
        (
            "vigie_sensor_late_readings_total",
            "Of these, readings stored although a newer one was there.",
            |tally| tally.late,
        ),
        (
            "vigie_sensor_duplicate_readings_total",
            "Of these, readings that had been stored before.",
            |tally| tally.duplicate,
        ),
        (
            "vigie_sensor_quarantined_messages_total",
            "Of these, messages kept aside.",
            |tally| tally.quarantined,
        ),
    ];
    for (name, help, part) in parts {
        let mut family = Family::counter(out, name, help);
        for known in all {
            family.sample(known, None, part(&known.tally));
        }
    }
}

/// What the metrics of a quantity are called. Percent on the wire, ratio here.
#[derive(Debug)]
struct Names {
    quantity: String,
    value: String,
    value_help: String,
    band: String,
    band_help: String,
    factor: f64,
}

impl Names {
    fn of(spec: &Quantity) -> Self {
        let (unit, factor) = match spec.unit.as_str() {
            "°C" => ("celsius".to_owned(), 1.0),
            "%" => ("ratio".to_owned(), 0.01),
            other => {
                let mut unit = String::new();
                for c in other.chars() {
                    match c {
                        'a'..='z' | '0'..='9' => unit.push(c),
                        'A'..='Z' => unit.push(c.to_ascii_lowercase()),
                        'µ' | 'μ' => unit.push('u'),
                        '³' => unit.push('3'),
                        '/' => unit.push_str("_per_"),
                        _ => {}
                    }
                }
                (unit, 1.0)
            }
        };
        let suffix = if unit.is_empty() {
            String::new()
        } else {
            format!("_{unit}")
        };
        let name = &spec.name;
        Self {
            quantity: name.clone(),
            value: format!("vigie_sensor_{name}{suffix}"),
            value_help: format!("Newest value of {name}."),
            band: format!("vigie_sensor_{name}_band{suffix}"),
            band_help: format!("Lowest and highest value of {name} that is as learned."),
            factor,
        }
    }

    /// Values of the quantity `id`, and where they should be.
    fn write(&self, out: &mut String, fresh: &[(&Known, &Latest)], id: QuantityId) {
        let shown = |latest: &Latest| {
            let mut values = latest.values.iter();
            values.find(|shown| shown.quantity == id).copied()
        };
        let mut values = Family::begin(out, &self.value, &self.value_help);
        for (known, latest) in fresh {
            if let Some(shown) = shown(latest) {
                values.sample(known, None, shown.value * self.factor);
            }
        }
        let mut bands = Family::begin(out, &self.band, &self.band_help);
        for (known, latest) in fresh {
            if let Some(band) = shown(latest).and_then(|shown| shown.band) {
                for (bound, value) in [("low", band.low), ("high", band.high)] {
                    let value = f64::from(value) * self.factor;
                    // Seven digits are what the band has.
                    bands.sample(known, Some(("bound", bound)), round(value));
                }
            }
        }
    }
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// As an f32 it is shorter to write.
#[allow(clippy::cast_possible_truncation, reason = "it was one before")]
fn round(value: f64) -> f32 {
    value as f32
}

/// One metric on its way into the text. Its head comes with its first sample: without any it is not
/// there.
struct Family<'a> {
    out: &'a mut String,
    name: &'a str,
    help: &'a str,
    kind: &'static str,
    begun: bool,
}

impl<'a> Family<'a> {
    fn begin(out: &'a mut String, name: &'a str, help: &'a str) -> Self {
        Self {
            out,
            name,
            help,
            kind: "gauge",
            begun: false,
        }
    }

    fn counter(out: &'a mut String, name: &'a str, help: &'a str) -> Self {
        Self {
            kind: "counter",
            ..Self::begin(out, name, help)
        }
    }

    fn head(&mut self) {
        if !self.begun {
            self.begun = true;
            let Self {
                name, help, kind, ..
            } = self;
            // Writing to a String cannot fail.
            let _infallible = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        }
        self.out.push_str(self.name);
    }

    /// Nothing here needs an escape: ids of sensors and names of rules and quantities have none of
    /// the characters, and names of groups were checked.
    fn sample(&mut self, known: &Known, other: Option<(&str, &str)>, value: impl Display) {
        self.head();
        self.out.push('{');
        // Labels in alphabetical order, as everywhere else; none comes behind `sensor`.
        if let Some((label, text)) = other.filter(|(label, _)| *label < "sensor") {
            self.label(label, text);
            self.out.push(',');
        }
        self.label("sensor", known.sensor.as_str());
        self.out.push('}');
        let _infallible = writeln!(self.out, " {value}");
    }

    fn label(&mut self, name: &str, value: &str) {
        for part in [name, "=\"", value, "\""] {
            self.out.push_str(part);
        }
    }

    fn single(mut self, value: u64) {
        self.head();
        let _infallible = writeln!(self.out, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;
    use vigie_wire::{HUMIDITY, TEMPERATURE};

    use super::*;

    fn latest(received_ms: i64) -> Latest {
        let shown = |quantity, value, z, band| Shown {
            quantity,
            value,
            z,
            band,
        };
        let band = Band {
            low: 40.0,
            high: 60.5,
        };
        Latest {
            received_ms,
            expected_ms: Some(10_000),
            score: 0.25,
            forest: Some(0.125),
            values: smallvec![
                shown(TEMPERATURE, 21.5, -0.5, None),
                shown(HUMIDITY, 50.0, 1.5, Some(band)),
            ],
            skipped: 2,
        }
    }

    fn show(board: &Board, now_ms: i64, readings: impl IntoIterator<Item = (SensorId, Latest)>) {
        let readings = readings.into_iter();
        let entered = readings.map(|(sensor, latest)| (sensor, Became::Stored(latest)));
        board.update(now_ms, entered, |latest| latest);
    }

    fn text(board: &Board) -> String {
        let mut text = String::new();
        board.write(&mut text);
        text
    }

    #[test]
    fn shows_values_and_bands_in_base_units() {
        let board = Board::new(&Catalogue::default(), BoardConfig::default());
        let sensor: SensorId = "C:1".try_into().unwrap();
        show(
            &board,
            5_000,
            [(sensor, latest(4_500)), (sensor, latest(5_000))],
        );
        board.fired(&[(sensor, Rule::Stuck, 4_000), (sensor, Rule::Stuck, 3_000)]);
        let text = text(&board);
        for line in [
            "# HELP vigie_sensor_humidity_band_ratio Lowest and highest value of humidity that is as learned.",
            "# TYPE vigie_sensor_humidity_band_ratio gauge",
            "vigie_sensor_humidity_band_ratio{bound=\"low\",sensor=\"C:1\"} 0.4",
            "vigie_sensor_humidity_band_ratio{bound=\"high\",sensor=\"C:1\"} 0.605",
            "vigie_sensor_humidity_ratio{sensor=\"C:1\"} 0.5",
            "vigie_sensor_temperature_celsius{sensor=\"C:1\"} 21.5",
            "vigie_sensor_zscore{quantity=\"temperature\",sensor=\"C:1\"} -0.5",
            "vigie_sensor_forest_score{sensor=\"C:1\"} 0.125",
            "vigie_sensor_rule_fired_timestamp_seconds{rule=\"stuck\",sensor=\"C:1\"} 4",
            "vigie_sensor_missing_readings_total{sensor=\"C:1\"} 4",
            "vigie_sensor_last_seen_timestamp_seconds{sensor=\"C:1\"} 5",
            "vigie_sensor_info{group=\"\",sensor=\"C:1\"} 1",
            "vigie_sensor_series_overflow_total 0",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
        assert!(!text.contains("vigie_sensor_temperature_band"), "{text}");
    }

    #[test]
    fn what_is_stale_shows_no_values_and_what_is_too_much_is_counted() {
        let config = BoardConfig {
            max_sensors: 1,
            ..BoardConfig::default()
        };
        let board = Board::new(&Catalogue::default(), config);
        let [first, second] = ["A", "B"].map(|id| id.try_into().unwrap());
        show(&board, 0, [(first, latest(0)), (second, latest(0))]);
        board.fired(&[(second, Rule::Z, 0)]);
        show(&board, 100_001, []);
        let text = text(&board);
        assert!(
            !text.contains("celsius") && !text.contains("\"B\""),
            "{text}"
        );
        assert!(text.contains("last_seen_timestamp_seconds{sensor=\"A\"} 0"));
        assert!(text.contains("vigie_sensor_series_overflow_total 1"));
    }

    #[test]
    fn counts_what_became_of_messages_of_sensors_that_are_real() {
        let config = BoardConfig {
            max_sensors: 2,
            ..BoardConfig::default()
        };
        let board = Board::new(&Catalogue::default(), config);
        let [first, second, third] = ["A", "B", "C"].map(|id| id.try_into().unwrap());
        let count = |messages: &[_]| board.update(0, messages.iter().copied(), |()| latest(0));
        count(&[
            (second, Became::Quarantined),
            (first, Became::Stored(())),
            (first, Became::Late),
            (first, Became::Quarantined),
        ]);
        count(&[
            (second, Became::Duplicate),
            (third, Became::Stored(())),
            (first, Became::Stored(())),
        ]);
        let text = text(&board);
        for (what, counts) in [
            ("received_messages", [4, 1]),
            ("late_readings", [1, 0]),
            ("duplicate_readings", [0, 1]),
            ("quarantined_messages", [1, 0]),
        ] {
            for (sensor, count) in ["A", "B"].iter().zip(counts) {
                let line = format!("vigie_sensor_{what}_total{{sensor=\"{sensor}\"}} {count}");
                assert!(text.lines().any(|known| known == line), "{line}\n{text}");
            }
        }
        assert!(!text.contains("\"C\""), "{text}");
    }

    #[test]
    fn values_stay_when_the_clock_is_set_back() {
        let board = Board::new(&Catalogue::default(), BoardConfig::default());
        let sensor: SensorId = "A".try_into().unwrap();
        show(&board, 1_000_000, [(sensor, latest(1_000_000))]);
        let lost = Latest {
            skipped: u64::MAX,
            ..latest(0)
        };
        show(&board, 0, [(sensor, lost)]);
        let text = text(&board);
        assert!(text.contains("vigie_sensor_temperature_celsius"), "{text}");
        let most = format!("missing_readings_total{{sensor=\"A\"}} {}", u64::MAX);
        assert!(text.contains(&most), "{text}");
    }

    /// More than are told at a time, and more than are looked at under one lock.
    #[test]
    fn everybody_who_sends_has_a_turn() {
        let config = BoardConfig {
            max_sensors: 3 * LOOKED_AT,
            ..BoardConfig::default()
        };
        let board = Board::new(&Catalogue::default(), config);
        let mut seen = Seen::default();
        assert!(board.news(&mut seen, 10).is_empty());
        let ids = (0..=2 * LOOKED_AT).map(|n| format!("S{n}"));
        let ids: Vec<SensorId> = ids.map(|id| id.as_str().try_into().unwrap()).collect();
        // All of them have sent again each time.
        let mut told = Vec::new();
        for round in 0..3 {
            show(&board, round, ids.iter().map(|id| (*id, latest(round))));
            let news = board.news(&mut seen, LOOKED_AT);
            assert!(news.iter().all(|(_, latest)| latest.received_ms == round));
            told.extend(news.into_iter().map(|(sensor, _)| sensor));
        }
        assert_eq!(told[..ids.len()], ids);
        assert_eq!(told.len(), 3 * LOOKED_AT);
        // The rest of what was sent last, each once, then nothing.
        let rest = board.news(&mut seen, usize::MAX);
        assert_eq!(rest.len(), LOOKED_AT + 1);
        assert!(board.news(&mut seen, usize::MAX).is_empty());
        show(&board, 9, [(ids[7], latest(9))]);
        let news = board.news(&mut seen, usize::MAX);
        let news: Vec<SensorId> = news.into_iter().map(|(sensor, _)| sensor).collect();
        assert_eq!(news, [ids[7]]);
    }

    /// More than one part, in the order of the ids.
    #[test]
    fn all_sensors_are_there_in_order() {
        let board = Board::new(&Catalogue::default(), BoardConfig::default());
        let ids = (0..200_u32).rev().map(|n| format!("S{n:03}"));
        for id in ids {
            show(&board, 0, [(id.as_str().try_into().unwrap(), latest(0))]);
        }
        let text = text(&board);
        let lines = text
            .lines()
            .filter(|line| line.starts_with("vigie_sensor_anomaly_score{"));
        let lines: Vec<&str> = lines.collect();
        assert_eq!(lines.len(), 200);
        assert!(lines.is_sorted());
    }
}
