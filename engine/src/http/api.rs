//! The JSON of `/api/v1`: what may be asked, and the store's answer in bytes. Knows nothing of
//! HTTP but status codes. A list is written page by page, so an answer is bounded whatever it
//! lists.

use std::fmt::Write as _;

use super::State;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use vigie_actors::alert::link::Answer;
use vigie_actors::alert::report::Report;
use vigie_actors::alert::text::{Voice, sentence};
use vigie_actors::config::Span;
use vigie_actors::forward;
use vigie_actors::quantity::{self, Catalogue};
use vigie_actors::reading::Identity;
use vigie_actors::score::incident::{Deed, Incident, Order};
use vigie_actors::score::rules::{Rule, Verdict};
use vigie_actors::score::scorer::IncidentMemory as _;
use vigie_actors::stats::device::Device;
use vigie_actors::stats::state::SensorState;
use vigie_actors::store;
use vigie_actors::store::embedded::{Embedded, Page};
use vigie_actors::store::row::{self, StoredReading, StoredValue};
use vigie_actors::supervise::chain;
use vigie_wire::{HUMIDITY, SensorId, TEMPERATURE};

/// Items in a list if the question does not say.
const LIMIT: usize = 100;
/// Items in a list at most.
const MOST: usize = 10_000;
/// Points of a picture at most.
const MOST_POINTS: u32 = 2_000;
/// Items read from the store at a time.
const CHUNK: usize = 512;
/// An answer that has grown beyond this ends early, with the cursor to its rest.
const LARGEST: usize = 4 << 20;

/// Why there is no answer, for the person who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// HTTP status.
    pub(super) status: u16,
    /// What is wrong.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) fix: String,
}

impl Failure {
    pub(super) fn new(status: u16, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            status,
            what: what.into(),
            fix: fix.into(),
        }
    }

    /// Something is wrong in here, not with the question.
    pub(super) fn inside(what: impl Into<String>) -> Self {
        Self::new(
            500,
            what,
            "see the engine's log; if it stays so, restart the engine",
        )
    }

    /// `{"error":{"what":"…","fix":"…"}}`.
    pub(super) fn body(&self) -> Vec<u8> {
        serde_json::json!({ "error": { "what": self.what, "fix": self.fix } })
            .to_string()
            .into_bytes()
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self::inside(chain(&error))
    }
}

/// What a question may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    /// Times from this on, …
    from_ms: i64,
    /// … and before this.
    to_ms: i64,
    /// Items at most.
    limit: usize,
    /// Where the list before ended.
    cursor: Option<Vec<u8>>,
    /// Details, please.
    pub(super) verbose: bool,
    /// Only what is open.
    pub(super) open: bool,
    /// Of a signed link.
    pub(super) until_ms: i64,
    pub(super) signature: String,
    /// Ids, with commas.
    pub(super) sensors: String,
    /// Points of a picture.
    pub(super) points: Option<u32>,
}

impl Query {
    /// Reads `pairs`, of which only those in `known` are allowed.
    pub(crate) fn parse(pairs: &[(String, String)], known: &[&str]) -> Result<Self, Failure> {
        let strangers: Vec<&str> = pairs
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| !known.contains(name))
            .collect();
        if !strangers.is_empty() {
            let fix = if known.is_empty() {
                "leave it out: none is known here".to_owned()
            } else {
                format!("known here: {}", known.join(", "))
            };
            let what = format!("unknown parameter: {}", strangers.join(", "));
            return Err(Failure::new(400, what, fix));
        }
        let mut query = Self {
            from_ms: 0,
            to_ms: i64::MAX,
            limit: LIMIT,
            cursor: None,
            verbose: false,
            open: false,
            until_ms: 0,
            signature: String::new(),
            sensors: String::new(),
            points: None,
        };
        for (index, (name, value)) in pairs.iter().enumerate() {
            if pairs[..index].iter().any(|(before, _)| before == name) {
                return Err(Failure::new(
                    400,
                    format!("{name} is given twice"),
                    "give it once",
                ));
            }
            match name.as_str() {
                "from" => query.from_ms = time(name, value)?,
                "to" => query.to_ms = time(name, value)?,
                "limit" => query.limit = limit(value)?,
                "cursor" => query.cursor = Some(unhex(value).ok_or_else(bad_cursor)?),
                "verbose" => query.verbose = true,
                "open" => query.open = true,
                "until" => query.until_ms = time(name, value)?,
                "sensors" => query.sensors.clone_from(value),
                "points" => query.points = Some(points(value)?),
                "signature" => query.signature.clone_from(value),
                _ => {}
            }
        }
        Ok(query)
    }

    pub(super) fn span(&self) -> (i64, i64) {
        (self.from_ms, self.to_ms)
    }
}

fn time(name: &str, value: &str) -> Result<i64, Failure> {
    value.parse().map_err(|_| {
        Failure::new(
            400,
            format!("{name}={value} is not a time"),
            "give milliseconds since 1970 UTC, such as 1790000000000",
        )
    })
}

fn limit(value: &str) -> Result<usize, Failure> {
    value
        .parse()
        .ok()
        .filter(|limit| (1..=MOST).contains(limit))
        .ok_or_else(|| {
            Failure::new(
                400,
                format!("limit={value} is out of range"),
                format!("give 1 to {MOST}, and go on with the cursor in next"),
            )
        })
}

fn points(value: &str) -> Result<u32, Failure> {
    let points = value.parse().ok();
    points
        .filter(|points| (2..=MOST_POINTS).contains(points))
        .ok_or_else(|| {
            let what = format!("points={value} is out of range");
            Failure::new(400, what, format!("give 2 to {MOST_POINTS}"))
        })
}

fn bad_cursor() -> Failure {
    Failure::new(
        400,
        "the cursor is not one of this list",
        "pass next as it was given, unchanged",
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _infallible = write!(text, "{byte:02x}");
            text
        })
}

/// Inverse of [`hex`]: lower-case only, so that a place in a list has one name.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect()
}

pub(super) fn put(body: &mut Vec<u8>, item: &impl Serialize) -> Result<(), Failure> {
    serde_json::to_writer(body, item).map_err(|error| Failure::inside(error.to_string()))
}

/// Writes `{"<name>":[…],"next":…}`.
fn list<T>(
    name: &str,
    query: &Query,
    mut read: impl FnMut(Option<&[u8]>, usize) -> Result<Page<T>, store::Error>,
    mut show: impl FnMut(&mut Vec<u8>, T) -> Result<(), Failure>,
) -> Result<Vec<u8>, Failure> {
    let mut body = format!("{{\"{name}\":[").into_bytes();
    let mut left = query.limit;
    let mut cursor = query.cursor.clone();
    let mut first = true;
    loop {
        let page = read(cursor.as_deref(), left.min(CHUNK))?;
        left -= page.items.len();
        cursor = page.next;
        for item in page.items {
            if !std::mem::take(&mut first) {
                body.push(b',');
            }
            show(&mut body, item)?;
        }
        if cursor.is_none() || left == 0 || body.len() > LARGEST {
            break;
        }
    }
    body.extend_from_slice(b"],\"next\":");
    put(&mut body, &cursor.as_deref().map(hex))?;
    body.push(b'}');
    Ok(body)
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// Values under the names of their quantities.
pub(super) struct Values<'a>(pub(super) &'a Catalogue, pub(super) &'a [StoredValue]);

/// Under this name the dew point is given, where temperature and humidity allow it and no quantity
/// of the sensor has the name.
const DEW_POINT: &str = "dew_point";

impl Values<'_> {
    fn dew_point(&self) -> Option<f64> {
        let value = |id| self.1.iter().find(|value| value.quantity == id);
        if self.0.iter().any(|(_, spec)| spec.name == DEW_POINT) {
            return None;
        }
        let dew_point = quantity::dew_point(value(TEMPERATURE)?.value, value(HUMIDITY)?.value)?;
        Some((dew_point * 100.0).round() / 100.0)
    }
}

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for value in self.1 {
            if let Some(spec) = self.0.get(value.quantity) {
                map.serialize_entry(&spec.name, &value.value)?;
            }
        }
        if let Some(dew_point) = self.dew_point() {
            map.serialize_entry(DEW_POINT, &dew_point)?;
        }
        map.end()
    }
}

/// z-scores under the names of their quantities.
pub(super) struct Zs<'a>(pub(super) &'a Catalogue, pub(super) &'a [StoredValue]);

impl Serialize for Zs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for value in self.1 {
            if let Some(spec) = self.0.get(value.quantity) {
                map.serialize_entry(&spec.name, &value.z)?;
            }
        }
        map.end()
    }
}

#[derive(Serialize)]
struct OpenIncident {
    id: String,
    severity: &'static str,
    rule: &'static str,
    opened: i64,
}

#[derive(Serialize)]
struct Sensor<'a> {
    id: &'a str,
    last_seen: Option<i64>,
    expected_interval_s: Option<f64>,
    readings: u64,
    missing: u64,
    #[serde(flatten)]
    values: Values<'a>,
    score: Option<f32>,
    anomaly: bool,
    incident: Option<OpenIncident>,
    group: Option<&'a str>,
    /// Too young for all rules to speak.
    learning: bool,
    /// So long without a reading is silence.
    silent_after_s: Option<f64>,
    device: Option<Told<'a>>,
}

/// What a device told of itself.
#[derive(Serialize)]
struct Told<'a> {
    started: Option<i64>,
    starts: u32,
    firmware: Option<&'a str>,
    reset: Option<&'a str>,
    crash: Option<&'a str>,
}

impl<'a> From<&'a Device> for Told<'a> {
    fn from(device: &'a Device) -> Self {
        Self {
            started: device.started_ms,
            starts: device.starts,
            firmware: device.told.firmware.as_deref(),
            reset: device.told.reset.as_deref(),
            crash: device.told.crash.as_deref(),
        }
    }
}

/// `GET /api/v1/sensors`. `missing` is as of the last snapshot of the sensor's state, the rest as
/// of its newest reading.
pub(super) fn sensors(of: &State, query: &Query) -> Result<Vec<u8>, Failure> {
    let store = &of.store;
    let is_id = |cursor: &Vec<u8>| {
        std::str::from_utf8(cursor).is_ok_and(|id| SensorId::try_from(id).is_ok())
    };
    if !query.cursor.iter().all(is_id) {
        return Err(bad_cursor());
    }
    let open = store.open_incidents()?;
    list(
        "sensors",
        query,
        |after, limit| store.sensors(after, limit),
        |body, id| {
            let mut state = store.snapshot(&id)?.unwrap_or_default();
            let newest = store.newest(&id)?;
            let incident = open
                .iter()
                .find(|one| one.sensors().any(|sensor| *sensor == id));
            put(
                body,
                &sensor(&id, &mut state, newest.as_ref(), incident, of),
            )
        },
    )
}

fn sensor<'a>(
    id: &'a SensorId,
    state: &'a mut SensorState,
    newest: Option<&'a StoredReading>,
    incident: Option<&Incident>,
    of: &'a State,
) -> Sensor<'a> {
    let mut last_seen = (state.entered > 0).then_some(state.received_ms);
    let mut readings = state.entered;
    if let Some(newest) = newest {
        last_seen = last_seen.max(Some(newest.order_ms + newest.row.delay_ms));
        readings = readings.max(newest.row.entered);
        if !newest.row.late {
            state.next_s = newest.row.next_s;
        }
        // What a snapshot does not know yet; one that cannot be read does not know when it all began.
        if state.entered > 0 || state.first_ms != 0 {
            state.newest_ms = state.newest_ms.max(newest.order_ms);
        }
        state.entered = readings;
    }
    let (catalogue, judgement) = (&of.catalogue, &of.judgement);
    let expected_ms = state.expected_gap_ms();
    let silent_ms = expected_ms.map(|ms| judgement.silence.ms(ms));
    Sensor {
        id: id.as_str(),
        last_seen,
        expected_interval_s: expected_ms.map(seconds),
        readings,
        missing: state.recent.missing,
        values: Values(catalogue, newest.map_or(&[], |newest| &newest.row.values)),
        score: newest.map(|newest| newest.row.score),
        anomaly: newest.is_some_and(|newest| newest.row.anomaly),
        incident: incident.map(|incident| OpenIncident {
            id: incident.id(),
            severity: incident.severity.name(),
            rule: incident.explanation().rule.name(),
            opened: incident.opened_ms,
        }),
        device: state.device.as_deref().map(Told::from),
        group: judgement.groups.of(id),
        learning: !state.is_seasoned(&judgement.stats),
        silent_after_s: silent_ms.map(seconds),
    }
}

#[derive(Serialize)]
struct Reading<'a> {
    t: i64,
    received: i64,
    boot: Option<&'a str>,
    seq: Option<u64>,
    #[serde(flatten)]
    values: Values<'a>,
    z: Zs<'a>,
    score: f32,
    anomaly: bool,
    late: bool,
}

pub(super) fn known_sensor(store: &Embedded, id: &str) -> Result<SensorId, Failure> {
    let sensor = SensorId::try_from(id).map_err(|error| {
        Failure::new(
            400,
            format!("not a sensor id: {error}"),
            "give 1 to 64 letters, digits, '_', ':' or '-'",
        )
    })?;
    if store.snapshot(&sensor)?.is_none() && store.newest(&sensor)?.is_none() {
        return Err(Failure::new(
            404,
            format!("no sensor {sensor} has ever sent a reading"),
            "/api/v1/sensors lists those that have",
        ));
    }
    Ok(sensor)
}

/// One quantity in one hour.
#[derive(Serialize)]
struct Summed {
    count: u32,
    min: f64,
    max: f64,
    mean: f64,
}

/// `GET /api/v1/sensors/{id}/hours`: roll-ups, oldest first; `t` is the beginning of the hour.
pub(super) fn hours(
    store: &Embedded,
    catalogue: &Catalogue,
    id: &str,
    query: &Query,
) -> Result<Vec<u8>, Failure> {
    let sensor = known_sensor(store, id)?;
    if let Some(cursor) = &query.cursor {
        let key = [row::sensor_prefix(&sensor).as_slice(), cursor].concat();
        row::time_behind_nul(&sensor, &key).map_err(|_| bad_cursor())?;
    }
    list(
        "hours",
        query,
        |after, limit| store.hours(&sensor, query.span(), after, limit),
        |body, hour| {
            let mut row = serde_json::Map::new();
            row.insert("t".to_owned(), hour.hour_ms.into());
            for summary in &hour.quantities {
                let Some(quantity) = catalogue.get(summary.quantity) else {
                    continue;
                };
                let summed = Summed {
                    count: summary.count,
                    min: summary.min,
                    max: summary.max,
                    mean: summary.mean,
                };
                let value = serde_json::to_value(summed)
                    .map_err(|error| Failure::inside(format!("cannot write an hour: {error}")))?;
                row.insert(quantity.name.clone(), value);
            }
            put(body, &row)
        },
    )
}

impl<'a> Reading<'a> {
    fn of(stored: &'a StoredReading, catalogue: &'a Catalogue) -> Self {
        let identity = match &stored.identity {
            Identity::Sequence { boot, seq } => Some((boot, *seq)),
            Identity::Payload(_) | Identity::Unique(_) => None,
        };
        let row = &stored.row;
        Self {
            t: stored.order_ms,
            received: stored.order_ms + row.delay_ms,
            boot: identity.map(|(boot, _)| boot.as_str()),
            seq: identity.map(|(_, seq)| seq),
            values: Values(catalogue, &row.values),
            z: Zs(catalogue, &row.values),
            score: row.score,
            anomaly: row.anomaly,
            late: row.late,
        }
    }
}

/// A reading as the list of its sensor has it, and whose it is.
///
/// # Errors
/// None that a reading could cause.
pub(crate) fn write_reading(
    out: &mut Vec<u8>,
    sensor: &SensorId,
    stored: &StoredReading,
    catalogue: &Catalogue,
) -> serde_json::Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        sensor: &'a str,
        #[serde(flatten)]
        reading: Reading<'a>,
    }
    let line = Line {
        sensor: sensor.as_str(),
        reading: Reading::of(stored, catalogue),
    };
    serde_json::to_writer(out, &line)
}

/// `GET /api/v1/sensors/{id}/readings`: oldest first. `t` is the reading's place in the order of
/// its sensor, which `from` and `to` speak of as well.
pub(super) fn readings(
    store: &Embedded,
    catalogue: &Catalogue,
    id: &str,
    query: &Query,
) -> Result<Vec<u8>, Failure> {
    let sensor = known_sensor(store, id)?;
    if let Some(cursor) = &query.cursor {
        let key = [row::sensor_prefix(&sensor).as_slice(), cursor].concat();
        row::split_reading_key(&sensor, &key).map_err(|_| bad_cursor())?;
    }
    list(
        "readings",
        query,
        |after, limit| store.readings(&sensor, query.span(), after, limit),
        |body, stored| put(body, &Reading::of(&stored, catalogue)),
    )
}

#[derive(Serialize)]
struct Anomaly<'a> {
    t: i64,
    sensor: &'a str,
    rule: &'static str,
    quantity: Option<&'a str>,
    observed: f64,
    expected: f64,
    line: f64,
    ratio: f64,
    unit: &'a str,
    severity: &'static str,
    since: i64,
    text: String,
    /// Of the forest: what it found strange, in the sensor's own spreads. Of a season that a jump told
    /// of: that step, with its line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    evidence: Vec<Strange<'a>>,
}

#[derive(Serialize)]
struct Strange<'a> {
    quantity: Option<&'a str>,
    feature: &'static str,
    value: f32,
    /// Nine tenths of the readings that the forest learned from, or up to the line.
    usual: (f32, f32),
}

/// Name and unit of what a verdict speaks of.
pub(super) fn subject<'a>(
    verdict: &Verdict,
    catalogue: &'a Catalogue,
) -> (Option<&'a str>, &'a str) {
    let spec = verdict.quantity.and_then(|id| catalogue.get(id));
    let unit = match (verdict.rule, spec) {
        (Rule::Silence, _) => "s",
        (_, Some(spec)) => spec.unit.as_str(),
        (_, None) => "",
    };
    (spec.map(|spec| spec.name.as_str()), unit)
}

/// `GET /api/v1/anomalies`: oldest first.
pub(super) fn anomalies(
    store: &Embedded,
    catalogue: &Catalogue,
    query: &Query,
) -> Result<Vec<u8>, Failure> {
    check_time_cursor(query)?;
    list(
        "anomalies",
        query,
        |after, limit| store.anomalies(query.span(), after, limit),
        |body, stored| {
            let verdict = &stored.verdict;
            let (quantity, unit) = subject(verdict, catalogue);
            put(
                body,
                &Anomaly {
                    t: stored.time_ms,
                    sensor: stored.sensor.as_str(),
                    rule: verdict.rule.name(),
                    quantity,
                    observed: verdict.observed,
                    expected: verdict.expected,
                    line: verdict.line,
                    ratio: verdict.ratio,
                    unit,
                    severity: verdict.severity().name(),
                    since: verdict.since_ms,
                    text: sentence(verdict, catalogue),
                    evidence: verdict
                        .evidence
                        .iter()
                        .map(|evidence| Strange {
                            quantity: catalogue
                                .get(evidence.quantity)
                                .map(|spec| spec.name.as_str()),
                            feature: evidence.feature.name(),
                            value: evidence.value,
                            usual: (evidence.low, evidence.high),
                        })
                        .collect(),
                },
            )
        },
    )
}

fn check_time_cursor(query: &Query) -> Result<(), Failure> {
    let cursor = query.cursor.as_ref();
    if cursor.is_some_and(|cursor| row::split_by_time_key(cursor).is_err()) {
        return Err(bad_cursor());
    }
    Ok(())
}

/// `GET /api/v1/incidents`: oldest first, by the time of their opening.
pub(crate) fn incidents(
    store: &Embedded,
    catalogue: &Catalogue,
    query: &Query,
) -> Result<Vec<u8>, Failure> {
    if query.open {
        let open = store.open_incidents()?;
        let voice = Voice::english(catalogue);
        let open: Vec<_> = open.iter().map(|one| Report::of(one, &voice)).collect();
        let mut body = Vec::new();
        put(
            &mut body,
            &serde_json::json!({ "incidents": open, "next": null }),
        )?;
        return Ok(body);
    }
    check_incident_cursor(query)?;
    let voice = Voice::english(catalogue);
    list(
        "incidents",
        query,
        |after, limit| store.incidents(query.span(), after, limit),
        |body, incident| put(body, &Report::of(&incident, &voice)),
    )
}

fn check_incident_cursor(query: &Query) -> Result<(), Failure> {
    let is_key = |cursor: &Vec<u8>| {
        let id = cursor.get(8..).and_then(|id| std::str::from_utf8(id).ok());
        id.and_then(Incident::opened_in).is_some()
    };
    if query.cursor.iter().all(is_key) {
        Ok(())
    } else {
        Err(bad_cursor())
    }
}

fn known_incident(store: &Embedded, id: &str) -> Result<Incident, Failure> {
    store.incident(id)?.ok_or_else(|| {
        let fix = "/api/v1/incidents?open lists those that are open";
        Failure::new(404, format!("there is no incident {id:?}"), fix)
    })
}

/// `GET /api/v1/incidents/{id}`.
pub(crate) fn incident(
    store: &Embedded,
    catalogue: &Catalogue,
    id: &str,
) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    let (incident, voice) = (known_incident(store, id)?, Voice::english(catalogue));
    put(&mut body, &Report::of(&incident, &voice))?;
    Ok(body)
}

/// What an incident is about, in a sentence.
pub(super) fn incident_sentence(
    store: &Embedded,
    catalogue: &Catalogue,
    id: &str,
) -> Result<String, Failure> {
    let incident = known_incident(store, id)?;
    let who = incident.sensor.as_ref().map(|sensor| format!("{sensor}: "));
    let what = Voice::english(catalogue).what(&incident, incident.explanation());
    Ok(format!("{}{what}", who.unwrap_or_default()))
}

/// What is to be done about an incident, and by whose wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish<'a> {
    /// What.
    pub(crate) answer: Answer,
    /// How long, if it is a silence.
    pub(crate) lasts: Span,
    /// Who wants it.
    pub(crate) by: &'a str,
}

/// The longest silence that can be asked for.
const LONGEST_SILENCE: Span = Span::secs(365 * 24 * 3600);

impl<'a> Wish<'a> {
    /// A silence lasts for a day.
    pub(crate) fn new(answer: Answer, by: &'a str) -> Self {
        Self {
            answer,
            lasts: Span::secs(24 * 3600),
            by,
        }
    }

    /// Makes it durable; the stream does it within a second. Gives its number.
    pub(crate) fn order(&self, store: &Embedded, id: &str, now_ms: i64) -> Result<u64, Failure> {
        known_incident(store, id)?;
        let deed = match self.answer {
            Answer::Acknowledge => Deed::Acknowledge,
            Answer::FalseAlarm => Deed::FalseAlarm,
            Answer::Silence if self.lasts > LONGEST_SILENCE => {
                let fix = "a year at most; to be rid of a sensor's alerts, see [incidents]";
                return Err(Failure::new(400, "that is a long silence", fix));
            }
            Answer::Silence => Deed::Silence(now_ms.saturating_add(self.lasts.as_ms())),
        };
        // It stands in mails, so it is short and in one line.
        let by: String = self
            .by
            .chars()
            .filter(|c| !c.is_control())
            .take(64)
            .collect();
        let order = Order {
            incident: id.to_owned(),
            deed,
            by: if by.trim().is_empty() {
                "somebody".to_owned()
            } else {
                by
            },
        };
        Ok(store.put_order(&order)?)
    }
}

/// What `POST /api/v1/incidents/{id}/…` may hold.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Body {
    by: Option<String>,
    #[serde(rename = "for")]
    lasts: Option<Span>,
}

/// `POST /api/v1/incidents/{id}/ack|false-alarm|silence`: the number of the order.
pub(super) fn answer(
    store: &Embedded,
    id: &str,
    answer: Answer,
    body: &[u8],
    now_ms: i64,
) -> Result<u64, Failure> {
    let body: Body = if body.is_empty() {
        Body::default()
    } else {
        serde_json::from_slice(body).map_err(|error| {
            let fix = r#"send {} or {"by": "who", "for": "24h"} ("for": of a silence)"#;
            Failure::new(400, format!("the body cannot be read: {error}"), fix)
        })?
    };
    let mut wish = Wish::new(answer, body.by.as_deref().unwrap_or("API"));
    wish.lasts = body.lasts.unwrap_or(wish.lasts);
    wish.order(store, id, now_ms)
}

#[derive(Serialize)]
pub(super) struct Sums {
    received: u64,
    #[serde(flatten)]
    ledger: store::Ledger,
}

impl Sums {
    pub(super) fn of(ledger: store::Ledger) -> Self {
        Self {
            received: ledger.received(),
            ledger,
        }
    }
}

/// `GET /api/v1/ledger`: received = stored + duplicate + all of quarantined.
pub(super) fn ledger(store: &Embedded) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    put(&mut body, &Sums::of(store.ledger()?))?;
    Ok(body)
}

/// What became of one sensor's messages.
#[derive(Serialize)]
pub(crate) struct Account {
    sensor: String,
    pub(crate) received: u64,
    pub(crate) stored: u64,
    #[serde(flatten)]
    pub(crate) exceptions: store::Exceptions,
}

impl Account {
    /// Of a sensor that has sent something.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(crate) fn of(store: &Embedded, sensor: &SensorId) -> Result<Self, store::Error> {
        let exceptions = store.exceptions(sensor)?;
        let in_order = store.newest(sensor)?.map_or(0, |newest| newest.row.entered);
        let stored = in_order + exceptions.late;
        let aside: u64 = exceptions.quarantined.values().sum();
        Ok(Self {
            sensor: sensor.as_str().to_owned(),
            received: stored + exceptions.duplicate + aside,
            stored,
            exceptions,
        })
    }
}

/// `GET /api/v1/ledger/sensors`: the same of each sensor, in the order of their ids.
pub(super) fn accounts(store: &Embedded, query: &Query) -> Result<Vec<u8>, Failure> {
    list(
        "sensors",
        query,
        |after, limit| store.sensors(after, limit),
        |body, sensor| put(body, &Account::of(store, &sensor)?),
    )
}

/// `GET /api/v1/mongodb`: where the copy stands.
pub(super) fn mongodb(copy: Option<&forward::Board>, store: &Embedded) -> Result<Vec<u8>, Failure> {
    let Some(copy) = copy else {
        return Err(Failure::new(
            404,
            "readings are not copied to a MongoDB",
            "set mongodb.uri in the config and start the engine again",
        ));
    };
    let mut body = Vec::new();
    put(&mut body, &copy.look(store))?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Query, Failure> {
        let pairs: Vec<(String, String)> = pairs
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        Query::parse(&pairs, &["from", "to", "limit", "cursor"])
    }

    #[test]
    fn questions_have_defaults_and_limits() {
        let all = Query {
            from_ms: 0,
            to_ms: i64::MAX,
            limit: 100,
            cursor: None,
            verbose: false,
            open: false,
            until_ms: 0,
            signature: String::new(),
            sensors: String::new(),
            points: None,
        };
        assert_eq!(parse(&[]), Ok(all.clone()));
        assert_eq!(
            parse(&[
                ("from", "-5"),
                ("to", "7"),
                ("limit", "10000"),
                ("cursor", "00ff")
            ]),
            Ok(Query {
                from_ms: -5,
                to_ms: 7,
                limit: 10_000,
                cursor: Some(vec![0, 255]),
                ..all.clone()
            })
        );
        for wrong in [
            ("limit", "0"),
            ("limit", "10001"),
            ("limit", "-1"),
            ("limit", ""),
            ("from", "yesterday"),
            ("to", "1e3"),
            ("cursor", ""),
            ("cursor", "abc"),
            ("cursor", "zz"),
            ("cursor", "FF"),
            ("cursor", "é"),
            ("form", "1"),
        ] {
            let failure = parse(&[wrong]).unwrap_err();
            assert_eq!(failure.status, 400, "{wrong:?}");
            assert!(!failure.fix.is_empty());
        }
        assert_eq!(
            parse(&[("limit", "1"), ("limit", "1")]).unwrap_err().status,
            400
        );
    }

    #[test]
    fn hex_comes_back() {
        let bytes: Vec<u8> = (0..=u8::MAX).collect();
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
    }
}
