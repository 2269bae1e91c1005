//! The words of a notice: one line for the terminal, subject and facts for a mail, in the language
//! of whoever reads it. Pure. What is said is decided here, how it is said in `english` and
//! `french`.

mod english;
mod french;

use std::ops::Deref;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use vigie_wire::SensorId;

use crate::clock::rfc3339;
use crate::quantity::Catalogue;
use crate::score::incident::{Incident, Kind, Notice, NoticeKind};
use crate::score::rules::{Evidence, Feature, Rule, Severity, Verdict};
use crate::stats::device::Device;

/// Sensors that a mail names one by one.
const NAMED: usize = 20;

/// A language that mails are written in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Language {
    /// English.
    #[default]
    #[serde(rename = "en")]
    English,
    /// French.
    #[serde(rename = "fr")]
    French,
}

impl Language {
    fn tongue(self) -> &'static dyn Tongue {
        match self {
            Self::English => &english::English,
            Self::French => &french::French,
        }
    }

    /// As in RFC 5646, for `lang` in HTML.
    pub const fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::French => "fr",
        }
    }
}

/// What stands in front of a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// Observed against expected.
    What,
    /// Which rule found it, and what it looks for.
    Rule,
    /// Another rule that fired.
    Also,
    /// When it began.
    Since,
    /// How bad it is.
    Severity,
    /// The largest distance so far.
    Worst,
    /// Who is concerned.
    Sensors,
    /// Who of them is still concerned.
    Unheard,
    /// Anomalies.
    SoFar,
    /// When the device started last.
    Restarted,
    /// Which firmware the device has.
    Firmware,
    /// Who looks after it.
    Acknowledged,
    /// When it was over.
    OverAt,
    /// Its id.
    Incident,
    /// Mails of the last 24 hours, one for each recipient.
    Budget,
}

/// Words around what is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phrase {
    /// The button that acknowledges.
    Acknowledge,
    /// The button that calls it a false alarm.
    FalseAlarm,
    /// The button that silences for a day.
    Silence,
    /// What stands in front of commands, if there is nothing to press.
    OrType,
    /// That nothing more than this is said about a digest's incidents.
    DigestNote,
}

/// How things are said in one language. Values come with units, numbers as they are written there.
trait Tongue: Sync {
    fn decimal_point(&self) -> char;
    fn quantity<'a>(&self, name: &'a str) -> &'a str;
    fn days(&self, days: u64) -> String;
    fn label(&self, label: Label) -> &'static str;
    fn phrase(&self, phrase: Phrase) -> &'static str;
    fn severity(&self, severity: Severity) -> &'static str;
    fn rule(&self, rule: Rule) -> &'static str;
    fn meaning(&self, rule: Rule) -> &'static str;
    fn silence(&self, gap: &str, every: &str, line: &str) -> String;
    fn link(&self, down: &str) -> String;
    fn impossible(&self, name: &str, value: &str, last_good: Option<&str>) -> String;
    fn stuck(&self, name: &str, value: &str, readings: &str, line: &str) -> String;
    fn noise(&self, name: &str, by: &str, usually: &str, line: &str) -> String;
    fn off(&self, name: &str, value: &str, expected: &str, line: &str, ratio: &str) -> String;
    fn jumped_back(&self, name: &str, value: &str, expected: &str, ratio: &str) -> String;
    fn jumped_away(&self, name: &str, value: &str, expected: &str, ratio: &str) -> String;
    fn forest(&self, above_all: Option<&str>, score: &str, usual: &str, line: &str) -> String;
    fn evidence(&self, feature: Feature, name: &str, parts: [&str; 3]) -> String;
    fn anomalies(&self, count: u32) -> String;
    fn more(&self, count: usize) -> String;
    fn several(&self, kind: Kind, size: u32, group: Option<&str>) -> String;
    fn several_sensors(&self) -> &'static str;
    fn broker(&self) -> &'static str;
    fn headline(&self, kind: NoticeKind, about: &str) -> String;
    fn by(&self, person: &str, at: &str) -> String;
    fn of_budget(&self, used: u32, budget: u32) -> String;
    fn digest_subject(&self, incidents: usize) -> String;
    fn digest_headline(&self, incidents: usize, notices: usize) -> String;
    fn changed(&self, firmware: &str, at: &str, from: &str) -> String;
    fn extent(&self, low: &str, high: &str, hours: &str) -> String;
}

/// Who speaks: in which language, of which quantities, by which clock.
#[derive(Debug, Clone)]
pub struct Voice<C = Arc<Catalogue>> {
    /// The language.
    pub language: Language,
    /// Times of day are those of this place.
    pub zone: TimeZone,
    /// Names and units.
    pub catalogue: C,
}

/// A number as people write it: as many digits as it needs, three behind the point at most.
fn number(x: f64) -> String {
    let text = format!("{x:.3}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    };
    if text == "-0" { "0".to_owned() } else { text }
}

fn tenths(x: f64) -> f64 {
    (x * 10.0).round() / 10.0
}

/// `14:03:22` of the day, UTC, for lines that are read within the day.
fn clock_time(ms: i64) -> String {
    rfc3339(ms).get(11..19).unwrap_or("?").to_owned()
}

/// What a verdict says, in English.
pub fn sentence(verdict: &Verdict, catalogue: &Catalogue) -> String {
    Voice::english(catalogue).sentence(verdict)
}

/// A span of seconds as people say it, in English.
pub fn span(seconds: f64) -> String {
    Voice::english(&Catalogue::default()).span(seconds)
}

/// What a rule looks for, in English.
pub fn meaning(rule: Rule) -> &'static str {
    Language::English.tongue().meaning(rule)
}

impl<C: Deref<Target = Catalogue>> Voice<C> {
    /// English by the clock of Greenwich: for terminals and programs.
    pub fn english(catalogue: C) -> Self {
        Self {
            language: Language::English,
            zone: TimeZone::UTC,
            catalogue,
        }
    }

    fn tongue(&self) -> &'static dyn Tongue {
        self.language.tongue()
    }

    /// A number as people of this language write it.
    pub fn number(&self, x: f64) -> String {
        match self.tongue().decimal_point() {
            '.' => number(x),
            point => number(x).replace('.', &point.to_string()),
        }
    }

    /// A span of seconds as people say it.
    pub fn span(&self, seconds: f64) -> String {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a span of time"
        )]
        let whole = seconds.max(0.0).round() as u64;
        match whole {
            0..=119 => format!("{} s", self.number(tenths(seconds))),
            120..=7_199 => format!("{} min", whole / 60),
            7_200..=172_799 => format!("{} h", whole / 3600),
            _ => self.tongue().days(whole / 86_400),
        }
    }

    /// `2026-09-21 16:13:20 CEST`.
    pub fn time(&self, ms: i64) -> String {
        Timestamp::from_millisecond(ms).map_or_else(
            |_| ms.to_string(),
            |moment| {
                let there = moment.to_zoned(self.zone.clone());
                there.strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
            },
        )
    }

    /// Words around what is said.
    pub fn phrase(&self, phrase: Phrase) -> &'static str {
        self.tongue().phrase(phrase)
    }

    /// What stands in front of a fact.
    pub fn label(&self, label: Label) -> &'static str {
        self.tongue().label(label)
    }

    /// What a verdict says: `temperature 31.42 °C, expected 21.3 °C (line 23.1 °C, 5.6 × its
    /// distance)`.
    pub fn sentence(&self, verdict: &Verdict) -> String {
        let tongue = self.tongue();
        let spec = verdict.quantity.and_then(|id| self.catalogue.get(id));
        let (name, unit) = spec.map_or(("value", ""), |spec| {
            (tongue.quantity(&spec.name), spec.unit.as_str())
        });
        let [observed, expected, line] = [verdict.observed, verdict.expected, verdict.line];
        let with_unit = |x: f64| {
            let text = format!("{} {unit}", self.number(x));
            text.trim_end().to_owned()
        };
        match verdict.rule {
            Rule::Silence => {
                let [gap, every, line] = [observed, expected, line].map(|x| self.span(x));
                tongue.silence(&gap, &every, &line)
            }
            Rule::Forest => {
                let [score, usual, line] = [observed, expected, line].map(|x| self.number(x));
                let above_all = spec.map(|_| name);
                let said: Vec<String> = verdict
                    .evidence
                    .iter()
                    .map(|one| self.evidence(one))
                    .collect();
                let mut text = tongue.forest(above_all, &score, &usual, &line);
                if !said.is_empty() {
                    text = format!("{text}; {}", said.join(", "));
                }
                text
            }
            Rule::Range => {
                let (value, last) = (with_unit(observed), with_unit(expected));
                // Of a sensor without a good reading yet, none is expected.
                tongue.impossible(name, &value, (value != last).then_some(&last))
            }
            Rule::Stuck => tongue.stuck(
                name,
                &with_unit(expected),
                &self.number(observed),
                &self.number(line.ceil()),
            ),
            Rule::Noise => {
                let [by, usually, line] = [observed, expected, line].map(with_unit);
                tongue.noise(name, &by, &usually, &line)
            }
            Rule::Rate | Rule::Season | Rule::Level | Rule::Novelty | Rule::Z => {
                let [value, expected, line] = [observed, expected, line].map(with_unit);
                let ratio = self.number(tenths(verdict.ratio));
                match verdict.jumped_back() {
                    Some(true) => tongue.jumped_back(name, &value, &expected, &ratio),
                    Some(false) => tongue.jumped_away(name, &value, &expected, &ratio),
                    None => tongue.off(name, &value, &expected, &line, &ratio),
                }
            }
        }
    }

    /// What the forest looked at: `temperature's step is 7.2 spreads (usually -1.5 to 1.6)`.
    fn evidence(&self, evidence: &Evidence) -> String {
        let name = self
            .catalogue
            .get(evidence.quantity)
            .map_or("value", |spec| spec.name.as_str());
        let [value, low, high] = [evidence.value, evidence.low, evidence.high].map(|x| {
            let x = f64::from(x);
            // A logarithm says nothing to people, a factor does.
            let x = if evidence.feature == Feature::Noise {
                x.exp()
            } else {
                x
            };
            self.number(tenths(x))
        });
        let tongue = self.tongue();
        tongue.evidence(
            evidence.feature,
            tongue.quantity(name),
            [&value, &low, &high],
        )
    }

    /// The explanation of an incident, by one of its verdicts.
    pub fn what(&self, incident: &Incident, verdict: &Verdict) -> String {
        match incident.kind {
            Kind::Link => self.tongue().link(&self.span(verdict.observed)),
            _ => self.sentence(verdict),
        }
    }

    /// Who an incident is about: a sensor, several of them, the broker.
    pub fn about(&self, incident: &Incident) -> String {
        let tongue = self.tongue();
        match (&incident.sensor, incident.size()) {
            (None, _) => tongue.broker().to_owned(),
            (Some(sensor), 1) => sensor.to_string(),
            _ => tongue.several(incident.kind, incident.size(), incident.group.as_deref()),
        }
    }

    /// One readable line: when, what, which sensor, how far, since when.
    pub fn line(&self, notice: &Notice) -> String {
        let incident = &notice.incident;
        let (at, about) = (clock_time(notice.at_ms), self.about(incident));
        let severity = incident.severity.name();
        let begun = clock_time(incident.opened_ms);
        match notice.kind {
            NoticeKind::Opened => format!(
                "{at}  {severity:<8}  {about}  {}: {}, since {}",
                incident.explanation().rule.name(),
                self.what(incident, incident.explanation()),
                clock_time(incident.since_ms()),
            ),
            NoticeKind::Escalated => format!(
                "{at}  {severity:<8}  {about}  {}: {}, getting worse since {begun}",
                incident.worst.rule.name(),
                self.what(incident, &incident.worst),
            ),
            NoticeKind::Grown | NoticeKind::Reopened | NoticeKind::Reminder => format!(
                "{at}  {severity:<8}  {about}  {}: {} since {begun} ({})",
                incident.explanation().rule.name(),
                match notice.kind {
                    NoticeKind::Grown => "more and more sensors",
                    NoticeKind::Reopened => "it is back, on and off",
                    _ => "still so",
                },
                self.tongue().anomalies(incident.anomalies),
            ),
            NoticeKind::Resolved => format!(
                "{at}  resolved  {about}  normal again after {} ({})",
                self.span((notice.at_ms - incident.opened_ms) as f64 / 1000.0),
                self.tongue().anomalies(incident.anomalies),
            ),
        }
    }

    /// Subject of every mail about an incident: the same for all, so that they stay one thread.
    pub fn subject(&self, incident: &Incident) -> String {
        let tongue = self.tongue();
        let Some(sensor) = &incident.sensor else {
            return format!("[Vigie] {}", tongue.broker());
        };
        let as_group = incident.told.as_ref().is_some_and(|told| told.as_group);
        let who = match (&incident.group, as_group) {
            (Some(group), true) => group.as_str(),
            (None, true) => tongue.several_sensors(),
            _ => sensor.as_str(),
        };
        let rule = incident.first.rule;
        let quantity = incident.first.quantity;
        let what = quantity
            .and_then(|id| self.catalogue.get(id))
            .map_or_else(|| tongue.rule(rule), |spec| tongue.quantity(&spec.name));
        format!("[Vigie] {who}: {what}")
    }

    /// What a notice says above all.
    pub fn headline(&self, notice: &Notice) -> String {
        let about = self.about(&notice.incident);
        self.tongue().headline(notice.kind, &about)
    }

    /// What is known about an incident, most important first.
    pub fn facts(&self, notice: &Notice, device: Option<&Device>) -> Vec<(Label, String)> {
        let (incident, tongue) = (&notice.incident, self.tongue());
        let (first, best) = (&incident.first, incident.explanation());
        let mut facts = vec![(Label::What, self.what(incident, best))];
        if incident.kind != Kind::Link {
            let rule = format!("{} – {}", tongue.rule(best.rule), tongue.meaning(best.rule));
            facts.push((Label::Rule, rule));
        }
        for verdict in incident.others() {
            let rule = tongue.rule(verdict.rule);
            facts.push((Label::Also, format!("{} ({rule})", self.sentence(verdict))));
        }
        facts.push((Label::Since, self.time(incident.since_ms())));
        facts.push((
            Label::Severity,
            tongue.severity(incident.severity).to_owned(),
        ));
        if incident.worst != *first {
            facts.push((Label::Worst, self.what(incident, &incident.worst)));
        }
        if incident.size() > 1 {
            let all = incident.members.iter().map(|member| member.sensor.as_str());
            facts.push((Label::Sensors, self.names(all)));
            if incident.is_open() && incident.unheard().count() < incident.members.len() {
                let unheard = self.names(incident.unheard().map(SensorId::as_str));
                facts.push((Label::Unheard, unheard));
            }
        }
        if incident.kind != Kind::Link {
            facts.push((Label::SoFar, tongue.anomalies(incident.anomalies)));
        }
        if let Some(mark) = &incident.acknowledged {
            let said = tongue.by(&mark.by, &self.time(mark.at_ms));
            facts.push((Label::Acknowledged, said));
        }
        if let Some(resolved_ms) = incident.resolved_ms {
            facts.push((Label::OverAt, self.time(resolved_ms)));
        }
        facts.extend(device.into_iter().flat_map(|device| self.device(device)));
        facts.push((Label::Incident, incident.id()));
        facts
    }

    /// Its last start, with the reason, and its firmware.
    fn device(&self, device: &Device) -> impl Iterator<Item = (Label, String)> {
        let told = &device.told;
        let reason = match (&told.reset, &told.crash) {
            (Some(reset), Some(crash)) => format!(" ({reset}: {crash})"),
            (Some(one), None) | (None, Some(one)) => format!(" ({one})"),
            (None, None) => String::new(),
        };
        let started = device.started_ms.map(|ms| self.time(ms) + &reason);
        let firmware = told.firmware.as_ref().map(|now| match &device.changed {
            Some(changed) => {
                let at = self.time(changed.at_ms);
                self.tongue().changed(now, &at, &changed.from)
            }
            None => now.clone(),
        });
        let started = started.map(|text| (Label::Restarted, text));
        started
            .into_iter()
            .chain(firmware.map(|text| (Label::Firmware, text)))
    }

    fn names<'a>(&self, names: impl Iterator<Item = &'a str>) -> String {
        let names: Vec<&str> = names.collect();
        if names.is_empty() {
            return "–".to_owned();
        }
        let shown = names
            .iter()
            .take(NAMED)
            .copied()
            .collect::<Vec<_>>()
            .join(", ");
        match names.len().saturating_sub(NAMED) {
            0 => format!("{}: {shown}", names.len()),
            more => format!("{}: {shown} {}", names.len(), self.tongue().more(more)),
        }
    }

    /// Mails of the last 24 hours, one for each recipient, out of how many.
    pub fn budget(&self, used: u32, budget: u32) -> String {
        self.tongue().of_budget(used, budget)
    }

    /// Subject of a mail about many incidents.
    pub fn digest_subject(&self, incidents: usize) -> String {
        self.tongue().digest_subject(incidents)
    }

    /// What a mail about many incidents says above all.
    pub fn digest_headline(&self, incidents: usize, notices: usize) -> String {
        self.tongue().digest_headline(incidents, notices)
    }

    /// An incident in a mail about many: what happened, and why.
    pub fn digest_item(&self, notice: &Notice) -> [String; 2] {
        let incident = &notice.incident;
        let why = match incident.resolved_ms {
            Some(resolved_ms) => self.time(resolved_ms),
            None => self.what(incident, incident.explanation()),
        };
        [self.headline(notice), format!("{why} ({})", incident.id())]
    }

    /// What a chart shows: from the lowest to the highest value, and over what time.
    pub fn extent(&self, verdict: &Verdict, (low, high): (f64, f64), seconds: f64) -> String {
        let unit = verdict
            .quantity
            .and_then(|id| self.catalogue.get(id))
            .map_or("", |spec| spec.unit.as_str());
        let short = |x: f64| self.number((x * 100.0).round() / 100.0);
        let [low, high] = [low, high].map(|x| format!("{} {unit}", short(x)));
        let hours = self.span(seconds);
        self.tongue()
            .extent(low.trim_end(), high.trim_end(), &hours)
    }
}

#[cfg(test)]
pub(crate) mod tests;
