//! How incidents begin, grow, end and are told. Pure: takes the stream's time, gives changes, which
//! are committed with the readings that caused them. What is told follows from what was told last
//! and what is the case now, so whatever happens in between (maintenance, a restart), nobody is
//! told anything twice or left with old news.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;
use vigie_wire::{QuantityId, SensorId};
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use super::incident::{
    Changes, Config, Deed, Incident, Kind, Mark, Member, Notice, NoticeKind, Order, Raised, Told,
};
use super::maintenance::{Calendar, Silence, Whom};
use super::rules::{Near, Rule, Severity, Verdict};
use crate::group::Groups;

/// The link to the broker is an incident after this long without it.
const LINK_LINE_MS: i64 = 120_000;
/// Growth is told this often at most.
const GROWN_EVERY_MS: i64 = 60_000;
/// Reminders are this far apart at most.
const REMINDED_WITHIN_MS: i64 = 7 * 24 * 3_600_000;
/// How often all incidents are looked at.
const LOOK_EVERY_MS: i64 = 500;
/// So long after its beginning an incident may find a better explanation.
const EXPLAINED_WITHIN_MS: i64 = 3 * 3_600_000;
/// A jump back to the usual that is taken back within this time was none.
const BACK_WITHIN_MS: i64 = 3_600_000;
/// So many sensors of a small group that go the same way at the same time have one cause.
const TOGETHER: usize = 3;

/// Forest anomalies that have not opened an incident yet.
#[derive(Debug, Clone, Copy)]
struct Hint {
    count: u32,
    /// Time of the first reading: days of a backlog come within a second and insist on nothing.
    first_ms: i64,
    /// When the first was looked at.
    seen_ms: i64,
}

/// Whose values went which way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Course {
    group: Option<String>,
    quantity: QuantityId,
    up: bool,
}

impl Course {
    /// Of a verdict that other sensors could share: not of a broken one's.
    fn of(verdict: &Verdict, group: Option<&str>) -> Option<Self> {
        let shared = matches!(
            verdict.rule,
            Rule::Rate | Rule::Season | Rule::Level | Rule::Novelty | Rule::Z
        );
        Some(Self {
            group: group.map(str::to_owned),
            quantity: verdict.quantity.filter(|_| shared)?,
            up: verdict.observed > verdict.expected,
        })
    }
}

/// In the order of their beginning.
type Serial = u64;

type BySensor<T> = HashMap<SensorId, T, Xxh3DefaultBuilder>;

/// What decides beside the readings.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Section `[incidents]`.
    pub config: Config,
    /// Sections `[groups]`.
    pub groups: Arc<Groups>,
    /// From `[[maintenance]]`.
    pub calendar: Calendar,
}

/// All incidents that are open or cooling down.
#[derive(Debug)]
pub struct Incidents {
    config: Config,
    groups: Arc<Groups>,
    calendar: Calendar,
    silences: Vec<Silence>,
    all: BTreeMap<Serial, Incident>,
    next: Serial,
    /// About the sensor's values, alone or with others.
    values: BySensor<Serial>,
    /// The sensor is not heard.
    unheard: BySensor<Serial>,
    /// The sensor's last silence, while it is open or cooling down.
    silenced: BySensor<Serial>,
    link: Option<Serial>,
    /// Since when the broker cannot be heard.
    deaf_ms: Option<i64>,
    /// The silence or shift that was joined last.
    silence_of: HashMap<Option<String>, Serial>,
    shift_of: HashMap<Course, Serial>,
    /// Sensors that lately went that way, alone.
    lately: HashMap<Course, Vec<(SensorId, i64)>>,
    hints: BySensor<Hint>,
    /// Sensors per group, to tell coincidence from a cause.
    sizes: HashMap<Option<String>, usize>,
    changed: BTreeSet<Serial>,
    /// Notices of what ended without a word to people.
    closed: Vec<Notice>,
    looked_ms: i64,
}

impl Incidents {
    /// Goes on with what the store has: incidents that are open or may still be cooling down, and
    /// silences that people asked for.
    pub fn new(setup: Setup, stored: Vec<Incident>, silences: Vec<Silence>) -> Self {
        let mut incidents = Self {
            config: setup.config,
            groups: setup.groups,
            calendar: setup.calendar,
            silences: Vec::new(),
            all: BTreeMap::new(),
            next: 0,
            values: HashMap::default(),
            unheard: HashMap::default(),
            silenced: HashMap::default(),
            link: None,
            deaf_ms: None,
            silence_of: HashMap::new(),
            shift_of: HashMap::new(),
            lately: HashMap::new(),
            hints: HashMap::default(),
            sizes: HashMap::new(),
            changed: BTreeSet::new(),
            closed: Vec::new(),
            looked_ms: i64::MIN,
        };
        incidents.replace(stored, silences);
        incidents
    }

    /// Open incidents.
    pub fn open(&self) -> usize {
        self.all.values().filter(|one| one.is_open()).count()
    }

    /// How many sensors there are, per group.
    pub fn set_sizes(&mut self, sensors: impl Iterator<Item = SensorId>) {
        self.sizes.clear();
        for sensor in sensors {
            let group = self.groups.of(&sensor).map(str::to_owned);
            *self.sizes.entry(group).or_default() += 1;
        }
    }

    /// Replaces all by what the store has.
    pub fn replace(&mut self, mut stored: Vec<Incident>, silences: Vec<Silence>) {
        self.silences = silences;
        self.all.clear();
        self.values.clear();
        self.unheard.clear();
        self.silenced.clear();
        (self.link, self.deaf_ms) = (None, None);
        self.silence_of.clear();
        self.shift_of.clear();
        self.lately.clear();
        self.hints.clear();
        self.changed.clear();
        self.closed.clear();
        stored.sort_by_cached_key(|incident| (incident.begun_ms, incident.id()));
        for incident in stored {
            self.add(incident);
        }
        self.changed.clear();
    }

    /// Takes an incident in, with whatever leads to it.
    fn add(&mut self, incident: Incident) -> Serial {
        let serial = self.next;
        self.next += 1;
        match incident.kind {
            Kind::Values | Kind::Shift => {
                for sensor in incident.sensors() {
                    self.values.insert(*sensor, serial);
                }
                let course = Course::of(&incident.first, incident.group.as_deref());
                if let Some(course) = course.filter(|_| incident.kind == Kind::Shift) {
                    self.shift_of.insert(course, serial);
                }
            }
            Kind::Silence => {
                for sensor in incident.unheard() {
                    self.unheard.insert(*sensor, serial);
                }
                for sensor in incident.sensors() {
                    self.silenced.insert(*sensor, serial);
                }
                self.silence_of.insert(incident.group.clone(), serial);
            }
            Kind::Link => {
                self.link = Some(serial);
                // Until the broker is heard it counts as away, after a restart as well.
                if incident.is_open() {
                    self.deaf_ms.get_or_insert(incident.first.since_ms);
                }
            }
        }
        self.all.insert(serial, incident);
        self.changed.insert(serial);
        serial
    }

    /// A reading of `sensor` at `time_ms`, looked at `now_ms`, with what fired on it (nothing, if it
    /// is normal). With the rule that began an open incident `near` its line still, the incident
    /// goes on. An episode lives by `now_ms`: a backlog is news, however old its times.
    pub fn reading(
        &mut self,
        sensor: SensorId,
        (time_ms, now_ms): (i64, i64),
        (fired, near): (&[Verdict], Near),
    ) {
        let silence = fired.iter().position(|fired| fired.rule == Rule::Silence);
        if let Some(at) = silence.filter(|_| !self.unheard.contains_key(&sensor)) {
            // Nobody looked while it was silent.
            self.silence(sensor, (time_ms, now_ms), &fired[at]);
        }
        self.heard(sensor, now_ms);
        match silence {
            None if fired.is_empty() => self.normal(sensor, now_ms, near),
            None => self.anomaly(sensor, (time_ms, now_ms), fired),
            Some(at) => {
                let others = [&fired[..at], &fired[at + 1..]].concat();
                if !others.is_empty() {
                    self.anomaly(sensor, (time_ms, now_ms), &others);
                }
            }
        }
    }

    /// `sensor` is silent as of `now_ms`; `time_ms`: when this was found, by its own clock.
    pub fn silence(&mut self, sensor: SensorId, (time_ms, now_ms): (i64, i64), verdict: &Verdict) {
        if let Some(serial) = self.unheard.get(&sensor) {
            if let Some(incident) = self.all.get_mut(serial) {
                worsen(incident, verdict, now_ms);
                self.changed.insert(*serial);
            }
            return;
        }
        let group = self.groups.of(&sensor).map(str::to_owned);
        let member = Member {
            sensor,
            since_ms: now_ms,
            back_ms: None,
        };
        let latest = self.silence_of.get(&group).copied();
        let latest = self.joinable(latest, now_ms);
        let serial = if let Some(serial) = self.relapses(sensor, now_ms).or(latest) {
            self.join(serial, member, verdict, now_ms);
            serial
        } else {
            let fired = std::slice::from_ref(verdict);
            let times = (time_ms, now_ms);
            let sensor = Some(sensor);
            self.add(begun(
                Kind::Silence,
                sensor,
                group,
                times,
                fired,
                vec![member],
            ))
        };
        self.unheard.insert(sensor, serial);
        self.silenced.insert(sensor, serial);
    }

    /// The sensor's last silence, if this one belongs to it. It goes on, then.
    fn relapses(&mut self, sensor: SensorId, now_ms: i64) -> Option<Serial> {
        let serial = *self.silenced.get(&sensor)?;
        let incident = self.all.get_mut(&serial)?;
        if incident.false_alarm.is_some() || is_past(incident, now_ms, &self.config) {
            return None;
        }
        if !incident.is_open() {
            reopen(incident);
        }
        Some(serial)
    }

    /// Somebody wants something done about incidents. Those that are past come from the store, by
    /// `stored`. `raised_by`: the factor by which a sensor's line of a rule is higher than others'.
    ///
    /// # Errors
    /// Those of `stored`.
    pub fn order<E>(
        &mut self,
        number: u64,
        order: &Order,
        now_ms: i64,
        stored: impl FnOnce(&str) -> Result<Option<Incident>, E>,
        raised_by: impl Fn(&SensorId, Rule) -> f64,
        changes: &mut Changes,
    ) -> Result<(), E> {
        changes.done.push(number);
        let known = self.all.iter().find(|(_, one)| one.id() == order.incident);
        let serial = known.map(|(serial, _)| *serial);
        let mut past = match serial {
            Some(_) => None,
            None => stored(&order.incident)?,
        };
        let incident = match serial {
            Some(serial) => {
                self.changed.insert(serial);
                self.all.get_mut(&serial)
            }
            None => past.as_mut(),
        };
        let Some(incident) = incident else {
            return Ok(());
        };
        let mark = Mark {
            at_ms: now_ms,
            by: order.by.clone(),
        };
        changes.deeds.push(order.deed);
        match order.deed {
            Deed::Acknowledge => incident.acknowledged = Some(mark),
            Deed::FalseAlarm => {
                incident.resolved_ms.get_or_insert(now_ms);
                // Said twice, it is no more true.
                if incident.false_alarm.replace(mark).is_none() {
                    let most = self.config.raise_at_most;
                    changes.raised.extend(raised(incident, raised_by, most));
                }
                changes.notices.extend(close(incident, now_ms));
            }
            Deed::Silence(until_ms) => {
                for whom in whom(incident) {
                    self.silences.retain(|known| known.whom != whom);
                    self.silences.push(Silence { whom, until_ms });
                }
                changes.silences = Some(self.silences.clone());
            }
        }
        changes.past.extend(past);
        Ok(())
    }

    /// Time passes: ends what has been normal for long enough, forgets what has cooled down, and
    /// tells what has to be told. `deaf`: the link to the broker is down.
    pub fn tick(&mut self, now_ms: i64, deaf: bool, changes: &mut Changes) {
        changes.notices.append(&mut self.closed);
        self.link(now_ms, deaf);
        // Also after the clock was set back.
        if now_ms.abs_diff(self.looked_ms) >= LOOK_EVERY_MS.unsigned_abs() {
            self.looked_ms = now_ms;
            self.look(now_ms, changes);
        }
        for serial in std::mem::take(&mut self.changed) {
            self.settle(serial, true, now_ms, changes);
        }
    }

    /// Looks at everything that time alone changes.
    fn look(&mut self, now_ms: i64, changes: &mut Changes) {
        self.calendar.look(now_ms);
        let silences = self.silences.len();
        self.silences.retain(|silence| silence.until_ms > now_ms);
        if silences != self.silences.len() {
            changes.silences = Some(self.silences.clone());
        }
        let within = self.config.forest_within.as_ms();
        self.hints
            .retain(|_, hint| now_ms.saturating_sub(hint.seen_ms) <= within);
        let serials: Vec<Serial> = self.all.keys().copied().collect();
        for serial in serials {
            let changed = self.changed.remove(&serial);
            self.settle(serial, changed, now_ms, changes);
            let past = |one: &Incident| is_past(one, now_ms, &self.config) && !is_owed(one);
            if self.all.get(&serial).is_some_and(past) {
                changes.past.extend(self.forget(serial));
            }
        }
    }

    fn forget(&mut self, serial: Serial) -> Option<Incident> {
        let incident = self.all.remove(&serial)?;
        self.changed.remove(&serial);
        for sensor in incident.sensors() {
            for known in [&mut self.values, &mut self.silenced] {
                if known.get(sensor) == Some(&serial) {
                    known.remove(sensor);
                }
            }
        }
        self.silence_of.retain(|_, known| *known != serial);
        self.shift_of.retain(|_, known| *known != serial);
        if self.link == Some(serial) {
            self.link = None;
        }
        Some(incident)
    }

    /// Ends an incident if it is over, tells what is due, and has it written if anything `changed`
    /// now or before.
    fn settle(&mut self, serial: Serial, mut changed: bool, now_ms: i64, changes: &mut Changes) {
        // Not in its place while the others are asked.
        let Some(mut incident) = self.all.remove(&serial) else {
            return;
        };
        if self.is_over(&incident, now_ms) {
            incident.resolved_ms = Some(now_ms);
            changed = true;
        }
        // Opened and over at once is the most that can be due.
        for _ in 0..2 {
            let Some(kind) = due(&incident, now_ms, &self.config) else {
                break;
            };
            if !self.is_muted(&incident) {
                changes.notices.push(tell(&mut incident, kind, now_ms));
            } else if incident.told.is_none() && !incident.is_open() {
                // It came and went while nobody wanted to know.
                hush(&mut incident, now_ms);
            } else {
                break;
            }
            changed = true;
        }
        if changed {
            changes.incidents.push(incident.clone());
        }
        self.all.insert(serial, incident);
    }

    /// Has everybody concerned been heard and normal for long enough?
    fn is_over(&self, incident: &Incident, now_ms: i64) -> bool {
        let goes_on = match incident.kind {
            Kind::Silence => incident.unheard().next().is_some(),
            Kind::Link => self.deaf_ms.is_some(),
            Kind::Values | Kind::Shift => {
                // What sensors do that are not heard is not known; one of several is enough.
                let unheard = |sensor: &SensorId| self.unheard.contains_key(sensor);
                incident.sensors().all(unheard)
            }
        };
        incident.is_open()
            && !goes_on
            && now_ms.saturating_sub(incident.near_ms) >= clear_after_ms(incident, &self.config)
    }

    /// Does nobody want to hear about it now?
    fn is_muted(&self, incident: &Incident) -> bool {
        let silenced = |whom: &Whom| self.silences.iter().any(|silence| silence.whom == *whom);
        if self.calendar.covers_all() {
            return true;
        }
        if incident.kind == Kind::Link {
            return silenced(&Whom::Link);
        }
        let group = incident.group.as_deref();
        let of_group = group.is_some_and(|group| silenced(&Whom::Group(group.to_owned())));
        of_group
            || incident.sensors().all(|sensor| {
                silenced(&Whom::Sensor(*sensor)) || self.calendar.covers(sensor, group)
            })
    }

    /// The broker cannot be heard, or can.
    fn link(&mut self, now_ms: i64, deaf: bool) {
        let since_ms = match (deaf, self.deaf_ms) {
            (false, None) => return,
            (true, None) => {
                self.deaf_ms = Some(now_ms);
                return;
            }
            (false, Some(_)) => {
                self.deaf_ms = None;
                if let Some((serial, link)) = self.linked() {
                    link.near_ms = now_ms;
                    self.changed.insert(serial);
                }
                return;
            }
            (true, Some(since_ms)) => since_ms,
        };
        // The clock was set back: it has been down since then at least.
        let since_ms = since_ms.min(now_ms);
        self.deaf_ms = Some(since_ms);
        let down_ms = now_ms.saturating_sub(since_ms);
        if down_ms < LINK_LINE_MS {
            return;
        }
        let verdict = Verdict {
            rule: Rule::Silence,
            quantity: None,
            observed: down_ms as f64 / 1000.0,
            expected: 0.0,
            line: LINK_LINE_MS as f64 / 1000.0,
            ratio: down_ms as f64 / LINK_LINE_MS as f64,
            since_ms,
            evidence: Vec::new(),
        };
        if let Some((serial, link)) = self.linked() {
            let over = !link.is_open();
            if over {
                reopen(link);
            }
            (link.last_ms, link.near_ms) = (now_ms, now_ms);
            link.worst = verdict;
            if over {
                self.changed.insert(serial);
            }
            return;
        }
        let times = (now_ms, now_ms);
        let mut link = begun(Kind::Link, None, None, times, &[verdict], Vec::new());
        // No sensor at all is heard.
        link.severity = Severity::Critical;
        self.add(link);
    }

    fn linked(&mut self) -> Option<(Serial, &mut Incident)> {
        let serial = self.link?;
        Some((serial, self.all.get_mut(&serial)?))
    }

    /// `sensor` is heard again, if it was not.
    fn heard(&mut self, sensor: SensorId, now_ms: i64) {
        let Some(serial) = self.unheard.remove(&sensor) else {
            return;
        };
        if let Some(incident) = self.all.get_mut(&serial) {
            for member in &mut incident.members {
                if member.sensor == sensor && member.back_ms.is_none() {
                    member.back_ms = Some(now_ms);
                }
            }
            incident.last_ms = incident.last_ms.max(now_ms);
            incident.near_ms = incident.near_ms.max(now_ms);
            self.changed.insert(serial);
        }
        // What it was like meanwhile is not known.
        if let Some(serial) = self.values.get(&sensor)
            && let Some(incident) = self.all.get_mut(serial)
            && incident.is_open()
        {
            incident.near_ms = incident.near_ms.max(now_ms);
            self.changed.insert(*serial);
        }
    }

    fn normal(&mut self, sensor: SensorId, now_ms: i64, near: Near) {
        if let Some(serial) = self.values.get(&sensor)
            && let Some(incident) = self.all.get_mut(serial)
            && near.has(incident.first.judged_by())
            && (incident.is_open() || incident.false_alarm.is_some())
        {
            incident.near_ms = incident.near_ms.max(now_ms);
            self.changed.insert(*serial);
        }
    }

    fn anomaly(&mut self, sensor: SensorId, times: (i64, i64), fired: &[Verdict]) {
        let now_ms = times.1;
        let Some(worst) = worst_of(fired) else {
            return;
        };
        if let Some(serial) = self.values.get(&sensor).copied()
            && let Some(incident) = self.all.get_mut(&serial)
            && !is_past(incident, now_ms, &self.config)
            && !is_news(incident, fired)
        {
            worsen(incident, worst, now_ms);
            explain(incident, fired, now_ms);
            peak(incident, fired);
            // Whoever called it a false alarm does not want to hear of it again.
            if !incident.is_open() && incident.false_alarm.is_none() {
                reopen(incident);
            }
            self.changed.insert(serial);
            return;
        }
        if !self.opens(sensor, times, fired) {
            return;
        }
        let group = self.groups.of(&sensor).map(str::to_owned);
        let course = Course::of(&fired[0], group.as_deref());
        if let Some(course) = &course
            && self.shares(course, sensor, times, fired)
        {
            return;
        }
        self.add(begun(
            Kind::Values,
            Some(sensor),
            group,
            times,
            fired,
            Vec::new(),
        ));
        if let Some(course) = course {
            self.lately
                .entry(course)
                .or_default()
                .push((sensor, now_ms));
        }
    }

    /// Joins `sensor` to others that went the same way, if enough of them did.
    fn shares(
        &mut self,
        course: &Course,
        sensor: SensorId,
        times: (i64, i64),
        fired: &[Verdict],
    ) -> bool {
        let now_ms = times.1;
        let member = |sensor, since_ms| Member {
            sensor,
            since_ms,
            back_ms: None,
        };
        if let Some(serial) = self.joinable(self.shift_of.get(course).copied(), now_ms) {
            self.join(serial, member(sensor, now_ms), &fired[0], now_ms);
            self.values.insert(sensor, serial);
            return true;
        }
        let within_ms = self.config.together_within.as_ms();
        let size = self.sizes.get(&course.group).copied().unwrap_or_default();
        let Some(lately) = self.lately.get_mut(course) else {
            return false;
        };
        lately.retain(|(_, ms)| now_ms.saturating_sub(*ms) <= within_ms);
        lately.retain(|(other, _)| *other != sensor);
        // The false alarms of a large group meet by chance.
        if lately.len() + 1 < TOGETHER + size / 100 {
            return false;
        }
        let mut members: Vec<Member> = lately
            .drain(..)
            .map(|(sensor, ms)| member(sensor, ms))
            .collect();
        members.push(member(sensor, now_ms));
        for other in &members {
            self.absorb(&other.sensor, now_ms);
        }
        let first = members[0].sensor;
        let mut shift = begun(
            Kind::Shift,
            Some(first),
            course.group.clone(),
            times,
            fired,
            members,
        );
        shift.anomalies = shift.size();
        self.add(shift);
        true
    }

    /// A sensor's own incident becomes part of one that it shares: people hear of that instead.
    fn absorb(&mut self, sensor: &SensorId, now_ms: i64) {
        let Some(serial) = self.values.get(sensor) else {
            return;
        };
        if let Some(own) = self.all.get_mut(serial) {
            own.resolved_ms.get_or_insert(now_ms);
            self.closed.extend(close(own, now_ms));
            self.changed.insert(*serial);
        }
    }

    /// That incident, if more sensors may still join it.
    fn joinable(&self, serial: Option<Serial>, now_ms: i64) -> Option<Serial> {
        let incident = self.all.get(&serial?)?;
        let last_ms = incident.members.last()?.since_ms;
        let lately = now_ms.saturating_sub(last_ms) <= self.config.together_within.as_ms();
        (lately && incident.is_open() && incident.false_alarm.is_none()).then_some(serial?)
    }

    fn join(&mut self, serial: Serial, member: Member, verdict: &Verdict, now_ms: i64) {
        if let Some(incident) = self.all.get_mut(&serial) {
            worsen(incident, verdict, now_ms);
            // Who comes again is counted once.
            incident
                .members
                .retain(|known| known.sensor != member.sensor);
            incident.members.push(member);
            self.changed.insert(serial);
        }
    }

    /// Is this worth a person's attention?
    fn opens(
        &mut self,
        sensor: SensorId,
        (time_ms, now_ms): (i64, i64),
        fired: &[Verdict],
    ) -> bool {
        if fired.iter().any(|verdict| verdict.rule != Rule::Forest) {
            self.hints.remove(&sensor);
            return true;
        }
        let first = Hint {
            count: 0,
            first_ms: time_ms,
            seen_ms: now_ms,
        };
        let hint = self.hints.entry(sensor).or_insert(first);
        if time_ms.saturating_sub(hint.first_ms) > self.config.forest_within.as_ms() {
            *hint = first;
        }
        hint.count += 1;
        if hint.count < self.config.forest_confirm {
            return false;
        }
        self.hints.remove(&sensor);
        true
    }
}

fn worst_of(fired: &[Verdict]) -> Option<&Verdict> {
    fired.iter().reduce(|worst, verdict| {
        if verdict.ratio > worst.ratio {
            verdict
        } else {
            worst
        }
    })
}

/// `fired` is not empty.
fn begun(
    kind: Kind,
    sensor: Option<SensorId>,
    group: Option<String>,
    (opened_ms, now_ms): (i64, i64),
    fired: &[Verdict],
    members: Vec<Member>,
) -> Incident {
    let worst = worst_of(fired).unwrap_or(&fired[0]);
    let mut incident = Incident {
        kind,
        sensor,
        group,
        opened_ms,
        begun_ms: now_ms,
        last_ms: now_ms,
        near_ms: now_ms,
        resolved_ms: None,
        first: fired[0].clone(),
        also: fired.iter().skip(1).take(2).cloned().collect(),
        worst: worst.clone(),
        peaks: Vec::new(),
        severity: worst.severity(),
        anomalies: 1,
        members,
        relapses: 0,
        acknowledged: None,
        false_alarm: None,
        told: None,
        notices: 0,
    };
    if kind == Kind::Values {
        peak(&mut incident, fired);
    }
    incident
}

fn worsen(incident: &mut Incident, verdict: &Verdict, now_ms: i64) {
    incident.last_ms = incident.last_ms.max(now_ms);
    incident.near_ms = incident.near_ms.max(now_ms);
    incident.anomalies = incident.anomalies.saturating_add(1);
    if verdict.ratio > incident.worst.ratio {
        incident.worst = verdict.clone();
    }
    incident.severity = incident.severity.max(verdict.severity());
}

fn peak(incident: &mut Incident, fired: &[Verdict]) {
    for verdict in fired {
        let crossed = verdict.judged_by();
        let known = incident.peaks.iter_mut();
        match known.into_iter().find(|(rule, _)| *rule == crossed) {
            Some((_, most)) => *most = most.max(verdict.ratio),
            None => incident.peaks.push((crossed, verdict.ratio)),
        }
    }
}

/// Whether this cannot be what somebody called a false alarm: it has become critical, or it is of the
/// rules that mean a broken sensor, which had not fired then.
fn is_news(incident: &Incident, fired: &[Verdict]) -> bool {
    let known = |rule| incident.peaks.iter().any(|(peak, _)| *peak == rule);
    let broken = |rule| matches!(rule, Rule::Range | Rule::Stuck);
    incident.false_alarm.is_some()
        && fired.iter().any(|verdict| {
            verdict.severity() > incident.severity || broken(verdict.rule) && !known(verdict.rule)
        })
}

/// Only the readings after a jump show what it is: see [`Incident::explanation`]. Noise begins with a
/// jump, and has to be the better explanation of such a reading, too, or to come without one: but what
/// came with a jump before may be its echo. A jump back to the usual was none if the values soon jump
/// to where they were before it.
fn explain(incident: &mut Incident, fired: &[Verdict], now_ms: i64) {
    let since_ms = now_ms.saturating_sub(incident.begun_ms);
    let best = incident.explanation();
    let known = best.judged_by() != Rule::Rate;
    if incident.kind != Kind::Values || known || since_ms > EXPLAINED_WITHIN_MS {
        return;
    }
    let quantity = incident.first.quantity;
    let of = |rule: Rule| {
        let about = |one: &Verdict| one.rule == rule && one.quantity == quantity;
        fired.iter().position(about)
    };
    let returns = |one: &Verdict| {
        let first = &incident.first;
        (one.observed - first.observed).abs() < (one.observed - first.expected).abs()
    };
    let back = best.jumped_back() == Some(true) && since_ms <= BACK_WITHIN_MS;
    let is_echo = incident.peaks.iter().any(|(rule, _)| *rule == Rule::Noise);
    let better = match (of(Rule::Noise), of(Rule::Rate)) {
        (Some(noise), Some(jump)) if noise < jump => noise,
        (Some(noise), None) if !is_echo => noise,
        (_, Some(jump)) if back && of(Rule::Season).is_none() && returns(&fired[jump]) => jump,
        _ => return,
    };
    let better = &fired[better];
    incident.also.retain(|also| also.rule != better.rule);
    incident.also.insert(0, better.clone());
    incident.also.truncate(2);
}

fn reopen(incident: &mut Incident) {
    incident.resolved_ms = None;
    incident.relapses = incident.relapses.saturating_add(1);
    // Whoever looked after it took it for over.
    incident.acknowledged = None;
}

/// Twice as long after each relapse: what flaps is not over each time it is still.
fn clear_after_ms(incident: &Incident, config: &Config) -> i64 {
    let (once, most) = (config.clear_after.as_ms(), config.cool_down.as_ms());
    let doubled = once.saturating_mul(1 << incident.relapses.min(20));
    doubled.min(most.max(once))
}

/// Over for so long that the next anomaly is another incident. The time spent near the line counts
/// as over here, so that a sensor which hovers there is heard when it leaves again.
fn is_past(incident: &Incident, now_ms: i64, config: &Config) -> bool {
    if incident.false_alarm.is_some() {
        return now_ms.saturating_sub(incident.near_ms) >= config.clear_after.as_ms();
    }
    incident.resolved_ms.is_some_and(|resolved_ms| {
        let held_ms = incident.near_ms - incident.last_ms;
        now_ms.saturating_sub(resolved_ms - held_ms) > config.cool_down.as_ms()
    })
}

/// Whether people were told of it and not yet that it is over: who is silenced hears that later.
fn is_owed(incident: &Incident) -> bool {
    incident.told.as_ref().is_some_and(|told| !told.over)
}

/// What people have to be told now, given what they were told.
fn due(incident: &Incident, now_ms: i64, config: &Config) -> Option<NoticeKind> {
    let since_begun = now_ms.saturating_sub(incident.begun_ms);
    let Some(told) = &incident.told else {
        let goes_on = incident.unheard().next().is_some() || incident.kind == Kind::Link;
        let lasted = if goes_on && incident.is_open() {
            since_begun
        } else {
            incident.last_ms - incident.begun_ms
        };
        let gathered = incident.kind != Kind::Silence
            || !incident.is_open()
            || since_begun >= config.gather.as_ms();
        let tell = lasted >= config.min_duration.as_ms() && gathered;
        return (tell && incident.false_alarm.is_none()).then_some(NoticeKind::Opened);
    };
    if !incident.is_open() {
        return (!told.over).then_some(NoticeKind::Resolved);
    }
    if told.over {
        return Some(NoticeKind::Reopened);
    }
    if incident.severity > told.severity {
        return Some(NoticeKind::Escalated);
    }
    let since_told = now_ms.saturating_sub(told.at_ms);
    if incident.size() >= told.members.saturating_mul(2) && since_told >= GROWN_EVERY_MS {
        return Some(NoticeKind::Grown);
    }
    let pause = config.remind_after.as_ms();
    let doubled = pause.saturating_mul(1 << told.reminders.min(20));
    let remind = pause > 0
        && incident.acknowledged.is_none()
        && since_told >= doubled.min(REMINDED_WITHIN_MS.max(pause));
    remind.then_some(NoticeKind::Reminder)
}

/// Nobody has to hear that it is over, or that it was.
fn hush(incident: &mut Incident, now_ms: i64) {
    match &mut incident.told {
        Some(told) => told.over = true,
        None => {
            incident.told = Some(Told {
                at_ms: now_ms,
                severity: incident.severity,
                members: incident.size(),
                as_group: false,
                reminders: 0,
                over: true,
            });
        }
    }
}

/// Ends it without a word to people. Programs that were told of it hear that it is over.
fn close(incident: &mut Incident, now_ms: i64) -> Option<Notice> {
    let is_owed = is_owed(incident);
    hush(incident, now_ms);
    is_owed.then(|| notice(incident, NoticeKind::Resolved, now_ms, true))
}

/// Makes the notice, and remembers what was told.
fn tell(incident: &mut Incident, kind: NoticeKind, now_ms: i64) -> Notice {
    let size = incident.size();
    let before = incident.told.as_ref();
    let reminders = match (kind, before) {
        (NoticeKind::Reminder, Some(told)) => told.reminders.saturating_add(1),
        _ => 0,
    };
    incident.told = Some(Told {
        at_ms: now_ms,
        severity: incident.severity,
        members: size,
        as_group: before.map_or(size > 1, |told| told.as_group),
        reminders,
        over: kind == NoticeKind::Resolved,
    });
    notice(incident, kind, now_ms, false)
}

fn notice(incident: &mut Incident, kind: NoticeKind, now_ms: i64, is_quiet: bool) -> Notice {
    incident.notices += 1;
    Notice {
        number: incident.notices,
        kind,
        incident: incident.clone(),
        at_ms: now_ms,
        is_quiet,
    }
}

/// Whom somebody is tired of who silences this incident.
fn whom(incident: &Incident) -> Vec<Whom> {
    match (incident.kind, &incident.group) {
        (Kind::Link, _) => vec![Whom::Link],
        (Kind::Silence | Kind::Shift, Some(group)) => vec![Whom::Group(group.clone())],
        _ => incident.sensors().map(|one| Whom::Sensor(*one)).collect(),
    }
}

/// The lines that would have been high enough. What cannot be true stays so.
fn raised(
    incident: &Incident,
    raised_by: impl Fn(&SensorId, Rule) -> f64,
    most: f64,
) -> Vec<Raised> {
    let mut raised = Vec::new();
    for sensor in incident.sensors() {
        for (rule, ratio) in &incident.peaks {
            // The ratio is to the line as it was.
            let before = raised_by(sensor, *rule);
            let factor = (before * ratio * 1.05).min(most);
            if *rule != Rule::Range && factor > before {
                raised.push(Raised {
                    sensor: *sensor,
                    rule: *rule,
                    factor,
                });
            }
        }
    }
    raised
}

#[cfg(test)]
mod tests;
