//! Incidents: an episode of anomalies of one sensor, that a person hears about once. Pure: takes
//! the stream's time, gives transitions; they are committed with the readings that caused them.

use hashbrown::HashMap;

use serde::{Deserialize, Serialize};
use vigie_wire::SensorId;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use super::rules::{Near, Rule, Severity, Verdict};
use crate::config::{Invalid, Span, in_range};

/// Section `[incidents]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// An incident is over when its sensor has been normal for this long.
    pub clear_after: Span,
    /// Anomalies within this time after the end belong to the same incident: no second mail,
    /// unless it becomes worse.
    pub cool_down: Span,
    /// The forest alone opens an incident only with this many anomalies …
    pub forest_confirm: u32,
    /// … within this time.
    pub forest_within: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            clear_after: Span::secs(10 * 60),
            cool_down: Span::secs(6 * 3600),
            forest_confirm: 5,
            forest_within: Span::secs(5 * 60),
        }
    }
}

impl Config {
    /// # Errors
    /// [`Invalid`] that names the key.
    pub fn validate(&self) -> Result<(), Invalid> {
        let longest = Span::secs(30 * 24 * 3600);
        in_range("clear_after", self.clear_after, Span::secs(1), longest)?;
        in_range("cool_down", self.cool_down, Span::secs(0), longest)?;
        in_range("forest_confirm", self.forest_confirm, 1, 1000)?;
        in_range("forest_within", self.forest_within, Span::secs(1), longest)
    }
}

/// An episode of one sensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Which sensor.
    pub sensor: SensorId,
    /// Time of the first anomaly; with the sensor it is the incident's name.
    pub opened_ms: i64,
    /// Time of the last anomaly so far.
    pub last_ms: i64,
    /// Until when it has been near its line at least.
    pub near_ms: i64,
    /// Time of the end.
    pub resolved_ms: Option<i64>,
    /// The rule that fired first: the explanation.
    pub first: Verdict,
    /// The next two that fired with it.
    pub also: Vec<Verdict>,
    /// The largest ratio so far.
    pub worst: Verdict,
    /// How bad it has become.
    pub severity: Severity,
    /// Anomalous readings so far.
    pub anomalies: u32,
    /// The sensor is not heard: only its next reading can end this.
    pub silent: bool,
    /// Notices sent so far; the number makes each notice's id.
    pub notices: u32,
}

impl Incident {
    /// `C001-1790000000123`: unique, and the same after any restart.
    pub fn id(&self) -> String {
        format!("{}-{}", self.sensor, self.opened_ms)
    }

    /// Over for so long that the next anomaly is another incident. The time spent near the line
    /// counts as over here, so that a sensor which hovers there is heard when it leaves again.
    fn is_past(&self, now_ms: i64, cool_down_ms: i64) -> bool {
        self.resolved_ms.is_some_and(|resolved| {
            let held_ms = self.near_ms - self.last_ms;
            now_ms.saturating_sub(resolved - held_ms) > cool_down_ms
        })
    }
}

/// What a person is told about an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// It began.
    Opened,
    /// It became critical.
    Escalated,
    /// It is over.
    Resolved,
}

impl NoticeKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Opened, Self::Escalated, Self::Resolved];

    /// As in the API and metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Escalated => "escalated",
            Self::Resolved => "resolved",
        }
    }
}

/// A row of the outbox: committed with the readings, delivered at least once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// Its number within the incident, from 1.
    pub number: u32,
    /// What happened.
    pub kind: NoticeKind,
    /// The incident as it was then.
    pub incident: Incident,
    /// The stream's time then.
    pub at_ms: i64,
}

/// What has to be written after a change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Incidents that changed, as they are now.
    pub incidents: Vec<Incident>,
    /// What people have to be told.
    pub notices: Vec<Notice>,
}

/// Forest anomalies that have not opened an incident yet.
#[derive(Debug, Clone, Copy)]
struct Hint {
    count: u32,
    first_ms: i64,
}

/// All incidents that are open or cooling down.
#[derive(Debug)]
pub struct Incidents {
    config: Config,
    current: HashMap<SensorId, Incident, Xxh3DefaultBuilder>,
    hints: HashMap<SensorId, Hint, Xxh3DefaultBuilder>,
}

impl Incidents {
    /// Goes on with what the store has: open incidents and those that may still be cooling down.
    pub fn new(config: Config, current: impl IntoIterator<Item = Incident>) -> Self {
        let current = current
            .into_iter()
            .map(|incident| (incident.sensor, incident))
            .collect();
        Self {
            config,
            current,
            hints: HashMap::default(),
        }
    }

    /// Open incidents.
    pub fn open(&self) -> usize {
        self.current
            .values()
            .filter(|incident| incident.resolved_ms.is_none())
            .count()
    }

    /// Replaces all by what the store has.
    pub fn replace(&mut self, stored: Vec<Incident>) {
        self.hints.clear();
        self.current = stored
            .into_iter()
            .map(|incident| (incident.sensor, incident))
            .collect();
    }

    /// A reading of `sensor` at `time_ms`, looked at `now_ms`, with what fired on it (nothing, if it
    /// is normal). With the rule that began an open incident `near` its line still, the incident goes on.
    /// An episode lives by `now_ms`: a backlog is news, however old its times.
    pub fn reading(
        &mut self,
        sensor: SensorId,
        (time_ms, now_ms): (i64, i64),
        (fired, near): (&[Verdict], Near),
        changes: &mut Changes,
    ) {
        if fired.is_empty() {
            if let Some(incident) = self.current.get_mut(&sensor)
                && incident.resolved_ms.is_none()
            {
                // Heard again.
                if incident.silent || near.has(incident.first.rule) {
                    if incident.silent {
                        incident.last_ms = incident.last_ms.max(now_ms);
                    }
                    incident.silent = false;
                    incident.near_ms = incident.near_ms.max(now_ms);
                    changes.incidents.push(incident.clone());
                }
                self.clear(sensor, now_ms, changes);
            }
            return;
        }
        self.anomaly(sensor, (time_ms, now_ms), fired, false, changes);
    }

    /// `sensor` is silent as of `now_ms`.
    pub fn silence(
        &mut self,
        sensor: SensorId,
        now_ms: i64,
        verdict: &Verdict,
        changes: &mut Changes,
    ) {
        self.anomaly(
            sensor,
            (now_ms, now_ms),
            std::slice::from_ref(verdict),
            true,
            changes,
        );
    }

    /// Time passes: ends what has been normal for long enough, forgets what has cooled down.
    pub fn tick(&mut self, now_ms: i64, changes: &mut Changes) {
        let clear_after = self.config.clear_after.as_ms();
        let mut quiet: Vec<SensorId> = self
            .current
            .values()
            .filter(|incident| {
                incident.resolved_ms.is_none()
                    && !incident.silent
                    && now_ms.saturating_sub(incident.near_ms) >= clear_after
            })
            .map(|incident| incident.sensor)
            .collect();
        quiet.sort_unstable();
        for sensor in quiet {
            self.clear(sensor, now_ms, changes);
        }
        let cool_down = self.config.cool_down.as_ms();
        self.current
            .retain(|_, incident| !incident.is_past(now_ms, cool_down));
        let within = self.config.forest_within.as_ms();
        self.hints
            .retain(|_, hint| now_ms.saturating_sub(hint.first_ms) <= within);
    }

    fn clear(&mut self, sensor: SensorId, now_ms: i64, changes: &mut Changes) {
        let Some(incident) = self.current.get_mut(&sensor) else {
            return;
        };
        if incident.resolved_ms.is_some()
            || incident.silent
            || now_ms.saturating_sub(incident.near_ms) < self.config.clear_after.as_ms()
        {
            return;
        }
        incident.resolved_ms = Some(now_ms);
        notify(incident, NoticeKind::Resolved, now_ms, changes);
    }

    fn anomaly(
        &mut self,
        sensor: SensorId,
        (time_ms, now_ms): (i64, i64),
        fired: &[Verdict],
        silent: bool,
        changes: &mut Changes,
    ) {
        let cool_down = self.config.cool_down.as_ms();
        let worst = fired.iter().fold(&fired[0], |worst, verdict| {
            if verdict.ratio > worst.ratio {
                verdict
            } else {
                worst
            }
        });
        if let Some(incident) = self.current.get_mut(&sensor)
            && !incident.is_past(now_ms, cool_down)
        {
            let was = incident.severity;
            incident.resolved_ms = None;
            incident.last_ms = incident.last_ms.max(now_ms);
            incident.near_ms = incident.near_ms.max(now_ms);
            incident.anomalies = incident.anomalies.saturating_add(1);
            incident.silent = silent;
            if worst.ratio > incident.worst.ratio {
                incident.worst = worst.clone();
            }
            incident.severity = incident.severity.max(worst.severity());
            if incident.severity > was {
                notify(incident, NoticeKind::Escalated, now_ms, changes);
            } else {
                changes.incidents.push(incident.clone());
            }
            return;
        }
        if !self.opens(sensor, now_ms, fired) {
            return;
        }
        let mut incident = Incident {
            sensor,
            opened_ms: time_ms,
            last_ms: now_ms,
            near_ms: now_ms,
            resolved_ms: None,
            first: fired[0].clone(),
            also: fired.iter().skip(1).take(2).cloned().collect(),
            worst: worst.clone(),
            severity: worst.severity(),
            anomalies: 1,
            silent,
            notices: 0,
        };
        notify(&mut incident, NoticeKind::Opened, now_ms, changes);
        self.current.insert(sensor, incident);
    }

    /// Is this worth a person's attention?
    fn opens(&mut self, sensor: SensorId, now_ms: i64, fired: &[Verdict]) -> bool {
        let counts = |verdict: &Verdict| verdict.rule != Rule::Forest;
        if fired.iter().any(counts) {
            self.hints.remove(&sensor);
            return true;
        }
        if !fired.iter().any(|verdict| verdict.rule == Rule::Forest) {
            return false;
        }
        let hint = self.hints.entry(sensor).or_insert(Hint {
            count: 0,
            first_ms: now_ms,
        });
        if now_ms - hint.first_ms > self.config.forest_within.as_ms() {
            *hint = Hint {
                count: 0,
                first_ms: now_ms,
            };
        }
        hint.count += 1;
        if hint.count < self.config.forest_confirm {
            return false;
        }
        self.hints.remove(&sensor);
        true
    }
}

fn notify(incident: &mut Incident, kind: NoticeKind, at_ms: i64, changes: &mut Changes) {
    incident.notices += 1;
    changes.incidents.push(incident.clone());
    changes.notices.push(Notice {
        number: incident.notices,
        kind,
        incident: incident.clone(),
        at_ms,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn verdict(rule: Rule, ratio: f64) -> Verdict {
        Verdict {
            rule,
            quantity: None,
            observed: 30.0,
            expected: 21.0,
            line: 24.0,
            ratio,
            since_ms: 1_000_000,
            evidence: Vec::new(),
        }
    }

    enum Event {
        Normal,
        Close(Rule),
        Fired(Rule, f64),
        Silent,
        Tick,
    }
    use Event::{Close, Fired, Normal, Silent, Tick};

    /// Feeds events (minute, event) and compares the notices (minute, kind).
    fn check(events: &[(i64, Event)], expect: &[(i64, NoticeKind)]) {
        let config = Config {
            forest_confirm: 3,
            cool_down: Span::secs(15 * 60),
            ..Config::default()
        };
        let mut incidents = Incidents::new(config, []);
        let sensor = "C001".try_into().unwrap();
        let mut got = Vec::new();
        for (minute, event) in events {
            let now = minute * MINUTE;
            let mut changes = Changes::default();
            match event {
                Normal => {
                    incidents.reading(sensor, (now, now), (&[], Near::default()), &mut changes);
                }
                Close(rule) => {
                    let near = Near::from_iter([*rule]);
                    incidents.reading(sensor, (now, now), (&[], near), &mut changes);
                }
                Fired(rule, ratio) => {
                    let fired = [verdict(*rule, *ratio)];
                    incidents.reading(sensor, (now, now), (&fired, Near::default()), &mut changes);
                }
                Silent => {
                    incidents.silence(sensor, now, &verdict(Rule::Silence, 2.0), &mut changes);
                }
                Tick => incidents.tick(now, &mut changes),
            }
            got.extend(changes.notices.iter().map(|notice| (*minute, notice.kind)));
        }
        assert_eq!(got, expect);
    }

    #[test]
    fn one_mail_per_episode() {
        check(
            &[
                (1, Fired(Rule::Z, 1.2)),
                (2, Fired(Rule::Z, 1.3)),
                (3, Normal),
                (11, Tick),
                (12, Normal),
            ],
            &[(1, NoticeKind::Opened), (12, NoticeKind::Resolved)],
        );
    }

    #[test]
    fn near_the_line_it_is_not_over_but_nothing_begins_there() {
        check(
            &[
                (1, Close(Rule::Z)),
                (2, Fired(Rule::Z, 1.2)),
                (10, Close(Rule::Z)),
                (13, Tick),
                (19, Close(Rule::Z)),
                (22, Normal),
                (25, Close(Rule::Rate)),
                (30, Normal),
            ],
            &[(2, NoticeKind::Opened), (30, NoticeKind::Resolved)],
        );
    }

    #[test]
    fn it_speaks_again_only_when_it_becomes_worse() {
        check(
            &[
                (1, Fired(Rule::Z, 1.2)),
                (2, Fired(Rule::Z, 2.5)),
                (3, Fired(Rule::Z, 9.0)),
            ],
            &[(1, NoticeKind::Opened), (2, NoticeKind::Escalated)],
        );
    }

    #[test]
    fn silence_ends_only_with_a_reading() {
        check(
            &[
                (1, Silent),
                (50, Tick),
                (60, Normal),
                (65, Tick),
                (70, Tick),
            ],
            &[(1, NoticeKind::Opened), (70, NoticeKind::Resolved)],
        );
    }

    #[test]
    fn a_relapse_while_cooling_down_is_the_same_incident() {
        check(
            &[
                (1, Fired(Rule::Z, 1.2)),
                (11, Tick),
                (20, Fired(Rule::Z, 1.2)),
                (30, Tick),
            ],
            &[
                (1, NoticeKind::Opened),
                (11, NoticeKind::Resolved),
                (30, NoticeKind::Resolved),
            ],
        );
        check(
            &[
                (1, Fired(Rule::Z, 1.2)),
                (11, Tick),
                (27, Tick),
                (28, Fired(Rule::Z, 1.2)),
            ],
            &[
                (1, NoticeKind::Opened),
                (11, NoticeKind::Resolved),
                (28, NoticeKind::Opened),
            ],
        );
    }

    #[test]
    fn the_forest_alone_must_insist() {
        check(
            &[(1, Fired(Rule::Forest, 1.2)), (2, Fired(Rule::Forest, 1.2))],
            &[],
        );
        check(
            &[
                (1, Fired(Rule::Forest, 1.2)),
                (2, Normal),
                (3, Fired(Rule::Forest, 1.2)),
                (4, Fired(Rule::Forest, 1.2)),
            ],
            &[(4, NoticeKind::Opened)],
        );
        check(
            &[
                (1, Fired(Rule::Forest, 1.2)),
                (20, Fired(Rule::Forest, 1.2)),
                (40, Tick),
            ],
            &[],
        );
    }

    /// A backlog with old times: one opening, one end, by the clock of whoever is told.
    #[test]
    fn an_old_backlog_is_one_episode() {
        let mut incidents = Incidents::new(Config::default(), []);
        let sensor = "C001".try_into().unwrap();
        let mut kinds = Vec::new();
        for step in 0..20_i64 {
            let now = 100 * MINUTE + step * 1000;
            let mut changes = Changes::default();
            let old = now - 90 * MINUTE;
            let fired = [verdict(Rule::Z, 1.2)];
            incidents.reading(sensor, (old, now), (&fired, Near::default()), &mut changes);
            incidents.tick(now, &mut changes);
            kinds.extend(changes.notices.iter().map(|notice| notice.kind));
        }
        let mut changes = Changes::default();
        incidents.tick(111 * MINUTE, &mut changes);
        kinds.extend(changes.notices.iter().map(|notice| notice.kind));
        assert_eq!(kinds, [NoticeKind::Opened, NoticeKind::Resolved]);
    }
}
