//! Incidents: episodes of anomalies that a person hears about once. What one is, and what is told
//! of it; how one begins, grows and ends is in [`super::episodes`].

use serde::{Deserialize, Serialize};
use vigie_wire::SensorId;

use super::maintenance::Silence;
use super::rules::{Rule, Severity, Verdict};
use crate::config::{Invalid, Span, in_range};

/// Section `[incidents]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// An incident is told when it has lasted for this long.
    pub min_duration: Span,
    /// Sensors of a group that fall silent within this time are one incident from its first mail
    /// on.
    pub gather: Span,
    /// A sensor that falls silent, or shifts like others of its group, within this time after the
    /// one before belongs to the same incident.
    pub together_within: Span,
    /// An incident is over when its sensor has been normal for this long; twice as long after each
    /// relapse.
    pub clear_after: Span,
    /// Anomalies within this time after the end belong to the same incident.
    pub cool_down: Span,
    /// A first reminder comes after this time, the others each after twice the time of the one
    /// before, up to a week; until somebody acknowledges it. 0: none.
    pub remind_after: Span,
    /// The forest alone opens an incident only with this many anomalies …
    pub forest_confirm: u32,
    /// … within this time, by the times of the readings.
    pub forest_within: Span,
    /// A false alarm raises the line of its rule for its sensor, so that it would have stayed
    /// below, by this factor at most. 1: it does not.
    pub raise_at_most: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            min_duration: Span::secs(0),
            gather: Span::secs(30),
            together_within: Span::secs(15 * 60),
            clear_after: Span::secs(10 * 60),
            cool_down: Span::secs(6 * 3600),
            remind_after: Span::secs(4 * 3600),
            forest_confirm: 5,
            forest_within: Span::secs(5 * 60),
            raise_at_most: 2.0,
        }
    }
}

impl Config {
    /// # Errors
    /// [`Invalid`] that names the key.
    pub fn validate(&self) -> Result<(), Invalid> {
        let (none, second) = (Span::secs(0), Span::secs(1));
        let (hour, month) = (Span::secs(3600), Span::secs(30 * 24 * 3600));
        in_range("min_duration", self.min_duration, none, month)?;
        in_range("gather", self.gather, none, hour)?;
        in_range("together_within", self.together_within, none, month)?;
        in_range("clear_after", self.clear_after, second, month)?;
        in_range("cool_down", self.cool_down, none, month)?;
        in_range("remind_after", self.remind_after, none, month)?;
        in_range("forest_confirm", self.forest_confirm, 1, 1000)?;
        in_range("forest_within", self.forest_within, second, month)?;
        in_range("raise_at_most", self.raise_at_most, 1.0, 10.0)
    }
}

/// What an incident is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One sensor's values.
    Values,
    /// Sensors of a group that are not heard.
    Silence,
    /// Sensors of a group that went the same way at the same time.
    Shift,
    /// The link to the broker is down, so that no sensor can be heard.
    Link,
}

impl Kind {
    /// As in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Values => "values",
            Self::Silence => "silence",
            Self::Shift => "shift",
            Self::Link => "link",
        }
    }
}

/// A sensor that shares an incident with others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which one.
    pub sensor: SensorId,
    /// When it joined.
    pub since_ms: i64,
    /// When it was heard again.
    pub back_ms: Option<i64>,
}

/// Who did something to an incident, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// By the stream's time.
    pub at_ms: i64,
    /// As it was given: a person, or the way it came.
    pub by: String,
}

/// What people were told last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// When.
    pub at_ms: i64,
    /// As how bad.
    pub severity: Severity,
    /// Of how many sensors.
    pub members: u32,
    /// Of several sensors from the first notice on: what the thread of mails is called.
    pub as_group: bool,
    /// Reminders since anything happened.
    pub reminders: u32,
    /// That it is over.
    pub over: bool,
}

/// An episode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// What it is about.
    pub kind: Kind,
    /// The first sensor; `None` only of a link.
    pub sensor: Option<SensorId>,
    /// The group of the first sensor.
    pub group: Option<String>,
    /// Time of the first anomaly, by the reading's own clock.
    pub opened_ms: i64,
    /// The stream's time then; a backlog's readings are older.
    pub begun_ms: i64,
    /// Time of the last anomaly so far.
    pub last_ms: i64,
    /// Until when it has been near its line at least.
    pub near_ms: i64,
    /// Time of the end.
    pub resolved_ms: Option<i64>,
    /// What fired first; [`Incident::explanation`] may be another.
    pub first: Verdict,
    /// The next two that fired with it.
    pub also: Vec<Verdict>,
    /// The largest ratio so far.
    pub worst: Verdict,
    /// The largest ratio of each rule so far; of values only.
    pub peaks: Vec<(Rule, f64)>,
    /// How bad it has become.
    pub severity: Severity,
    /// Anomalous readings, or silent sensors, so far.
    pub anomalies: u32,
    /// Everybody concerned, in the order of joining, of a silence or a shift.
    pub members: Vec<Member>,
    /// How often it began again after its end.
    pub relapses: u32,
    /// Somebody looks after it.
    pub acknowledged: Option<Mark>,
    /// Somebody says that nothing was wrong.
    pub false_alarm: Option<Mark>,
    /// What people were told last; `None`: nothing yet.
    pub told: Option<Told>,
    /// Notices so far; the number makes each notice's id.
    pub notices: u32,
}

impl Incident {
    /// `C001-1790000000123`, with the kind behind it if it is not about one sensor's values:
    /// unique, and the same after any restart.
    pub fn id(&self) -> String {
        let sensor = self.sensor.as_ref().map_or("engine", SensorId::as_str);
        let opened = self.opened_ms;
        match self.kind {
            Kind::Values => format!("{sensor}-{opened}"),
            kind => format!("{sensor}-{opened}-{}", kind.name()),
        }
    }

    /// What explains it best: the rule that fired first, or what was found later, if the first jump
    /// was only the beginning of noise, or did not lead back for good.
    pub fn explanation(&self) -> &Verdict {
        let back = self.first.jumped_back() == Some(true);
        let better = |also: &&Verdict| {
            self.first.judged_by() == Rule::Rate
                && (also.rule == Rule::Noise || back && also.rule == Rule::Rate)
                && also.quantity == self.first.quantity
                && also.since_ms > self.opened_ms
        };
        self.also.iter().find(better).unwrap_or(&self.first)
    }

    /// Since when it has been so: from before the first anomaly, if that was a jump back that explains it.
    pub fn since_ms(&self) -> i64 {
        let explains = self.explanation() == &self.first;
        if self.first.jumped_back().is_some() && !explains {
            self.opened_ms
        } else {
            self.first.since_ms
        }
    }

    /// What else fired, in the order in which it did: all but the explanation.
    pub fn others(&self) -> impl Iterator<Item = &Verdict> {
        let best = self.explanation();
        std::iter::once(&self.first)
            .chain(&self.also)
            .filter(move |one| !std::ptr::eq(*one, best))
    }

    /// The opening time in an id.
    pub fn opened_in(id: &str) -> Option<i64> {
        let kinds = [Kind::Silence, Kind::Shift, Kind::Link];
        let bare = kinds
            .iter()
            .find_map(|kind| id.strip_suffix(kind.name())?.strip_suffix('-'))
            .unwrap_or(id);
        bare.rsplit_once('-')?.1.parse().ok()
    }

    /// Sensors concerned; none of a link.
    pub fn sensors(&self) -> impl Iterator<Item = &SensorId> {
        let alone = self.sensor.as_ref().filter(|_| self.members.is_empty());
        alone
            .into_iter()
            .chain(self.members.iter().map(|member| &member.sensor))
    }

    /// How many sensors are concerned.
    pub fn size(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX).max(1)
    }

    /// Those that are not heard at the moment.
    pub fn unheard(&self) -> impl Iterator<Item = &SensorId> {
        let silent = self.kind == Kind::Silence;
        self.members
            .iter()
            .filter(move |member| silent && member.back_ms.is_none())
            .map(|member| &member.sensor)
    }

    /// Is it going on?
    pub fn is_open(&self) -> bool {
        self.resolved_ms.is_none()
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
    /// More sensors are concerned: at least twice as many as were told.
    Grown,
    /// It was over and began again.
    Reopened,
    /// It goes on, and nobody has acknowledged it.
    Reminder,
    /// It is over.
    Resolved,
}

impl NoticeKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Opened,
        Self::Escalated,
        Self::Grown,
        Self::Reopened,
        Self::Reminder,
        Self::Resolved,
    ];

    /// As in the API and metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Escalated => "escalated",
            Self::Grown => "grown",
            Self::Reopened => "reopened",
            Self::Reminder => "reminder",
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
    /// Only for programs: people know, or hear of it in another way.
    pub is_quiet: bool,
}

/// What a person wants done about an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// No reminders: somebody looks after it.
    Acknowledge,
    /// Nothing was wrong: it is over, and the lines of its rules rise.
    FalseAlarm,
    /// Nothing more about this sensor or group until then (ms since 1970 UTC).
    Silence(i64),
}

impl Deed {
    /// All names.
    pub const NAMES: [&'static str; 3] = ["acknowledge", "false_alarm", "silence"];

    /// As in metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Acknowledge => Self::NAMES[0],
            Self::FalseAlarm => Self::NAMES[1],
            Self::Silence(_) => Self::NAMES[2],
        }
    }
}

/// A deed that is durable but not done yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Id of the incident.
    pub incident: String,
    /// What is to be done.
    pub deed: Deed,
    /// Who wants it.
    pub by: String,
}

/// The line of a rule for a sensor is higher than for others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Raised {
    /// Which sensor.
    pub sensor: SensorId,
    /// Which rule.
    pub rule: Rule,
    /// By this factor, above 1.
    pub factor: f64,
}

/// What has to be written after a change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Incidents that changed, as they are now.
    pub incidents: Vec<Incident>,
    /// Incidents that nothing can join any more.
    pub past: Vec<Incident>,
    /// What people have to be told.
    pub notices: Vec<Notice>,
    /// Numbers of the orders that are done by this.
    pub done: Vec<u64>,
    /// What was done by that.
    pub deeds: Vec<Deed>,
    /// All silences as they are now, if they changed.
    pub silences: Option<Vec<Silence>>,
    /// Lines that rose.
    pub raised: Vec<Raised>,
}
