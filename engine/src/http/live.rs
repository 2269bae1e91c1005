//! The JSON that only the live page asks for: small pictures of many sensors, one sensor's chart
//! with what the engine expects, and how the engine does.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};
use vigie_actors::alert::budget::Budget;
use vigie_actors::alert::report::Report;
use vigie_actors::alert::text::{Voice, sentence};
use vigie_actors::group::Groups;
use vigie_actors::metrics::Latest;
use vigie_actors::quantity::Catalogue;
use vigie_actors::score::rules::{Rule, Severity};
use vigie_actors::score::scorer::IncidentMemory as _;
use vigie_actors::stats::channel::Outlook;
use vigie_actors::stats::channel::z_line;
use vigie_actors::stats::share::SilenceLine;
use vigie_actors::store::embedded::Embedded;
use vigie_actors::store::row::StoredValue;
use vigie_actors::{score, stats};
use vigie_wire::{QuantityId, SensorId};

use super::State;
use super::api::{Failure, Query, Values, Zs, known_sensor, put, subject};

/// By what the engine judges: the page shows it.
#[derive(Debug, Clone)]
pub(crate) struct Judgement {
    /// What the baselines go by.
    pub(super) stats: stats::Config,
    /// How many times as far away lines are.
    margin: f64,
    /// When a sensor is silent.
    pub(super) silence: SilenceLine,
    /// Who belongs together.
    pub(super) groups: Groups,
}

impl Judgement {
    pub(crate) fn new(stats: &stats::Config, score: &score::Config, groups: Groups) -> Self {
        Self {
            stats: stats.clone(),
            margin: score.margin(),
            silence: SilenceLine {
                gaps: score.silence_intervals,
                least_ms: score.silence_least.as_ms(),
            },
            groups,
        }
    }
}

/// What may be mailed.
#[derive(Debug, Clone)]
pub(crate) struct Mails {
    /// Name of the channel.
    pub(crate) channel: &'static str,
    /// Where they go, for people.
    pub(crate) to: String,
    /// `None`: into files, as many as there are.
    pub(crate) budget: Option<Budget>,
}

/// Open incidents that are told one by one.
const SHOWN: usize = 200;
/// Sensors in a question for trends.
const ASKED: usize = 100;
/// Points of a trend if the question does not say.
const TREND_POINTS: u32 = 48;
/// Parts of a chart if the question does not say.
const CHART_POINTS: u32 = 600;
/// Readings that a chart is made of at most; beyond, it is made of hours.
const CHARTED: usize = 100_000;
/// Read at a time.
const CHUNK: usize = 4_096;
/// Anomalies in a chart at most …
const MARKED: usize = 500;
/// … among so many of all sensors …
const LOOKED_THROUGH: usize = 50_000;
/// … of which so many are read at a time: the newest first, in parts of the time that hold no more.
const IN_PART: usize = 512;
/// Of a chart or trend, if the question does not say.
const SPAN_MS: i64 = 6 * 3_600_000;
const HOUR_MS: i64 = 3_600_000;
/// Who has not said how often it sends.
const UNKNOWN_GAP_MS: i64 = 600_000;

/// `GET /api/v1/quantities`: names, units and ranges.
pub(super) fn quantities(catalogue: &Catalogue) -> Result<Vec<u8>, Failure> {
    #[derive(Serialize)]
    struct Shown<'a> {
        name: &'a str,
        unit: &'a str,
        min: f64,
        max: f64,
    }
    let shown: Vec<_> = catalogue
        .iter()
        .map(|(_, spec)| Shown {
            name: &spec.name,
            unit: &spec.unit,
            min: spec.min,
            max: spec.max,
        })
        .collect();
    let mut body = Vec::new();
    put(&mut body, &json!({ "quantities": shown }))?;
    Ok(body)
}

/// Newest readings, in the shape of the sensors' list.
pub(super) fn news(news: &[(SensorId, Latest)], catalogue: &Catalogue) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct New<'a> {
        id: &'a str,
        last_seen: i64,
        score: f32,
        anomaly: bool,
        #[serde(flatten)]
        values: Values<'a>,
        z: Zs<'a>,
    }
    let values = |latest: &Latest| -> Vec<StoredValue> {
        let values = latest.values.iter();
        let values = values.map(|shown| StoredValue {
            quantity: shown.quantity,
            value: shown.value,
            z: shown.z,
        });
        values.collect()
    };
    let mut body = b"{\"sensors\":[".to_vec();
    for (at, (sensor, latest)) in news.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        let values = values(latest);
        put(
            &mut body,
            &New {
                id: sensor.as_str(),
                last_seen: latest.received_ms,
                score: latest.score,
                anomaly: latest.score >= 0.5,
                values: Values(catalogue, &values),
                z: Zs(catalogue, &values),
            },
        )?;
    }
    body.extend_from_slice(b"]}");
    String::from_utf8(body).map_err(|error| Failure::inside(error.to_string()))
}

/// The span that a question asks for; its end is the present if it does not say.
fn span(query: &Query, now_ms: i64) -> Result<(i64, i64), Failure> {
    let (from_ms, to_ms) = query.span();
    let to_ms = if to_ms == i64::MAX { now_ms + 1 } else { to_ms };
    let from_ms = if from_ms == 0 {
        to_ms.saturating_sub(SPAN_MS)
    } else {
        from_ms
    };
    let year = 366 * 24 * HOUR_MS;
    if from_ms >= to_ms || to_ms.saturating_sub(from_ms) > year {
        return Err(Failure::new(
            400,
            "the span of time is empty, or longer than a year",
            "give from before to, a year apart at most",
        ));
    }
    Ok((from_ms, to_ms))
}

/// `GET /api/v1/trends?sensors=…`: of each sensor one reading per part of the time, for small
/// pictures. Sensors that are not known are left out.
pub(super) fn trends(state: &State, query: &Query) -> Result<Vec<u8>, Failure> {
    let span = span(query, state.clock.now_ms())?;
    let ids: Vec<&str> = query
        .sensors
        .split(',')
        .filter(|id| !id.is_empty())
        .collect();
    if ids.is_empty() || ids.len() > ASKED {
        return Err(Failure::new(
            400,
            format!("{} sensors are asked for", ids.len()),
            format!("give 1 to {ASKED} ids, as in sensors=C001,C002"),
        ));
    }
    let slots = query.points.unwrap_or(TREND_POINTS);
    let mut trends = Map::new();
    for id in ids {
        let Ok(sensor) = SensorId::try_from(id) else {
            continue;
        };
        let sampled = state.store.sampled(&sensor, span, slots)?;
        let mut times = Vec::new();
        let mut columns: BTreeMap<QuantityId, Vec<Option<f64>>> = BTreeMap::new();
        for stored in sampled {
            for column in columns.values_mut() {
                column.push(None);
            }
            times.push(stored.order_ms);
            for value in &stored.row.values {
                let column = columns.entry(value.quantity).or_default();
                column.resize(times.len(), None);
                if let Some(last) = column.last_mut() {
                    *last = Some(value.value);
                }
            }
        }
        let mut trend = Map::new();
        trend.insert("t".to_owned(), json!(times));
        for (quantity, column) in columns {
            if let Some(spec) = state.catalogue.get(quantity) {
                trend.insert(spec.name.clone(), json!(column));
            }
        }
        trends.insert(sensor.as_str().to_owned(), Value::Object(trend));
    }
    let mut body = Vec::new();
    put(
        &mut body,
        &json!({ "from": span.0, "to": span.1, "trends": trends }),
    )?;
    Ok(body)
}

/// One part of a chart's time, of one quantity.
#[derive(Debug, Clone, Copy)]
struct Part {
    min: f64,
    max: f64,
    sum: f64,
    count: f64,
}

impl Part {
    fn of(value: f64) -> Self {
        Self {
            min: value,
            max: value,
            sum: value,
            count: 1.0,
        }
    }

    fn add(&mut self, value: f64) {
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += value;
        self.count += 1.0;
    }
}

/// Columns of a chart, all as long as `times`.
#[derive(Debug, Default)]
struct Columns {
    times: Vec<i64>,
    quantities: BTreeMap<QuantityId, Vec<Option<Part>>>,
}

impl Columns {
    /// A new row; after a gap longer than `gap_ms` an empty one first, so that no line is drawn.
    fn row(&mut self, time_ms: i64, gap_ms: i64) {
        if let Some(last) = self.times.last()
            && time_ms - last > gap_ms
        {
            self.times.push(last + 1);
        }
        self.times.push(time_ms);
        for column in self.quantities.values_mut() {
            column.resize(self.times.len(), None);
        }
    }

    fn put(&mut self, quantity: QuantityId, part: Part) {
        let rows = self.times.len();
        let column = self.quantities.entry(quantity).or_default();
        column.resize(rows, None);
        if let Some(last) = column.last_mut() {
            *last = Some(part);
        }
    }

    fn add(&mut self, quantity: QuantityId, value: f64) {
        match self
            .quantities
            .get_mut(&quantity)
            .and_then(|c| c.last_mut())
        {
            Some(Some(part)) => part.add(value),
            _ => self.put(quantity, Part::of(value)),
        }
    }
}

/// From readings; `None` if there are too many.
fn from_readings(
    store: &Embedded,
    sensor: &SensorId,
    span: (i64, i64),
    part_ms: i64,
    gap_ms: i64,
) -> Result<Option<Columns>, Failure> {
    let mut columns = Columns::default();
    let (mut part, mut read) = (i64::MIN, 0);
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.readings(sensor, span, after.as_deref(), CHUNK)?;
        read += page.items.len();
        if read > CHARTED {
            return Ok(None);
        }
        for stored in page.items {
            let at = (stored.order_ms - span.0) / part_ms;
            if at != part {
                part = at;
                columns.row(stored.order_ms, gap_ms);
            }
            for value in &stored.row.values {
                columns.add(value.quantity, value.value);
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(Some(columns));
        }
    }
}

fn from_hours(store: &Embedded, sensor: &SensorId, span: (i64, i64)) -> Result<Columns, Failure> {
    let mut columns = Columns::default();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.hours(sensor, span, after.as_deref(), CHUNK)?;
        for hour in page.items {
            columns.row(hour.hour_ms + HOUR_MS / 2, 2 * HOUR_MS);
            for summary in &hour.quantities {
                let count = f64::from(summary.count);
                columns.put(
                    summary.quantity,
                    Part {
                        min: summary.min,
                        max: summary.max,
                        sum: summary.mean * count,
                        count,
                    },
                );
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(columns);
        }
    }
}

/// `GET /api/v1/sensors/{id}/chart`: the course of each quantity in a span of time, what the engine
/// expects by what it knows now, and the anomalies.
pub(super) fn chart(state: &State, id: &str, query: &Query) -> Result<Vec<u8>, Failure> {
    let (store, catalogue) = (&state.store, &state.catalogue);
    let sensor = known_sensor(store, id)?;
    let span = span(query, state.clock.now_ms())?;
    let points = i64::from(query.points.unwrap_or(CHART_POINTS));
    let recalled = store.recalled(&sensor)?.unwrap_or_default();
    let now = recalled.replay(catalogue, &state.judgement.stats);
    let expected_ms = now.expected_gap_ms().unwrap_or(UNKNOWN_GAP_MS);
    let silent_ms = state.judgement.silence.ms(expected_ms);
    let part_ms = ((span.1 - span.0) / points).max(1);
    let gap_ms = silent_ms.max(2 * part_ms);
    let (columns, made_of) = match from_readings(store, &sensor, span, part_ms, gap_ms)? {
        Some(columns) => (columns, "readings"),
        None => (from_hours(store, &sensor, span)?, "hours"),
    };
    let outlooks = now.outlook(catalogue, &state.judgement.stats, span);
    let raised = store.raised()?;
    let margin = |rule| {
        let mine = raised
            .iter()
            .find(|raised| raised.sensor == sensor && raised.rule == rule);
        state.judgement.margin * mine.map_or(1.0, |raised| raised.factor)
    };
    let quantities: Vec<Value> = columns
        .quantities
        .iter()
        .filter_map(|(quantity, parts)| {
            let spec = catalogue.get(*quantity)?;
            let column = |get: fn(&Part) -> f64| -> Vec<Option<f64>> {
                parts.iter().map(|part| part.as_ref().map(get)).collect()
            };
            let outlook = outlooks.iter().find(|(id, _)| id == quantity);
            Some(json!({
                "name": spec.name,
                "unit": spec.unit,
                "min": column(|part| part.min),
                "max": column(|part| part.max),
                "mean": column(|part| part.sum / part.count),
                "expected": outlook.map(|(_, outlook)| expected(outlook, margin)),
            }))
        })
        .collect();
    let (anomalies, all) = anomalies(store, catalogue, &sensor, span)?;
    let mut body = Vec::new();
    put(
        &mut body,
        &json!({
            "id": sensor.as_str(),
            "from": span.0,
            "to": span.1,
            "made_of": made_of,
            "t": columns.times,
            "quantities": quantities,
            "anomalies": anomalies,
            "all_anomalies": all,
        }),
    )?;
    Ok(body)
}

/// What one quantity is expected to be, and how far away the lines of the rules are.
fn expected(outlook: &Outlook, margin: impl Fn(Rule) -> f64) -> Value {
    let season = outlook.season.as_ref().map(|season| {
        let (times, values): (Vec<_>, Vec<_>) = season.expected.iter().copied().unzip();
        json!({
            "t": times,
            "expected": values,
            "usual": season.scale,
            "line": season.line * margin(Rule::Season),
        })
    });
    let line = z_line(outlook.usual_z) * margin(Rule::Z) * outlook.spread;
    json!({
        "baseline": outlook.warm.then(|| json!({
            "mean": outlook.mean,
            "spread": outlook.spread,
            "line": line,
        })),
        "season": season,
    })
}

/// The newest anomalies of one sensor, oldest first, and whether these are all.
fn anomalies(
    store: &Embedded,
    catalogue: &Catalogue,
    sensor: &SensorId,
    span: (i64, i64),
) -> Result<(Vec<Value>, bool), Failure> {
    // The newest ones say most, and the store reads forwards only.
    let mut newest = Vec::new();
    let mut all = true;
    let (mut to_ms, mut part_ms, mut looked_through) = (span.1, HOUR_MS, 0);
    while to_ms > span.0 {
        if newest.len() >= MARKED || looked_through >= LOOKED_THROUGH {
            all = false;
            break;
        }
        let from_ms = to_ms.saturating_sub(part_ms).max(span.0);
        let page = store.anomalies((from_ms, to_ms), None, IN_PART)?;
        looked_through += page.items.len();
        if page.next.is_some() && to_ms - from_ms > 1 {
            // These would be the oldest of it.
            part_ms = (to_ms - from_ms) / 2;
            continue;
        }
        all &= page.next.is_none();
        let mine = page.items.into_iter().rev();
        newest.extend(mine.filter(|stored| stored.sensor == *sensor));
        to_ms = from_ms;
        part_ms = part_ms.saturating_mul(2);
    }
    all &= newest.len() <= MARKED;
    newest.truncate(MARKED);
    let shown = newest.iter().rev().map(|stored| {
        let verdict = &stored.verdict;
        let (quantity, unit) = subject(verdict, catalogue);
        json!({
            "t": stored.time_ms,
            "rule": verdict.rule.name(),
            "quantity": quantity,
            "observed": verdict.observed,
            "expected": verdict.expected,
            "line": verdict.line,
            "unit": unit,
            "severity": verdict.severity().name(),
            "text": sentence(verdict, catalogue),
        })
    });
    Ok((shown.collect(), all))
}

/// Open incidents, newest first, at most so many, and how many there are.
pub(super) fn open_incidents(store: &Embedded, catalogue: &Catalogue) -> Result<String, Failure> {
    let open = store.open_incidents()?;
    let voice = Voice::english(catalogue);
    let newest = open.iter().rev().take(SHOWN);
    let newest: Vec<_> = newest.map(|one| Report::of(one, &voice)).collect();
    Ok(json!({ "open": newest, "total": open.len() }).to_string())
}

/// What is left to mail today.
pub(super) fn budget(state: &State) -> Result<Value, Failure> {
    let Some(mails) = &state.mails else {
        return Ok(Value::Null);
    };
    let now_ms = state.clock.now_ms();
    let waiting = state.store.waiting(mails.channel)?;
    let log = state.store.sent(mails.channel)?;
    let budget = mails.budget.map(|budget| {
        json!({
            "daily": budget.daily,
            "reserve": budget.reserve,
            "used": Budget::used(&log, now_ms),
            "left": budget.left(&log, Severity::Warn, now_ms),
            "left_for_critical": budget.left(&log, Severity::Critical, now_ms),
        })
    });
    Ok(json!({ "to": mails.to, "waiting": waiting, "budget": budget }))
}
